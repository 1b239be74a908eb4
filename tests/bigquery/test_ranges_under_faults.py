"""Parts that are ranges, where sessions are lost and the table changes: opened again, they hold the same rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField, TimePartitioning

from connectors.base import NeverStop
from connectors.bigquery import ranges, streams
from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from connectors.errors import TransientError
from connectors.reading import Part, ReadPlan, ReadRequest
from tests.bigquery.conftest import PROJECT

ROWS = 5_000
SCHEMA = [SchemaField("id", "INT64", "REQUIRED"), SchemaField("day", "DATE")]
NEVER = NeverStop()


def made(first: int, rows: int = ROWS) -> pa.Table:
    start = datetime(2024, 1, 1, tzinfo=UTC).date()
    days = [None if i % 50 == 0 else start + timedelta(days=i // 500) for i in range(first, first + rows)]
    return pa.table({"id": pa.array(range(first, first + rows), pa.int64()), "day": days})


@pytest.fixture
def table(bigquery, bigquery_tables, dataset, monkeypatch) -> str:
    monkeypatch.setattr(streams, "REOPEN_WAIT_S", 0.02)
    monkeypatch.setattr(ranges, "PART_BYTES_LEAST", 1)
    bigquery_tables.make(f"{dataset}.spread", SCHEMA, made(0), partitioned=TimePartitioning("DAY", "day"))
    bigquery.storage.message_bytes = 1_000
    return f"{dataset}.spread"


@pytest.fixture
def plan(source, table) -> ReadPlan:
    plan = source.plan(ReadRequest(table=table), max_parts=2, spread=True)
    assert plan.outlives_session
    return plan


def elsewhere(bigquery, plan: ReadPlan) -> BigQuerySource:
    """What another process makes of the stored plan."""
    source = BigQuerySource(BigQueryOptions(PROJECT, "US", ""), endpoints=bigquery.endpoints, timeout_s=30.0)
    source.resume(ReadPlan.from_json(json.loads(json.dumps(plan.to_json()))))
    return source


def ids(source: BigQuerySource, part: Part, start: int = 0) -> list[int]:
    return [i for batch in source.read(part, start=start, stop=NEVER) for i in batch.column("id").to_pylist()]


def test_a_part_whose_session_is_lost_in_the_middle_is_opened_again_and_has_the_same_rows(bigquery, source, plan):
    part = plan.parts[0]
    stream = source.open_part(part, stop=NEVER)
    whole = ids(source, stream)
    assert len(whole) == part.rows
    bigquery.faults.inject("expired", "ReadRows", after_messages=2)
    had: list[int] = []
    with pytest.raises(TransientError) as lost:
        had.extend(i for batch in source.read(stream, stop=NEVER) for i in batch.column("id").to_pylist())
    assert lost.value.code == "session_lost"
    assert 0 < len(had) < len(whole)
    other = elsewhere(bigquery, plan)
    # Nobody reads on where that session was.
    with pytest.raises(TransientError) as lost:
        ids(other, stream, len(had))
    assert lost.value.code == "session_lost"
    again = other.open_part(part, stop=NEVER)
    assert again.id != stream.id
    assert sorted(ids(other, again)) == sorted(whole)
    other.close()


def test_ranges_are_read_as_the_table_was_when_the_plan_was_made(bigquery, bigquery_tables, source, table, plan):
    first = ids(source, source.open_part(plan.parts[0], stop=NEVER))
    bigquery_tables.run(f"DELETE FROM {table} WHERE MOD(id, 2) = 0")
    bigquery_tables.append(table, made(100_000))
    bigquery.storage.expire()
    other = elsewhere(bigquery, plan)
    found = [ids(other, other.open_part(part, stop=NEVER)) for part in plan.parts]
    assert sorted(found[0]) == sorted(first)
    assert sorted(i for part in found for i in part) == list(range(ROWS))
    other.close()


def test_an_opened_part_is_read_on_from_the_rows_that_were_had(bigquery, source, plan):
    stream = source.open_part(plan.parts[0], stop=NEVER)
    whole = ids(source, stream)
    other = elsewhere(bigquery, plan)
    bigquery.faults.inject("unavailable", "ReadRows", after_messages=1, times=2)
    assert ids(other, stream, 123) == whole[123:]
    assert bigquery.made("ReadRows")[-3].offset == 123
    other.close()


def test_the_streams_of_a_stored_plan_say_that_their_session_is_lost(bigquery, source, table):
    plan = source.plan(ReadRequest(table=table), max_parts=2)
    assert not plan.outlives_session
    bigquery.storage.expire()
    other = elsewhere(bigquery, plan)
    for part in plan.parts:
        with pytest.raises(TransientError) as lost:
            ids(other, other.open_part(part, stop=NEVER), 10)
        assert lost.value.code == "session_lost"
    other.close()
