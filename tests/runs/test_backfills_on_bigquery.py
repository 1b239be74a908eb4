"""Backfills and parameters through everything: BigQuery's emulator, the executor, a real destination."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.column import Column
from pipelines import services as definitions
from pipelines.models import Connection, Pipeline
from runs import services
from runs.backfill_plans import Wish, plan
from runs.models import Run, Trigger
from runs.states import RunStatus
from tests.emulator_tables import EmulatorTables

SCHEMA = (SchemaField("id", "INT64"), SchemaField("country", "STRING"), SchemaField("at", "TIMESTAMP"))
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def lake(emulator):
    """A table of the emulator's that holds a row every six hours of ten days."""
    tables = EmulatorTables(emulator["rest"], "demo-project")
    name = f"fill_{uuid.uuid4().hex[:8]}.events"

    def make(country: str, days: range = range(10)) -> str:
        at = [START + timedelta(days=day, hours=6 * n) for day in days for n in range(4)]
        ids = [int((moment - START).total_seconds()) // 21600 for moment in at]
        columns = {"id": ids, "country": [country] * len(ids), "at": pa.array(at, pa.timestamp("us", "UTC"))}
        tables.make(name, SCHEMA, pa.table(columns))
        return name

    yield make
    tables.close()


@pytest.fixture
def pipeline_of(moving):
    """`moving` cleans up at the destination; this one reads from the emulator."""

    def make(**changes) -> Pipeline:
        pipeline = moving(**{"target_table": f"filled_{uuid.uuid4().hex[:8]}", **changes})
        pipeline.source, _ = Connection.objects.get_or_create(
            name="Lake", kind="bigquery", defaults={"options": {"project": "demo-project"}}
        )
        return pipeline

    return make


def rows(warehouse_cursor, table: str) -> list[tuple]:
    warehouse_cursor.execute(f"SELECT country, count(*), count(DISTINCT id) FROM public.{table} GROUP BY 1 ORDER BY 1")
    return warehouse_cursor.fetchall()


@pytest.mark.parametrize("load_method", ["direct", "staged"])
def test_a_cursor_is_filled_in_slice_by_slice(lake, pipeline_of, work, warehouse_cursor, load_method):
    pipeline = pipeline_of(write_disposition="append", load_method=load_method)
    pipeline.source_table = lake("before")
    pipeline.incremental, pipeline.cursor_column, pipeline.settle = True, "at", 0
    pipeline.source_columns = [asdict(Column("id", "INT64")), asdict(Column("at", "TIMESTAMP"))]
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    Pipeline.objects.filter(pk=pipeline.pk).update(source_columns=pipeline.source_columns)
    first, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=None)
    work()
    first.refresh_from_db()
    assert first.status == RunStatus.SUCCEEDED, first.error_message
    assert rows(warehouse_cursor, pipeline.target_table) == [("before", 40, 40)]
    lake("after")
    pipeline.refresh_from_db()
    backfill = services.start_backfill(pipeline, plan(pipeline, Wish("2026-01-03", "2026-01-06")), by=None)
    work()
    backfill.refresh_from_db()
    assert (backfill.state, backfill.slices.filter(status="succeeded").count()) == ("ended", 3)
    assert rows(warehouse_cursor, pipeline.target_table) == [("after", 12, 12), ("before", 28, 28)]
    live, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=None)
    work()
    live.refresh_from_db()
    assert (live.status, live.rows) == (RunStatus.SUCCEEDED, 0)  # the watermark stayed where it was
    receipt = Run.objects.filter(trigger=Trigger.BACKFILL).first().receipt
    assert (receipt["changes"]["deleted"], receipt["watermark_after"]) == (4, "2026-01-10 18:00:00+00:00")


def test_each_interval_has_its_table_and_parameters_reach_the_query(lake, pipeline_of, work, warehouse_cursor):
    table = f"daily_{uuid.uuid4().hex[:6]}"
    pipeline = pipeline_of(write_disposition="replace", target_table=f"{table}_{{data_interval_start:%Y%m%d}}")
    name = lake("DE")
    pipeline.source_table, pipeline.source_query = (
        "",
        (
            f"SELECT id, CONCAT(country, @suffix) AS country, at FROM {name}"
            " WHERE at >= @data_interval_start AND at < @data_interval_end"
        ),
    )
    pipeline.parameters = {"suffix": {"type": "STRING", "default": "'"}}
    definitions.save_pipeline(pipeline, schedules=None, by=None)
    wish = Wish("2026-01-01", "2026-01-04", parameters={"suffix": "' OR 1=1 --"})
    backfill = services.start_backfill(pipeline, plan(pipeline, wish), by=None)
    work()
    backfill.refresh_from_db()
    assert backfill.state == "ended"
    for day in (1, 2, 3):
        assert rows(warehouse_cursor, f"{table}_2026010{day}") == [("DE' OR 1=1 --", 4, 4)]
        warehouse_cursor.execute(f"DROP TABLE {table}_2026010{day}")
