"""Masks and row filters, from a pipeline's definition to its table."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines import services
from pipelines.models import Connection, Pipeline
from runs import services as runs
from runs.models import RunAction, Trigger
from tests.connectors.columns.test_masking import KEY, tag
from tests.runs.test_executor import log_of, start

RULES = {"name": {"mask": "hmac", "name": "who"}}


@pytest.fixture
def masking(moving: Any) -> Pipeline:
    pipeline: Pipeline = moving()
    give_key(KEY)
    pipeline.column_rules = RULES
    services.save_pipeline(pipeline, schedules=None, by=None)
    return pipeline


def give_key(key: str) -> None:
    connection = Connection.objects.get(name="Warehouse")
    connection.secrets = {**connection.secrets, "mask_key": key}
    connection.save()


@pytest.mark.parametrize("load_method", ["direct", "staged"])
def test_rows_are_masked_with_the_key_of_the_connection(masking, work, warehouse_cursor, load_method):
    masking.load_method = load_method
    services.save_pipeline(masking, schedules=None, by=None)
    run = start(masking)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_message) == ("succeeded", "")
    warehouse_cursor.execute(f"SELECT id, who FROM public.{masking.target_table} ORDER BY id")
    assert warehouse_cursor.fetchall() == [(i, tag(f"row {i}")) for i in range(3)]
    assert "row 1" not in log_of(run) + str(run.receipt)
    assert KEY not in log_of(run) + str(run.receipt) + str(run.revision.definition)


def test_another_key_is_another_definition(masking, work, rows_of):
    def moved(action: RunAction = RunAction.LOAD) -> tuple[str, str]:
        run, _ = runs.request_run(masking, trigger=Trigger.MANUAL, by=None, action=action)
        work()
        run.refresh_from_db()
        return run.status, run.error_code

    assert moved() == ("succeeded", "")
    give_key(KEY[::-1])
    assert moved() == ("failed", "definition_changed")
    assert moved(RunAction.FULL_REFRESH) == ("succeeded", "")
    assert moved() == ("succeeded", "")
    assert rows_of(masking) == 6


def test_without_a_key_no_row_is_read(masking, work, script):
    give_key("")
    before, run = script.reads, start(masking)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code, script.reads) == ("failed", "mask_key", before)


def test_a_run_reads_by_the_filter_of_its_revision_and_another_is_another_definition(moving, work, script):
    pipeline = moving(row_filter="id > 1")
    start(pipeline)
    work()
    assert script.requests[-1].row_filter == "id > 1"
    pipeline.row_filter = ""
    services.save_pipeline(pipeline, schedules=None, by=None)
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert run.error_code == "definition_changed"
