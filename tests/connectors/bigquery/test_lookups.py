from __future__ import annotations

import time

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.bigquery import compare
from connectors.bigquery.client import Endpoints
from connectors.bigquery.schema import columns_of
from connectors.errors import ConnectorError, Unreachable
from connectors.reading import ReadRequest
from connectors.sides import ColumnDigest
from tests.connectors import digests
from tests.connectors.bigquery.conftest import PATIENCE_S, PROJECT
from tests.emulator_tables import EVERY_TYPE, every_type_rows

CLOSED = Endpoints("http://127.0.0.1:9", "127.0.0.1:9")


@pytest.fixture(scope="module")
def every(tables, dataset) -> str:
    tables.make(f"{dataset}.looked_at", EVERY_TYPE, every_type_rows())
    return f"{dataset}.looked_at"


def test_datasets_and_tables_are_listed(source, tables, dataset, every):
    tables.run(f"CREATE OR REPLACE VIEW {dataset}.looked_through AS SELECT id FROM {every}")
    assert dataset in source.datasets()
    kinds = {table.name: table.kind for table in source.tables(dataset)}
    assert (kinds["looked_at"], kinds["looked_through"]) == ("TABLE", "VIEW")
    assert [t.name for t in source.tables(dataset)] == sorted(kinds)


def test_a_table_is_described_without_reading_it(source, every):
    found = source.describe(ReadRequest(table=every))
    assert found.rows == 3
    assert [c.name for c in found.columns] == [f.name for f in EVERY_TYPE]
    assert next(c for c in found.columns if c.name == "string").description == "any text"


def test_a_query_is_described_by_a_dry_run(source, every):
    found = source.describe(ReadRequest(query=f"SELECT id, string FROM {every}"))
    assert [(c.name, c.type) for c in found.columns] == [("id", "INT64"), ("string", "STRING")]


def test_a_preview_shows_every_type_as_text(source, every):
    shown = source.preview(ReadRequest(table=every))
    first = dict(zip([c.name for c in shown.columns], shown.rows[0], strict=True))
    assert first["bool"] == "true"
    assert first["numeric"] == "1.5"
    assert first["bytes"] == "00ff4142"
    assert first["timestamp"] == "2024-02-29 12:30:15.123456+00:00"
    assert first["interval"] == "1-2 3 4:5:6.789"
    assert first["structs"] == '[{"x": 1, "y": "one"}, {"x": 2, "y": null}]'
    assert first["date_range"] == '{"start": "2024-01-01", "end": "2024-02-01"}'
    nulls = dict(zip([c.name for c in shown.columns], shown.rows[1], strict=True))
    assert nulls["string"] is None
    assert nulls["ints"] == "[]"
    extremes = dict(zip([c.name for c in shown.columns], shown.rows[2], strict=True))
    assert extremes["numeric"] == "99999999999999999999999999999.999999999"


def test_a_preview_of_a_query_stops_at_its_limit(source, tables, dataset):
    tables.make(f"{dataset}.rows", [SchemaField("id", "INT64")], pa.table({"id": range(1000)}))
    shown = source.preview(ReadRequest(query=f"SELECT id FROM {dataset}.rows -- all"), limit=20)
    assert len(shown.rows) == 20


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM {table} WHERE true",
        "DROP TABLE {table}",
        "CREATE TABLE {table}_too AS SELECT 1 AS id",
    ],
)
def test_a_preview_of_anything_but_a_select_is_refused_and_changes_nothing(source, tables, dataset, statement):
    name = f"{dataset}.kept"
    tables.make(name, [SchemaField("id", "INT64")], pa.table({"id": range(10)}))
    before = source.tables(dataset)
    with pytest.raises(ConnectorError) as failure:
        source.preview(ReadRequest(query=statement.format(table=name)))
    assert (failure.value.code, failure.value.field) == ("not_a_select", "query")
    assert source.tables(dataset) == before
    assert source.describe(ReadRequest(table=name)).rows == 10


def test_a_digest_counts_rows_and_nulls_and_sums_texts(source, every):
    columns = columns_of(EVERY_TYPE)
    found = digests.of_source(source, ReadRequest(table=every), columns)
    by_name = {c.name: c for c in found.columns}
    assert found.rows == 3
    # md5 of '1', '2', '3' begins with c4ca4238, c81e728d, eccbc87e
    assert by_name["id"] == ColumnDigest("id", 0, 0xC4CA4238 + 0xC81E728D + 0xECCBC87E)
    assert by_name["string"].nulls == 1
    assert by_name["json"] == ColumnDigest("json", 1, None)


