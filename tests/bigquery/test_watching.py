"""What BigQuery's record of a table tells of changes."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.bigquery.client import Endpoints
from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from connectors.billing import Bill, Meter
from connectors.errors import ConnectorError
from connectors.reading import ReadRequest
from connectors.watching import SourceState, TableState
from tests.emulator_tables import EmulatorTables

ID = [SchemaField("id", "INT64")]


@pytest.fixture
def source(emulator):
    source = BigQuerySource(
        BigQueryOptions(project="demo-project"), endpoints=Endpoints(emulator["rest"], emulator["storage"])
    )
    yield source
    source.close()


def test_rows_that_are_added_change_the_record(source, emulator):
    tables = EmulatorTables(emulator["rest"])
    tables.make("watching.orders", ID, pa.table({"id": [1, 2]}))
    first, again = source.look("watching.orders"), source.look("demo-project.watching.orders")
    assert first.fingerprint == again.fingerprint
    assert first.rows == 2
    tables.append("watching.orders", pa.table({"id": [3]}))
    later = source.look("watching.orders")
    assert later.rows == 3
    assert later.fingerprint != first.fingerprint


def test_what_is_no_table_is_said_to_tell_nothing(source, emulator):
    tables = EmulatorTables(emulator["rest"])
    tables.make("watching.order1", ID, pa.table({"id": [1]}))
    tables.run("CREATE OR REPLACE VIEW watching.seen AS SELECT id FROM watching.order1")
    for name, kind in (("watching.seen", "a view"), ("watching.order*", "a wildcard")):
        with pytest.raises(ConnectorError, match=kind) as error:
            source.look(name)
        assert error.value.code == "watch_unsupported"


def test_a_table_that_is_gone_is_said_to_be(source, emulator):
    EmulatorTables(emulator["rest"]).make("watching.others", ID)
    with pytest.raises(ConnectorError) as error:
        source.look("watching.nowhere")
    assert error.value.code == "table_not_found"


# What is behind a read ------------------------------------------------------------------------


@pytest.fixture
def behaving(bigquery, bigquery_tables, dataset):
    """A source whose dry runs name the tables behind a query, as BigQuery's do."""
    for name in ("seas", "ships"):
        bigquery_tables.make(f"{dataset}.{name}", ID, pa.table({"id": [1]}))
    bigquery_tables.run(f"CREATE OR REPLACE VIEW {dataset}.seen AS SELECT id FROM {dataset}.seas")
    source = BigQuerySource(BigQueryOptions(project="demo-project"), endpoints=bigquery.endpoints, timeout_s=30.0)
    yield source
    source.close()


@pytest.mark.parametrize(
    ("table", "query", "tables"),
    [
        ("{}.ships", "", ["ships"]),
        ("{}.seen", "", ["seas"]),
        ("", "SELECT s.id FROM {0}.seen AS s JOIN {0}.ships USING (id)", ["seas", "ships"]),
    ],
    ids=["table", "view", "query"],
)
def test_a_dry_run_names_the_tables_behind_a_view_and_a_query(behaving, dataset, table, query, tables):
    request = ReadRequest(table=table.format(dataset), query=query.format(dataset))
    assert behaving.tables_behind(request) == tuple(f"demo-project.{dataset}.{name}" for name in tables)


def test_tables_together_change_when_one_does_and_a_buffer_is_told_apart(behaving, bigquery_tables, dataset):
    def state() -> SourceState:
        return SourceState.of((name, behaving.look(f"{dataset}.{name}")) for name in ("seas", "ships"))

    before = state()
    assert before == state()
    bigquery_tables.run(f"INSERT INTO {dataset}.ships VALUES (2)")
    assert state().record != before.record
    streamed = TableState(None, 1, 1, "now 5 rows")
    assert SourceState.of([("a", streamed)]).record == SourceState.of([("a", replace(streamed, streaming=""))]).record
    assert SourceState.of([("a", streamed)]).streaming


def test_looks_and_dry_runs_cost_nothing(behaving, bigquery, dataset):
    behaving.meter = Meter()
    behaving.look(f"{dataset}.seas")
    before, jobs = len(bigquery.calls), bigquery.jobs.run
    for _ in range(3):
        behaving.look(f"{dataset}.seas")
    looks = [(call.side, call.method, call.target.rpartition("/")[2]) for call in bigquery.calls[before:]]
    assert looks == [("rest", "GET", "seas")] * 3
    behaving.tables_behind(ReadRequest(query=f"SELECT * FROM {dataset}.seen"))
    assert bigquery.jobs.run == jobs
    assert behaving.meter.bill == Bill()
