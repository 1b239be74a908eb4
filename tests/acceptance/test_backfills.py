"""Backfills and values on the real stack: rows of the past loaded again, once, whatever dies."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from connectors.column import Column
from runs.models import Backfill, Run
from runs.states import RunStatus
from tests.acceptance.conftest import ended, numbers
from tests.acceptance.product import wait_for

ROWS, SLICE = 12_000, 4_000


def publishing(run: Run) -> bool:
    run.refresh_from_db()
    return run.status == RunStatus.RUNNING and run.phase == "publishing"


def make_inserts_slow(cursor: Any, table: str) -> None:
    cursor.execute(
        f"""
        CREATE FUNCTION public.slow_{table}() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END';
        CREATE TRIGGER slow BEFORE INSERT ON public.{table} FOR EACH ROW EXECUTE FUNCTION public.slow_{table}();
        """
    )


def test_a_backfill_whose_worker_is_killed_in_the_middle_of_a_slice_leaves_each_row_once(
    product, make_pipeline, source_table, run_now, warehouse_cursor, api
):
    columns = [asdict(Column("id", "INT64")), asdict(Column("name", "STRING"))]
    new_rows = {"write_disposition": "append", "incremental": True, "cursor_column": "id"}
    pipeline = make_pipeline(source_table(numbers(ROWS)), source_columns=columns, **new_rows)
    target = f"public.{pipeline.target_table}"
    first = ended(run_now(pipeline))
    assert first.status == RunStatus.SUCCEEDED, first.error_message
    warehouse_cursor.execute(f"SELECT id, name FROM {target} ORDER BY id")
    whole = warehouse_cursor.fetchall()
    assert len(whole) == ROWS
    warehouse_cursor.execute(f"UPDATE {target} SET name = 'spoilt' WHERE id % 3 = 0")
    warehouse_cursor.execute(f"INSERT INTO {target} SELECT * FROM {target} WHERE id % 5 = 0")
    make_inserts_slow(warehouse_cursor, pipeline.target_table)

    wish = {"low": str(whole[0][0]), "high": "", "step": str(SLICE)}
    status, told = api("POST", f"pipelines/{pipeline.pk}/backfills/", wish)
    assert status == 201, told
    backfill = Backfill.objects.get(pk=told["id"])
    run = wait_for(lambda: Run.objects.filter(pipeline=pipeline, action="backfill").first(), saying="a slice runs")
    wait_for(lambda: publishing(run), every_s=0.01, saying="the slice is being published")
    pid = int(run.worker.rsplit(":", 1)[1])
    next(child for child in product.children() if child.pid == pid).kill()
    wait_for(lambda: run.attempts.filter(outcome="lost").exists(), saying="the loss is noticed")
    warehouse_cursor.execute(f"DROP TRIGGER slow ON {target}")

    wait_for(lambda: Backfill.objects.get(pk=backfill.pk).ended_at, limit_s=90, saying="the backfill ends")
    slices = Run.objects.filter(pipeline=pipeline, action="backfill").order_by("created_at")
    assert [(each.status, each.error_message) for each in slices] == [(RunStatus.SUCCEEDED, "")] * len(slices)
    warehouse_cursor.execute(f"SELECT id, name FROM {target} ORDER BY id")
    last = max(row[0] for row in whole)
    # A range ends before the watermark: the row that has it is not in one.
    assert [row for row in warehouse_cursor.fetchall() if row[0] != last] == [row for row in whole if row[0] != last]
    assert ended(run_now(pipeline)).rows == 0, "the watermark stayed where it was"


def test_a_run_with_values_writes_the_table_that_they_name(make_pipeline, source_table, warehouse_cursor, api):
    table = source_table(numbers(100))
    pipeline = make_pipeline(
        source_query=f"SELECT id, name, @data_interval_start AS since FROM {table} WHERE id < @most",
        parameters={"most": {"type": "INT64", "default": 10}},
        target_table="day_{data_interval_start:%Y%m%d}_{most}",
    )
    values = {
        "parameters": {"most": 7},
        "data_interval_start": "2026-03-01T00:00:00Z",
        "data_interval_end": "2026-03-02T00:00:00Z",
    }
    status, told = api("POST", f"pipelines/{pipeline.pk}/runs/", values)
    assert status == 201, told
    run = ended(Run.objects.get(pk=told["id"]))
    assert run.status == RunStatus.SUCCEEDED, run.error_message
    warehouse_cursor.execute("SELECT count(*), min(since)::date::text FROM public.day_20260301_7")
    assert warehouse_cursor.fetchone() == (7, "2026-03-01")
    status, told = api("POST", f"pipelines/{pipeline.pk}/runs/", {**values, "parameters": {"most": "seven"}})
    assert (status, list(told["fields"])) == (400, ["parameters.most"])
    warehouse_cursor.execute("DROP TABLE public.day_20260301_7")