def test_a_digest_of_many_columns_takes_several_queries(source, tables, dataset, monkeypatch):
    names = [f"c{i}" for i in range(7)]
    tables.make(
        f"{dataset}.wide",
        [SchemaField(n, "INT64") for n in names],
        pa.table({n: [i, None] for i, n in enumerate(names)}),
    )
    request = ReadRequest(table=f"{dataset}.wide")
    columns = source.describe(request).columns
    at_once = digests.of_source(source, request, columns)
    monkeypatch.setattr(compare, "COLUMNS_A_QUERY", 3)
    assert digests.of_source(source, request, columns) == at_once
    assert [c.name for c in at_once.columns] == names
    assert {c.nulls for c in at_once.columns} == {1}


def test_a_digest_of_a_query_that_ends_in_a_comment(source, every):
    request = ReadRequest(query=f"SELECT id FROM {every} -- all of it")
    assert digests.of_source(source, request, source.describe(request).columns).rows == 3


def test_the_connection_test_passes_in_readable_steps(source, every):
    results = list(source.check())
    assert [(r.name, r.passed) for r in results] == [
        ("Read the project and the key", True),
        ("Reach BigQuery", True),
        ("List datasets", True),
        ("Run a query job (dry run)", True),
        ("Open a Storage read session", True),
    ]


def test_the_connection_test_stops_at_a_malformed_key(connect):
    (result,) = connect(Endpoints(), key="{").check()
    assert (result.name, result.passed) == ("Read the project and the key", False)
    assert "not JSON" in result.detail


def test_a_project_in_which_nothing_is_visible_is_said(connect, endpoints):
    results = {r.name: r for r in connect(endpoints, project="some-other-project").check()}
    assert "None is visible" in results["List datasets"].detail
    assert results["Open a Storage read session"].passed is None


@pytest.mark.parametrize(
    "look",
    [
        lambda s: s.datasets(),
        lambda s: s.tables("sales"),
        lambda s: s.describe(ReadRequest(table="sales.orders")),
        lambda s: s.describe(ReadRequest(query="SELECT 1")),
        lambda s: s.preview(ReadRequest(table="sales.orders")),
        lambda s: s.plan(ReadRequest(table="sales.orders")),
        lambda s: s.plan(ReadRequest(query="SELECT 1")),
    ],
)
def test_a_closed_port_is_unreachable_before_the_limit(connect, look):
    begun = time.monotonic()
    with pytest.raises(Unreachable) as refusal:
        look(connect(CLOSED))
    assert time.monotonic() - begun < PATIENCE_S / 2
    assert refusal.value.code == "unreachable"
    assert "127.0.0.1:9" in refusal.value.message


def test_the_connection_test_says_that_nobody_answers(connect):
    results = list(connect(CLOSED).check())
    assert [(r.name, r.passed) for r in results] == [("Read the project and the key", True), ("Reach BigQuery", False)]


def test_a_closed_storage_port_is_unreachable_before_the_limit(connect, endpoints, every):
    begun = time.monotonic()
    with pytest.raises(Unreachable):
        connect(Endpoints(endpoints.rest, "127.0.0.1:9")).plan(ReadRequest(table=every))
    assert time.monotonic() - begun < PATIENCE_S / 2


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (ReadRequest(table="{d}.absent"), "table_not_found", "table"),
        (ReadRequest(table="absent_dataset.absent"), "table_not_found", "table"),
        (ReadRequest(table="orders"), "table_name", "table"),
        (ReadRequest(query="SELEC 1"), "invalid_query", "query"),
        (ReadRequest(query="SELECT * FROM absent_dataset.absent"), "dataset_not_found", "query"),
        (ReadRequest(query="DELETE FROM {d}.looked_at WHERE TRUE"), "not_a_select", "query"),
        (ReadRequest(query="SELECT 1; SELECT 2"), "not_a_select", "query"),
        (ReadRequest(query="DROP TABLE {d}.looked_at"), "not_a_select", "query"),
        (ReadRequest(query="CREATE TABLE {d}.x AS SELECT 1 AS a"), "not_a_select", "query"),
    ],
)
@pytest.mark.parametrize("how", ["describe", "plan"])
def test_what_cannot_be_read_is_refused_by_name(source, dataset, every, how, request_, code, field):
    asked = ReadRequest(request_.table.replace("{d}", dataset), request_.query.replace("{d}", dataset))
    with pytest.raises(ConnectorError) as refusal:
        getattr(source, how)(asked)
    assert (refusal.value.code, refusal.value.field) == (code, field)
    assert not refusal.value.transient
    assert refusal.value.message.endswith((".", "]")) or refusal.value.hint


def test_the_refusal_of_an_absent_table_names_it(source, dataset):
    with pytest.raises(ConnectorError) as refusal:
        source.plan(ReadRequest(table=f"{dataset}.absent"))
    assert refusal.value.message == f"Table {PROJECT}.{dataset}.absent was not found."
