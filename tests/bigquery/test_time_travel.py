"""A table as it was: the same rows for a query and for a read session, whatever came after."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from google.api_core import exceptions
from google.cloud.bigquery import QueryJobConfig, ScalarQueryParameter, SchemaField

from tests.bigquery.conftest import PROJECT
from tests.emulator_tables import EVERY_TYPE, every_type_rows

UTC = dt.UTC
FIRST = dt.datetime(2024, 2, 28, 23, 59, 59, 999_998)
ROWS = 40


def moment(i: int) -> dt.datetime:
    """Some lie in the same second."""
    return FIRST + dt.timedelta(microseconds=i * 350_001)


# The column's value in row i, as a parameter and as BigQuery's SQL writes it.
CURSORS: dict[str, tuple[pa.DataType, Callable[[int], Any], Callable[[Any], str]]] = {
    "INT64": (pa.int64(), lambda i: 2**53 + i, str),
    "NUMERIC": (pa.decimal128(38, 9), lambda i: Decimal(f"{10**20}.{i:09d}"), lambda v: f"NUMERIC '{v}'"),
    "DATE": (pa.date32(), lambda i: FIRST.date() + dt.timedelta(i), lambda v: f"DATE '{v}'"),
    "DATETIME": (pa.timestamp("us"), moment, lambda v: f"DATETIME '{v.isoformat(sep=' ')}'"),
    "TIMESTAMP": (
        pa.timestamp("us", "UTC"),
        lambda i: moment(i).replace(tzinfo=UTC),
        lambda v: f"TIMESTAMP '{v.isoformat(sep=' ')}'",
    ),
}
SCHEMA = [SchemaField("id", "INT64"), *(SchemaField(kind.lower(), kind) for kind in CURSORS)]


def rows(start: int, stop: int) -> pa.Table:
    columns = {kind.lower(): pa.array(map(value, range(start, stop)), t) for kind, (t, value, _) in CURSORS.items()}
    return pa.table({"id": range(start, stop), **columns})


def now() -> dt.datetime:
    """A time between what was done before and what comes after."""
    time.sleep(0.002)
    moment = dt.datetime.now(UTC)
    time.sleep(0.002)
    return moment


@pytest.fixture
def grown(bigquery_tables, dataset) -> tuple[str, dt.datetime]:
    """A table that had ROWS rows and a NULL at the time given, and has others now."""
    name = f"{dataset}.grown"
    bigquery_tables.make(name, SCHEMA, rows(0, ROWS))
    bigquery_tables.run(f"INSERT INTO {name} (id) VALUES (-1)")
    then = now()
    bigquery_tables.append(name, rows(ROWS, ROWS + 10))
    bigquery_tables.run(f"DELETE FROM {name} WHERE id < 5")
    return name, then


def ask(client, sql: str, *parameters: ScalarQueryParameter, **settings) -> list[tuple[Any, ...]]:
    config = QueryJobConfig(query_parameters=parameters, **settings)
    job = client.query(sql, job_config=config, retry=None, job_retry=None, timeout=30)
    return [tuple(row.values()) for row in job.result(retry=None, job_retry=None, timeout=30)]


@pytest.mark.parametrize("kind", CURSORS)
def test_a_bound_is_read_as_of_a_time_given_as_a_parameter(bigquery_tables, grown, kind):
    name, then = grown
    _, value, _ = CURSORS[kind]
    column = kind.lower()
    low = ScalarQueryParameter("low", kind, value(9))
    sql = f"SELECT MAX({column}), COUNTIF({column} <= @low), COUNT(*) FROM `{name}`"
    travelled = f"{sql} FOR SYSTEM_TIME AS OF @snapshot"
    snapshot = ScalarQueryParameter("snapshot", "TIMESTAMP", then)
    assert ask(bigquery_tables.client, travelled, low, snapshot) == [(value(ROWS - 1), 10, ROWS + 1)]
    assert ask(bigquery_tables.client, sql, low) == [(value(ROWS + 9), 5, ROWS + 5)]


@pytest.mark.parametrize("kind", CURSORS)
@pytest.mark.parametrize("streams", [1, 3])
def test_a_range_is_read_from_a_session_as_of_a_time(bigquery, bigquery_tables, sessions, grown, kind, streams):
    name, then = grown
    _, value, literal = CURSORS[kind]
    column = kind.lower()
    bigquery.storage.small_bytes = 0
    restriction = f"{column} > {literal(value(9))} AND {column} <= {literal(value(ROWS + 4))}"
    for at, last in ((then, ROWS - 1), (None, ROWS + 4)):
        session = sessions.open(name, streams, at=at, row_restriction=restriction, selected_fields=["id"])
        assert len(session.streams) == streams
        assert sorted(row["id"] for row in sessions.rows(session)) == list(range(10, last + 1))


def test_a_range_of_several_columns_is_read(sessions, grown):
    name, then = grown
    session = sessions.open(name, at=then, row_restriction="`timestamp` IS NULL OR (`int64` = 1 OR id IN (3, 5))")
    assert sorted(row["id"] for row in sessions.rows(session)) == [-1, 3, 5]


def test_every_version_is_told_apart(bigquery_tables, dataset):
    name, client = f"{dataset}.versions", bigquery_tables.client
    bigquery_tables.make(name, SCHEMA)
    changes = [
        lambda: bigquery_tables.append(name, rows(0, 10)),
        lambda: bigquery_tables.run(f"DELETE FROM {name} WHERE id < 5"),
        lambda: client.insert_rows_json(f"{PROJECT}.{name}", [{"id": 77}], retry=None),
        lambda: bigquery_tables.run(f"TRUNCATE TABLE {name}"),
        lambda: bigquery_tables.run(f"CREATE OR REPLACE TABLE {name} AS SELECT 1 AS id"),
        lambda: bigquery_tables.run(f"UPDATE {name} SET id = 2 WHERE TRUE"),
    ]
    times = [now()]
    for change in changes:
        change()
        times.append(now())
    sql = (
        f"SELECT COUNT(*), MAX(x.id) FROM {PROJECT}.{name} AS x FOR SYSTEM_TIME AS OF TIMESTAMP_SUB(@t, INTERVAL 0 DAY)"
    )
    found = [ask(client, sql, ScalarQueryParameter("t", "TIMESTAMP", at))[0] for at in times]
    assert found == [(0, None), (10, 9), (5, 9), (6, 77), (0, None), (1, 1), (1, 2)]


def test_a_version_keeps_every_type(bigquery_tables, dataset):
    name = f"{dataset}.typed"
    bigquery_tables.make(name, EVERY_TYPE, every_type_rows())
    # Of GEOGRAPHY in the answer to a query the emulator says that it is BYTES.
    sql = f"SELECT * EXCEPT (geography), ST_ASTEXT(geography) AS wkt FROM {name}"
    before = bigquery_tables.run(f"{sql} ORDER BY id")
    then = now()
    bigquery_tables.run(f"TRUNCATE TABLE {name}")
    at = then.isoformat(sep=" ")
    assert bigquery_tables.run(f"{sql} FOR SYSTEM_TIME AS OF '{at}' ORDER BY id") == before
    assert len(before) == 3


def test_a_version_is_joined_with_another_table_and_with_itself(bigquery_tables, dataset, grown):
    name, then = grown
    other = f"{dataset}.other"
    bigquery_tables.make(other, [SchemaField("id", "INT64")], pa.table({"id": [2, 6]}))
    at = f"FOR SYSTEM_TIME AS OF TIMESTAMP '{then.isoformat(sep=' ')}'"
    found = bigquery_tables.run(
        f"WITH a AS (SELECT * FROM {name} {at})"
        f" SELECT a.id FROM a JOIN {name} AS b {at} USING (id) JOIN {other} USING (id)"
    )
    assert sorted(row["id"] for row in found) == [2, 6]


def test_the_job_keeps_the_words_of_its_query(bigquery_tables, grown):
    name, then = grown
    sql = f"SELECT id FROM {name} FOR SYSTEM_TIME AS OF TIMESTAMP '{then.isoformat(sep=' ')}'"
    job = bigquery_tables.client.query(sql, retry=None, job_retry=None, timeout=30)
    assert job.query == sql
    assert bigquery_tables.client.get_job(job.job_id).query == sql
    assert job.total_bytes_processed == (ROWS + 1) * 8
    dry = bigquery_tables.client.query(sql, job_config=QueryJobConfig(dry_run=True), retry=None, job_retry=None)
    assert (dry.query, dry.total_bytes_processed, dry.schema[0].field_type) == (sql, (ROWS + 1) * 8, "INTEGER")


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 1 DAY)", "evaluates to a TIMESTAMP value in the future"),
        ("TIMESTAMP '2024-01-01'", r"Invalid time travel timestamp 1704067200000 for table .* Cannot read before \d+"),
        ("CAST(NULL AS TIMESTAMP)", "evaluates to NULL"),
        ("'once'", "once"),
    ],
)
def test_a_time_that_cannot_be_read_is_refused(bigquery_tables, grown, at, words):
    with pytest.raises(exceptions.BadRequest, match=words):
        bigquery_tables.run(f"SELECT id FROM {grown[0]} FOR SYSTEM_TIME AS OF {at}")


def test_one_table_cannot_be_read_at_two_times(bigquery_tables, grown):
    name, then = grown
    at = f"FOR SYSTEM_TIME AS OF TIMESTAMP '{then.isoformat(sep=' ')}'"
    with pytest.raises(exceptions.BadRequest, match="more than one point in time"):
        bigquery_tables.run(f"SELECT a.id FROM {name} AS a {at} JOIN {name} AS b USING (id)")


def test_the_tables_of_a_dataset_are_listed(bigquery_tables, dataset, grown):
    listed = ask(
        bigquery_tables.client,
        f"SELECT column_name, data_type FROM `{PROJECT}.{dataset}`.INFORMATION_SCHEMA.COLUMNS"
        " WHERE table_name = @name ORDER BY ordinal_position",
        ScalarQueryParameter("name", "STRING", "grown"),
    )
    assert listed == [("id", "INT64"), *((kind.lower(), kind) for kind in CURSORS)]
