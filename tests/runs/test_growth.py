"""What costs the same at three pipelines and at sixty; and the rows that make it so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from datamantri import celery_beat
from datamantri.celery import app
from datamantri.celery_beat import Ticker
from pipelines.models import Pipeline, Schedule
from pipelines.specs import ScheduleSpec
from runs import board_queries, doorbell, looking_bell, lookout, services
from runs.alerts import bell
from runs.models import LastEnd, Run, Trigger
from runs.services import Claim
from runs.services.bulk import insert_alike
from runs.states import TERMINAL, RunStatus

pytestmark = pytest.mark.django_db

# No tick of it comes while a test runs, but the one that the test makes due.
YEARLY = [ScheduleSpec("cron", cron="0 0 1 1 *")]
LISTS = (
    "/",
    "/monitor/",
    "/pipelines/",
    "/pipelines/?last=failed",
    "/runs/",
    "/runs/?text=number&status=failed",
    "/api/v1/runs/",
    "/api/v1/pipelines/",
    "/admin/runs/run/",
    "/admin/pipelines/pipeline/",
)


def add_pipelines(make_pipeline: Callable[..., Pipeline], first: int, last: int) -> None:
    """Pipelines that are due, each with a run that failed, one that is active and one that waits."""
    for number in range(first, last):
        pipeline = make_pipeline(f"Number {number}", schedules=YEARLY)
        alike = {"pipeline": pipeline, "revision_id": pipeline.revision_id, "trigger": Trigger.MANUAL}
        Run.objects.create(status=RunStatus.FAILED, finished_at=timezone.now(), **alike)
        Run.objects.create(status=RunStatus.RETRYING, attempt=1, due=Now() + timedelta(hours=1), **alike)
        Run.objects.create(**alike)


def make_due() -> None:
    tick = timezone.now().replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    Schedule.objects.update(ticked_through=tick - timedelta(minutes=1), next_due=tick)
    Pipeline.objects.update(active_from=tick - timedelta(hours=1), missed="all")


def test_sixty_pipelines_take_as_many_queries_as_three(
    make_pipeline: Callable[..., Pipeline], admin_client: Client, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    beat = Ticker(app=app, lazy=True)
    # What comes every few seconds comes once, before anything is counted.
    settings.HEARTBEAT = timedelta(hours=1)
    monkeypatch.setattr(celery_beat, "HOUSEKEEPING_EVERY_S", 3600.0)
    monkeypatch.setattr(lookout, "ASK_EVERY_S", 3600.0)
    monkeypatch.setattr(looking_bell, "ASK_EVERY_S", 3600.0)
    monkeypatch.setattr(bell, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(doorbell, "ring", lambda times=1: None)

    def counted(work: Callable[[], Any]) -> int:
        cache.clear()
        with CaptureQueriesContext(connection) as captured:
            work()
        return len(captured)

    def queries() -> dict[str, int]:
        make_due()
        counts = {"beat": counted(beat.tick)}
        for path in LISTS:
            answers: list[Any] = []
            admin_client.get(path)
            counts[path] = counted(lambda path=path, answers=answers: answers.append(admin_client.get(path)))
            assert answers[0].status_code == 200
        return counts

    beat.tick()
    add_pipelines(make_pipeline, 0, 3)
    few = queries()
    assert Run.objects.filter(trigger=Trigger.SCHEDULE).count() == 3
    add_pipelines(make_pipeline, 3, 60)
    Run.objects.filter(trigger=Trigger.SCHEDULE).delete()
    assert queries() == few
    assert Run.objects.filter(trigger=Trigger.SCHEDULE).count() == 60
    assert few["beat"] <= 24, few


def test_the_admin_finds_runs_by_id_pipeline_and_error(
    make_pipeline: Callable[..., Pipeline], queue: Callable[..., Run], admin_client: Client
) -> None:
    orders, refunds = (
        queue(make_pipeline(name), status=RunStatus.FAILED, error_code=code)
        for name, code in (("Orders", "not_found"), ("Refunds", "time_limit"))
    )

    def found(words: str) -> set[Any]:
        page = admin_client.get("/admin/runs/run/", {"q": words})
        return {run.pk for run in page.context["cl"].result_list}

    assert found(str(orders.pk)) == found("rder") == found(" not_found ") == {orders.pk}
    assert found("") == {orders.pk, refunds.pk}
    assert found("nothing") == found(str(orders.pipeline_id)) == set()


def test_rows_that_are_alike_arrive_as_they_would_one_by_one(
    make_pipeline: Callable[..., Pipeline], django_assert_num_queries: Any
) -> None:
    pipeline = make_pipeline(schedules=YEARLY)
    at = timezone.now()

    def new(**differing: Any) -> Run:
        return Run(pipeline=pipeline, revision_id=pipeline.revision_id, trigger=Trigger.SCHEDULE, **differing)

    rows = [new(scheduled_for=at, schedule=pipeline.schedules.get()), new()]
    with django_assert_num_queries(1):
        insert_alike(rows, ("id", "scheduled_for", "schedule"))
    single = new(scheduled_for=None)
    single.save()
    for row in rows:
        found = Run.objects.get(pk=row.pk)
        assert (found.scheduled_for, found.schedule_id) == (row.scheduled_for, row.schedule_id)
        differing = ("_state", "id", "scheduled_for", "schedule_id", "created_at", "due")
        values = [
            {name: value for name, value in vars(run).items() if name not in differing}
            for run in (found, Run.objects.get(pk=single.pk))
        ]
        assert values[0] == values[1]
        assert abs(found.created_at - at) < timedelta(minutes=1)
    insert_alike([], ("id",))


# The newest end of each pipeline --------------------------------------------------------------


def last_end(pipeline: Pipeline) -> tuple[Any, str] | None:
    end = LastEnd.objects.filter(pipeline=pipeline).first()
    return (end.run_id, end.status) if end else None


@pytest.mark.parametrize("status", sorted(set(RunStatus) - TERMINAL))
def test_what_has_not_ended_is_no_end(queue: Callable[..., Run], status: RunStatus) -> None:
    run = queue(status=status)
    Run.objects.filter(pk=run.pk).update(phase="loading")
    assert last_end(run.pipeline) is None


def test_an_end_is_known_however_it_came(
    queue: Callable[..., Run], claim: Callable[..., Claim | None], operator: Any
) -> None:
    done = queue()
    claimed = claim()
    assert claimed is not None
    services.finish(claimed, RunStatus.SUCCEEDED, receipt={})
    assert last_end(done.pipeline) == (done.pk, "succeeded")
    assert LastEnd.objects.get().finished_at == Run.objects.get(pk=done.pk).finished_at
    cancelled = queue(done.pipeline)
    services.cancel_run(cancelled, by=operator)
    assert last_end(done.pipeline) == (cancelled.pk, "cancelled")


def test_an_older_run_that_ends_later_is_not_the_newest(queue: Callable[..., Run]) -> None:
    newer = queue(status=RunStatus.SUCCEEDED)
    older = queue(newer.pipeline, created_at=newer.created_at - timedelta(minutes=1), status=RunStatus.HELD)
    Run.objects.filter(pk=older.pk).update(status=RunStatus.CANCELLED)
    assert last_end(newer.pipeline) == (newer.pk, "succeeded")


def test_a_pipeline_needs_attention_only_while_its_last_run_failed(queue: Callable[..., Run]) -> None:
    def failed() -> list[Run]:
        return list(board_queries.attention(board_queries.workforce(), []).failed)

    run = queue(status=RunStatus.FAILED, finished_at=timezone.now())
    assert failed() == [run]
    queue(run.pipeline, status=RunStatus.RUNNING)
    assert failed() == [run]
    queue(run.pipeline, status=RunStatus.SUCCEEDED, finished_at=timezone.now())
    assert failed() == []


def test_a_run_that_is_trimmed_takes_its_end_along(queue: Callable[..., Run]) -> None:
    run = queue(status=RunStatus.SUCCEEDED, finished_at=timezone.now() - timedelta(days=1000))
    while services.trim():
        pass
    assert not Run.objects.exists()
    assert last_end(run.pipeline) is None
