"""What is old goes; what somebody still needs stays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.db.models import F
from django.utils import timezone

from pipelines.models import AlertKind, Pipeline
from pipelines.specs import ScheduleSpec
from runs import services, ticker
from runs.models import (
    Alert,
    AlertDelivery,
    Attempt,
    Backfill,
    BackfillSlice,
    DeliveryEvent,
    LastEnd,
    LogLine,
    PartLoad,
    Run,
    Skip,
)
from runs.services import Claim, Line
from runs.states import TERMINAL, RunStatus

pytestmark = pytest.mark.django_db

Queue = Callable[..., Run]


@pytest.fixture
def old(settings: Any) -> datetime:
    settings.RETENTION, settings.LOG_RETENTION = timedelta(days=90), timedelta(days=30)
    return timezone.now() - timedelta(days=91)


def ended(queue: Queue, at: datetime, *, lines: int = 2, **changes: Any) -> Run:
    run = queue(status=RunStatus.SUCCEEDED, finished_at=at, **changes)
    for seq in range(1, lines + 1):
        LogLine.objects.create(run=run, seq=seq, at=at, level="info", message=str(seq))
    Attempt.objects.create(run=run, number=1, token=1, worker="w")
    return run


def test_nothing_old_nothing_goes(queue: Queue, old: datetime) -> None:
    ended(queue, timezone.now())
    assert services.trim() == 0


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_an_old_run_goes_with_its_log_and_attempts(queue: Queue, old: datetime, status: RunStatus) -> None:
    run = ended(queue, old)
    Run.objects.update(status=status)
    kept = ended(queue, old + timedelta(days=2), lines=0)
    assert services.trim() > 0
    assert Run.objects.get() == kept
    assert not LogLine.objects.filter(run_id=run.pk).exists()
    assert Attempt.objects.get().run == kept
    assert services.trim() == 0


def test_logs_go_before_their_runs(queue: Queue, old: datetime) -> None:
    run = ended(queue, timezone.now() - timedelta(days=31))
    assert services.trim() == 2
    assert Run.objects.get() == run
    assert not LogLine.objects.exists()


@pytest.mark.parametrize("status", sorted(set(RunStatus) - TERMINAL))
def test_what_has_not_ended_stays_however_old_it_is(queue: Queue, old: datetime, status: RunStatus) -> None:
    run = queue(status=status, created_at=old)
    LogLine.objects.create(run=run, seq=1, at=old, level="info", message="a")
    assert services.trim() == 0


def test_a_lot_goes_in_portions(queue: Queue, old: datetime, make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline()
    for _ in range(5):
        ended(queue, old, lines=0, pipeline=pipeline)
    services.trim(batch=2)
    assert Run.objects.count() == 3
    while services.trim(batch=2):
        pass
    assert Run.objects.count() == 0


def test_of_loads_in_parts_the_parts_go_in_portions_too(queue: Queue, old: datetime) -> None:
    run = ended(queue, old, lines=0)
    PartLoad.objects.bulk_create(PartLoad(run=run, number=number) for number in range(25))
    left = []
    while services.trim(batch=1):
        left.append((PartLoad.objects.count(), Run.objects.count()))
    assert left == [(15, 1), (5, 1), (0, 0)]


@contextmanager
def batch_going() -> Iterator[None]:
    """All that a batch deletes is deleted, and nothing of it is committed yet."""
    deleted, over = threading.Event(), threading.Event()

    def trim() -> None:
        try:
            with transaction.atomic():
                assert services.trim()
                deleted.set()
                over.wait(30)
        finally:
            connection.close()

    thread = threading.Thread(target=trim)
    thread.start()
    try:
        assert deleted.wait(30)
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '300ms'; SET statement_timeout = '20s'")
        yield
    finally:
        over.set()
        thread.join(10)
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_while_a_batch_goes_nobody_waits_who_has_to_do_with_other_runs(
    queue: Queue, claim: Callable[..., Claim | None], old: datetime, make_pipeline: Callable[..., Pipeline]
) -> None:
    pipeline, other = make_pipeline("One", [ScheduleSpec("interval", every_s=60)]), make_pipeline("Other")
    schedule = pipeline.schedules.get()
    gone = [ended(queue, old, pipeline=each, schedule=schedule) for each in (pipeline, other)]
    lately = ended(queue, timezone.now() - timedelta(days=31), pipeline=pipeline)
    PartLoad.objects.create(run=gone[0], number=0)
    skip = {"pipeline": pipeline, "schedule": schedule, "ticks": 1, "reason": Skip.Reason.OVERLAP}
    Skip.objects.create(first=old, last=timezone.now(), run=gone[0], **skip)
    alert = {"pipeline": pipeline, "kind": AlertKind.FAILED, "since": old, "opened_at": old, "last_at": old}
    Alert.objects.create(run=gone[0], **alert)
    owned = queue(pipeline=pipeline)
    going = claim()
    waits = queue(pipeline=other)
    assert going is not None
    Pipeline.objects.update(active_from=old)
    pipeline.schedules.update(next_due=F("ticked_through"), ticked_through=F("ticked_through") - timedelta(minutes=9))
    with batch_going():
        assert going.renew(process="").owned
        assert going.write_lines([Line("info", "meanwhile")], services.Progress(rows=5))
        assert ticker.tick() == 1
        claimed = claim()
        assert claimed is not None
        assert claimed.run == waits.pk
        services.finish(going, RunStatus.SUCCEEDED)
        services.sweep()
        # They are still there: nobody was let by because the batch was over.
        assert Run.objects.filter(pk__in=[run.pk for run in gone]).count() == 2
        with pytest.raises(OperationalError, match="lock timeout"):
            Run.objects.filter(pk=gone[0].pk).update(priority=0)
    assert not Run.objects.filter(pk__in=[run.pk for run in gone]).exists()
    assert LastEnd.objects.get(pipeline=pipeline).run == owned
    assert LogLine.objects.filter(run=owned, message="meanwhile").exists()
    assert not lately.log_lines.exists()


def test_old_skips_go_and_young_ones_survive_the_run_they_name(
    queue: Queue, old: datetime, make_pipeline: Callable[..., Pipeline]
) -> None:
    pipeline = make_pipeline(schedules=[ScheduleSpec("interval", every_s=60)])
    run = ended(queue, old, pipeline=pipeline)
    values = {"pipeline": pipeline, "schedule": pipeline.schedules.get(), "ticks": 1, "reason": Skip.Reason.OVERLAP}
    Skip.objects.create(first=old, last=old, run=run, **values)
    young = Skip.objects.create(first=old, last=timezone.now(), run=run, **values)
    services.trim()
    young.refresh_from_db()
    assert Skip.objects.get() == young
    assert young.run is None


def test_alerts_that_are_long_over_go_with_their_messages(
    old: datetime, make_pipeline: Callable[..., Pipeline]
) -> None:
    pipeline = make_pipeline()
    values = {"pipeline": pipeline, "kind": AlertKind.FAILED, "since": old, "opened_at": old, "last_at": old}
    over, lasting = Alert.objects.create(closed_at=old, **values), Alert.objects.create(**values)
    for alert, ended_at in ((over, old), (lasting, old), (None, old), (None, timezone.now())):
        AlertDelivery.objects.create(alert=alert, ended_at=ended_at, event=DeliveryEvent.OPENED, title="t", body="b")
    while services.trim():
        pass
    assert Alert.objects.get() == lasting
    assert sorted(each.alert_id is None for each in AlertDelivery.objects.all()) == [False, True]


def test_backfills_that_ended_long_ago_go_with_their_slices(
    old: datetime, make_pipeline: Callable[..., Pipeline]
) -> None:
    values = {"pipeline": make_pipeline(), "kind": "interval", "low": "a", "high": "b", "step": "1 day"}
    over, going_on = (Backfill.objects.create(state=state, ended_at=at, **values)
                      for state, at in (("ended", old), ("running", None)))  # fmt: skip
    for backfill in (over, going_on):
        BackfillSlice.objects.create(backfill=backfill, number=0, low="a", high="b")
    assert services.trim() == 2
    assert Backfill.objects.get() == going_on
    assert BackfillSlice.objects.get().backfill == going_on
