"""Runs that wait while their pipeline is changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from connectors.column import column_from_json
from pipelines import drift
from pipelines import services as definitions
from pipelines.models import Pipeline, PipelineState
from pipelines.specs import ScheduleSpec
from runs import services
from runs.models import CostApproval, Ledger, Run, RunAction, Trigger
from runs.services import approving
from runs.states import RunStatus

pytestmark = pytest.mark.django_db

TOLD = {"estimated_query_bytes": 5, "estimated_storage_bytes": 20}
COUNTRY = {"country": {"type": "STRING", "default": "FR"}}
REGION = {"region": {"type": "STRING", "default": "EMEA"}}
BY_COUNTRY = {"source_table": "", "source_query": "SELECT * FROM d.t WHERE country = @country", "parameters": COUNTRY}
BY_DAY = {
    "source_table": "",
    "source_query": "SELECT * FROM d.t WHERE at >= @data_interval_start AND at < @data_interval_end",
}
DE = {"action_options": {"parameters": {"country": "DE"}}}
DAY = {
    "data_interval_start": datetime(2026, 3, 1, tzinfo=UTC),
    "data_interval_end": datetime(2026, 3, 2, tzinfo=UTC),
}
MASK = {"column_rules": {"email": {"mask": "redact"}}}
NEW_ROWS = {"incremental": True, "cursor_column": "id", "source_columns": [{"name": "id", "type": "INT64"}]}


def change(pipeline: Pipeline, **values: Any) -> None:
    for name, value in values.items():
        setattr(pipeline, name, value)
    definitions.save_pipeline(pipeline, schedules=None, by=None)


def goes_by(run: Run) -> int:
    run.refresh_from_db()
    return run.revision.number


@pytest.mark.parametrize(
    ("values", "follows"),
    [
        ({}, True),
        ({"status": RunStatus.BLOCKED}, True),
        ({"status": RunStatus.HELD, "error_code": "over_budget", **TOLD}, True),
        # Nobody can tell what it costs: whoever approves that must see what it is of.
        ({"status": RunStatus.HELD, "error_code": "over_budget", **TOLD, "estimated_storage_bytes": None}, False),
        ({"status": RunStatus.HELD, "error_code": "check_failed"}, False),
        ({"status": RunStatus.RETRYING}, False),
        ({"status": RunStatus.SUCCEEDED}, False),
        ({"action": RunAction.FULL_REFRESH}, False),
    ],
)
def test_a_load_that_has_not_begun_goes_by_the_mask_that_was_just_saved(
    queue: Callable[..., Run], values: dict[str, Any], follows: bool
) -> None:
    run = queue(**values)
    change(run.pipeline, column_rules={"email": {"mask": "redact"}})
    run.refresh_from_db()
    assert (run.revision_id == run.pipeline.revision_id) == follows


@pytest.mark.parametrize("status", [{}, {"status": RunStatus.HELD, "error_code": "over_budget", **TOLD}])
def test_a_load_with_values_that_are_no_longer_declared_stays_at_whatever_is_saved_later(
    make_pipeline: Callable[..., Pipeline], queue: Callable[..., Run], status: dict[str, Any]
) -> None:
    run = queue(make_pipeline(**BY_COUNTRY), **DE, **status)
    other = {"source_query": "SELECT * FROM d.t WHERE region = @region", "parameters": REGION}
    change(run.pipeline, **other)
    assert goes_by(run) == 1
    change(run.pipeline, **MASK)
    assert goes_by(run) == 1
    change(run.pipeline, **BY_COUNTRY)  # it may again
    assert goes_by(run) == 4


def test_a_load_that_was_given_nothing_goes_by_new_defaults_and_by_a_mask_that_comes_later(
    make_pipeline: Callable[..., Pipeline], queue: Callable[..., Run]
) -> None:
    run = queue(make_pipeline(**BY_COUNTRY))
    change(run.pipeline, source_query="SELECT * FROM d.t WHERE region = @region", parameters=REGION)
    change(run.pipeline, **MASK)
    assert goes_by(run) == 3


def test_a_load_with_values_follows_what_does_not_concern_them(
    make_pipeline: Callable[..., Pipeline], queue: Callable[..., Run]
) -> None:
    run = queue(make_pipeline(**BY_COUNTRY, write_disposition="append", **NEW_ROWS), **DE)  # as nobody is let today
    change(run.pipeline, **MASK)
    assert goes_by(run) == 2


def test_a_value_that_would_be_another_one_stays(
    make_pipeline: Callable[..., Pipeline], queue: Callable[..., Run]
) -> None:
    run = queue(make_pipeline(**BY_COUNTRY), action_options={"parameters": {"country": "7"}})
    change(run.pipeline, parameters={"country": {"type": "INT64"}})
    assert goes_by(run) == 1


def test_rows_that_a_value_chose_set_no_watermark_of_a_pipeline_that_reads_only_new_ones_by_now(
    make_pipeline: Callable[..., Pipeline], queue: Callable[..., Run]
) -> None:
    pipeline = make_pipeline(**BY_COUNTRY, write_disposition="append")
    chosen, plain = queue(pipeline, **DE), queue(pipeline)
    change(pipeline, **NEW_ROWS)
    assert (goes_by(chosen), goes_by(plain)) == (1, 2)


@pytest.mark.parametrize("trigger", [Trigger.MANUAL, Trigger.SCHEDULE])
def test_an_interval_that_is_loaded_is_not_appended_by_what_was_to_replace(
    make_pipeline: Callable[..., Pipeline], queue: Callable[..., Run], trigger: Trigger
) -> None:
    pipeline = make_pipeline(**BY_DAY, write_disposition="replace")
    queue(pipeline, **DAY, status=RunStatus.SUCCEEDED)
    again = queue(pipeline, **DAY)
    next_day = {"data_interval_start": DAY["data_interval_end"], "data_interval_end": datetime(2026, 3, 3, tzinfo=UTC)}
    new = queue(pipeline, **next_day)
    Run.objects.filter(pk__in=[again.pk, new.pk]).update(trigger=trigger)
    change(pipeline, write_disposition="append")
    assert (goes_by(again), goes_by(new)) == (1, 2)


def test_a_second_load_that_somebody_confirmed_follows_a_mask(
    make_pipeline: Callable[..., Pipeline], queue: Callable[..., Run]
) -> None:
    pipeline = make_pipeline(**BY_DAY, write_disposition="append")
    queue(pipeline, **DAY, status=RunStatus.SUCCEEDED)
    again = queue(pipeline, **DAY)
    change(pipeline, **MASK)
    assert goes_by(again) == 2


def test_a_load_without_an_interval_has_that_of_the_last_tick_once_its_query_asks_for_one(
    make_pipeline: Callable[..., Pipeline], queue: Callable[..., Run]
) -> None:
    pipeline = make_pipeline(schedules=[ScheduleSpec("cron", "0 0 * * *", "UTC")])
    run = queue(pipeline)
    change(pipeline, **BY_DAY)
    assert goes_by(run) == 2
    assert run.data_interval_end is not None


@pytest.mark.parametrize("edit", [MASK, {"write_disposition": "append"}, {"parameters": COUNTRY}])
def test_a_save_takes_as_many_statements_for_many_runs_that_wait_as_for_one(
    make_pipeline: Callable[..., Pipeline], queue: Callable[..., Run], edit: dict[str, Any]
) -> None:
    needed = []
    for number in (1, 20):
        pipeline = make_pipeline(f"Of {number}", write_disposition="replace")
        runs = [queue(pipeline, **DAY) for _ in range(number)]
        with CaptureQueriesContext(connection) as queries:
            change(pipeline, **edit)
        needed.append(len(queries))
        assert {goes_by(run) for run in runs} == {2}
    assert needed[0] == needed[1]


# Locks


def waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock')"
        )
        return bool(cursor.fetchone()[0])


def eventually(is_so: Callable[[], bool]) -> bool:
    until = time.monotonic() + 20
    while not is_so():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.django_db(transaction=True)
def test_a_cost_is_approved_while_its_pipeline_is_saved(
    queue: Callable[..., Run], operator: User, at_once: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = queue(status=RunStatus.HELD, error_code="over_budget", **TOLD)
    locked = threading.Event()
    catch_up = approving.catch_up

    def once_the_save_waits_for_this_run(held: Run) -> bool:
        locked.set()
        assert eventually(waits_for_a_lock)
        return catch_up(held)

    monkeypatch.setattr(approving, "catch_up", once_the_save_waits_for_this_run)

    def do(number: int) -> None:
        if number:
            assert locked.wait(20)
            change(Pipeline.objects.get(pk=run.pipeline_id), **MASK)
        else:
            services.approve_cost(run, by=operator)

    assert at_once(do) == [None, None]
    assert CostApproval.objects.get().run == run


@pytest.mark.django_db(transaction=True)
def test_runs_of_a_pipeline_end_while_it_is_changed(
    make_pipeline: Callable[..., Pipeline], queue: Callable[..., Run], at_once: Callable[..., list[Any]]
) -> None:
    columns = [{"name": "id", "type": "INT64"}]
    pipeline = make_pipeline(source_columns=columns)
    taken = [column_from_json({"name": name, "type": "INT64", "columns": ()}) for name in ("id", "more")]
    many = Pipeline.objects.filter(pk=pipeline.pk)

    def bill(day: int) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '1s'")
            Ledger.objects.create(pipeline=pipeline, day=datetime(2026, 3, day), action="load")

    changes: list[Callable[[], Any]] = [
        lambda: change(pipeline, **MASK),
        lambda: drift.follow(pipeline.pk, pipeline.revision.definition, taken),
        lambda: definitions.set_limits(many, priority=1, pool=False, by=None),
        lambda: definitions.archive(many, by=None),
    ]
    ended = []
    for day, make in enumerate(changes, 1):
        with transaction.atomic():
            make()
            ended += at_once(lambda _, day=day: bill(day), times=1)
    assert ended == [None] * len(changes)
    pipeline.refresh_from_db()
    assert (len(pipeline.source_columns), pipeline.state) == (2, PipelineState.ARCHIVED)
