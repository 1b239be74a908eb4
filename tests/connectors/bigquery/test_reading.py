from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.base import NeverStop
from connectors.bigquery.client import Endpoints
from connectors.reading import ReadRequest
from tests.connectors.bigquery.conftest import PROJECT, read_all
from tests.emulator_tables import EVERY_TYPE, every_type_rows

ID = [SchemaField("id", "INT64", "REQUIRED")]


@pytest.fixture(scope="module")
def every(tables, dataset) -> str:
    tables.make(f"{dataset}.every", EVERY_TYPE, every_type_rows())
    return f"{dataset}.every"


@pytest.fixture(scope="module")
def many(tables, dataset) -> str:
    schema = [*ID, SchemaField("text", "STRING")]
    rows = pa.table({"id": range(300_000), "text": [f"row {i}" for i in range(300_000)]})
    tables.make(f"{dataset}.many", schema, rows)
    return f"{dataset}.many"


@pytest.fixture
def only_rest(connect, endpoints):
    return connect(Endpoints(endpoints.rest))


def test_a_table_is_read_in_several_parts_each_row_once(source, many):
    plan = source.plan(ReadRequest(table=many), max_parts=4)
    assert len(plan.parts) == 4
    assert plan.estimated_rows == 300_000
    assert plan.warnings == ()
    ids = [row["id"] for row in read_all(source, plan.parts)]
    assert sorted(ids) == list(range(300_000))


def test_one_part_is_one_stream(source, many):
    assert len(source.plan(ReadRequest(table=many), max_parts=1).parts) == 1


def test_a_plan_says_what_it_fixed(source, many):
    before = dt.datetime.now(dt.UTC)
    plan = source.plan(ReadRequest(table=f"{PROJECT}.{many}"))
    assert before <= plan.snapshot_time <= dt.datetime.now(dt.UTC)
    assert [(c.name, c.type, c.required) for c in plan.columns] == [("id", "INT64", True), ("text", "STRING", False)]
    assert plan.facts["table"] == f"{PROJECT}.{many}"
    assert plan.facts["session"].startswith(f"projects/{PROJECT}/")


def test_an_empty_table_has_no_parts(source, tables, dataset):
    tables.make(f"{dataset}.empty", ID)
    plan = source.plan(ReadRequest(table=f"{dataset}.empty"))
    assert plan.parts == ()
    assert plan.columns


def test_every_type_arrives_as_the_type_table_says(source, every):
    plan = source.plan(ReadRequest(table=every))
    (batch,) = [batch for part in plan.parts for batch in source.read(part, stop=NeverStop())]
    types = {name: str(batch.schema.field(name).type) for name in batch.schema.names}
    assert types["numeric"] == "decimal128(38, 9)"
    assert types["time"] == "time64[us]"
    assert types["datetime"] == "timestamp[us]"
    assert types["timestamp"] == "timestamp[us, tz=UTC]"
    assert types["interval"] == "month_day_nano_interval"
    assert types["date_range"] == "struct<start: date32[day], end: date32[day]>"
    assert types["geography"] == "string"
    row = batch.to_pylist()[0]
    assert row["string"] == 'héllo, "wörld"\n'
    assert row["structs"] == [{"x": 1, "y": "one"}, {"x": 2, "y": None}]


def test_pages_give_the_same_values_as_streams(source, only_rest, every):
    request = ReadRequest(table=every)
    streamed = read_all(source, source.plan(request).parts)
    paged = read_all(only_rest, only_rest.plan(request).parts)
    # The emulator streams binary geography where BigQuery streams text, and its pages lose an interval's sign.
    for rows in (streamed, paged):
        for row in rows:
            del row["geography"]
        rows[2].pop("interval")
    assert paged == streamed


def test_binary_geography_of_an_emulator_reads_as_hexadecimal_text(source, every):
    rows = read_all(source, source.plan(ReadRequest(table=every)).parts)
    assert rows[0]["geography"] == "0101000000" + "000000000000f03f" + "0000000000000040"
    assert rows[1]["geography"] is None
    assert rows[2]["geography"].startswith("0102000000")


def test_without_the_storage_api_pages_are_read_and_the_log_warns(only_rest, tables, dataset):
    tables.make(f"{dataset}.paged", ID, pa.table({"id": range(45_000)}))
    plan = only_rest.plan(ReadRequest(table=f"{dataset}.paged"))
    assert "Storage Read API cannot be used" in plan.warnings[0]
    assert [row["id"] for row in read_all(only_rest, plan.parts)] == list(range(45_000))
    (part,) = plan.parts
    assert next(only_rest.read(part, start=44_000, stop=NeverStop())).column("id")[0].as_py() == 44_000


def test_a_query_is_run_and_its_result_read(source, many):
    request = ReadRequest(
        query=f"SELECT id, id * 2 AS twice FROM {many} WHERE id < 25000 -- the first", job_key="run/1"
    )
    plan = source.plan(request)
    assert [c.name for c in plan.columns] == ["id", "twice"]
    assert plan.estimated_rows == 25_000
    assert plan.facts["job"].startswith("datamantri_run_1_")
    rows = read_all(source, plan.parts)
    assert sorted(row["twice"] for row in rows) == list(range(0, 50_000, 2))


def test_a_query_without_rows_has_no_parts(source, many):
    plan = source.plan(ReadRequest(query=f"SELECT id FROM {many} WHERE id < 0"))
    assert plan.parts == ()
    assert [c.name for c in plan.columns] == ["id"]


def test_a_view_is_read_with_a_query_and_the_log_says_so(source, tables, dataset, many):
    tables.run(f"CREATE OR REPLACE VIEW {dataset}.some AS SELECT id FROM {many} WHERE id < 10")
    plan = source.plan(ReadRequest(table=f"{dataset}.some"))
    assert any("not a plain table" in warning for warning in plan.warnings)
    assert sorted(row["id"] for row in read_all(source, plan.parts)) == list(range(10))
