"""Google's own REST client: bytes, limits, names of jobs, changes."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest
from google.api_core import exceptions
from google.cloud.bigquery import QueryJobConfig, SchemaField

from connectors.errors import ConnectorError
from connectors.reading import ReadRequest
from tests.bigquery.conftest import PROJECT
from tests.bigquery.sizes import MIB
from tests.emulator_tables import EVERY_TYPE, every_type_rows

SCHEMA = [SchemaField("id", "INT64", "REQUIRED"), SchemaField("text", "STRING")]
IDS, TEXTS = 10 * 8, 5 * (2 + 4)  # ten ids, five texts of four letters, five nulls


@pytest.fixture
def client(bigquery_tables):
    return bigquery_tables.client


@pytest.fixture
def table(bigquery_tables, dataset) -> str:
    texts = ["four" if i % 2 else None for i in range(10)]
    bigquery_tables.make(f"{dataset}.small", SCHEMA, pa.table({"id": range(10), "text": texts}))
    return f"{dataset}.small"


@pytest.fixture
def big(bigquery_tables, dataset) -> str:
    """About 12 MB: more than what a query is billed at least."""
    rows = pa.table({"id": range(12_000), "text": ["x" * 1000] * 12_000})
    bigquery_tables.make(f"{dataset}.big", SCHEMA, rows)
    return f"{dataset}.big"


def run(client, sql, **settings):
    config = QueryJobConfig(**settings)
    return client.query(sql, job_config=config, retry=None, job_retry=None, timeout=30)


def result(client, sql, **settings):
    job = run(client, sql, **settings)
    job.result(retry=None, job_retry=None, timeout=30)
    return job


@pytest.mark.parametrize(
    ("query", "size"),
    [
        ("SELECT id FROM {}", IDS),
        ("SELECT * FROM {}", IDS + TEXTS),
        ("SELECT COUNT(*) AS n FROM {}", 0),
        ("SELECT id FROM {} WHERE text IS NULL", IDS + TEXTS),
        ("SELECT a.text FROM `demo-project.{}` AS a WHERE EXISTS (SELECT 1 FROM {} AS b WHERE b.TEXT > '')", TEXTS),
        ("WITH a AS (SELECT * FROM {}) SELECT id FROM a JOIN `demo-project`.{} AS b USING (id)", IDS),
        ("SELECT TO_JSON_STRING(t) AS json FROM {} AS t", IDS + TEXTS),
        ("SELECT 1", 0),
        ("DELETE FROM {} WHERE TRUE", IDS + TEXTS),
    ],
)
def test_a_dry_run_tells_the_bytes_of_the_columns_it_reads(client, table, query, size):
    assert run(client, query.replace("{}", table), dry_run=True).total_bytes_processed == size


def test_a_dry_run_tells_the_bytes_behind_a_view(client, bigquery_tables, dataset, table):
    bigquery_tables.run(f"CREATE OR REPLACE VIEW {dataset}.seen AS SELECT id FROM {table}")
    assert run(client, f"SELECT * FROM {dataset}.seen", dry_run=True).total_bytes_processed == IDS + TEXTS


def test_every_type_has_its_size(client, bigquery_tables, dataset):
    bigquery_tables.make(f"{dataset}.sized", EVERY_TYPE, every_type_rows().slice(1, 1))
    # The row of nulls: its id, an empty text of two bytes in the lists, and two structs.
    row_of_nulls = run(client, f"SELECT * FROM {dataset}.sized", dry_run=True).total_bytes_processed
    assert row_of_nulls == 8
    assert client.get_table(f"{PROJECT}.{dataset}.sized").num_bytes == 8


def test_a_job_tells_what_it_read_and_what_is_billed(client, big):
    size = 12_000 * (2 + 1000)
    job = result(client, f"SELECT MAX(text) AS m FROM {big}")
    assert job.total_bytes_processed == size
    assert job.total_bytes_billed == -(-size // MIB) * MIB
    assert (job.cache_hit, job.statement_type) == (False, "SELECT")
    assert client.get_job(job.job_id).total_bytes_billed == job.total_bytes_billed


def test_the_same_query_comes_from_the_cache_until_its_table_changes(client, bigquery_tables, table):
    sql = f"SELECT MAX(id) AS m FROM {table}"
    assert result(client, sql).cache_hit is False
    again = result(client, sql)
    assert (again.cache_hit, again.total_bytes_billed) == (True, 0)
    assert result(client, sql, use_query_cache=False).cache_hit is False
    bigquery_tables.run(f"INSERT INTO {table} (id) VALUES (11)")
    changed = result(client, sql)
    assert (changed.cache_hit, changed.total_bytes_billed) == (False, 10 * MIB)


def test_a_query_beyond_its_limit_of_bytes_fails_and_is_not_run(client, bigquery_tables, table):
    job = run(client, f"DELETE FROM {table} WHERE TRUE", maximum_bytes_billed=MIB)
    assert job.error_result["reason"] == "bytesBilledLimitExceeded"
    assert job.error_result["message"] == (
        f"Query exceeded limit for bytes billed: {MIB}. {10 * MIB} or higher required."
    )
    assert len(bigquery_tables.run(f"SELECT id FROM {table}")) == 10
    assert result(client, f"SELECT text FROM {table}", maximum_bytes_billed=10 * MIB).total_bytes_billed == 10 * MIB


def test_our_source_says_that_the_limit_is_too_low(source, big):
    with pytest.raises(ConnectorError) as refused:
        source.plan(ReadRequest(query=f"SELECT * FROM {big}", maximum_bytes_billed=MIB))
    assert refused.value.code == "bytes_billed_limit"


def test_a_limit_that_is_no_number_is_refused(client, table):
    with pytest.raises(exceptions.BadRequest, match="TYPE_INT64"):
        run(client, f"SELECT id FROM {table}", maximum_bytes_billed=None)


def test_a_name_of_a_job_is_used_once(client, bigquery, table):
    name = f"once_{time.time_ns()}"
    ask = {"job_id": name, "retry": None, "job_retry": None, "timeout": 30}
    client.query(f"INSERT INTO {table} (id) VALUES (77)", **ask)
    with pytest.raises(exceptions.Conflict, match=rf"Already Exists: Job {PROJECT}:US\.{name}"):
        client.query(f"INSERT INTO {table} (id) VALUES (77)", **ask)
    assert client.get_table(f"{PROJECT}.{table}").num_rows == 11


def test_a_change_moves_the_time_of_last_change(client, bigquery_tables, table):
    def modified():
        return client.get_table(f"{PROJECT}.{table}").modified

    changes = [
        lambda: bigquery_tables.append(table, pa.table({"id": [20], "text": ["b"]})),
        lambda: bigquery_tables.run(f"UPDATE {table} SET text = 'c' WHERE id = 20"),
        lambda: client.insert_rows_json(f"{PROJECT}.{table}", [{"id": 21}], retry=None),
        lambda: bigquery_tables.run(
            f"MERGE {table} AS t USING (SELECT 22 AS id) AS s ON t.id = s.id"
            " WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)"
        ),
    ]
    for change in changes:
        before = modified()
        assert modified() == before
        bigquery_tables.run(f"SELECT COUNT(*) AS n FROM {table}")
        assert modified() == before
        time.sleep(0.005)
        change()
        assert modified() > before


def test_a_dry_run_of_a_change_changes_nothing(client, table):
    before = client.get_table(f"{PROJECT}.{table}").modified
    job = run(client, f"DELETE FROM {table} WHERE TRUE", dry_run=True)
    assert (job.statement_type, job.total_bytes_processed) == ("DELETE", IDS + TEXTS)
    assert client.get_table(f"{PROJECT}.{table}").modified == before
