"""What no run tells by itself: late against a deadline, stale, lasting on, no longer watched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db.models.functions import Now

from pipelines import services as definitions
from pipelines.models import AlertKind, AlertRule, Pipeline, Schedule
from pipelines.specs import ScheduleSpec
from runs.alerts import watching
from runs.models import Alert, AlertDelivery, Poll, Run, RunAction, Skip, Trigger

pytestmark = pytest.mark.django_db
LATE, STALE, RECOVERED = AlertKind.LATE, AlertKind.STALE, AlertKind.RECOVERED
TICK = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture
def hourly(make_pipeline) -> Pipeline:
    """A pipeline whose schedule has fired every hour for two days."""
    pipeline = make_pipeline(schedules=[ScheduleSpec("cron", cron="0 * * * *")])
    Pipeline.objects.filter(pk=pipeline.pk).update(active_from=TICK - 48 * HOUR)
    Schedule.objects.update(starts_at=TICK - 48 * HOUR, ticked_through=TICK, next_due=TICK + HOUR)
    pipeline.refresh_from_db()
    return pipeline


def run_of(pipeline: Pipeline, at: datetime, status: str = "succeeded", *, started: datetime | None = None, **more):
    run = Run.objects.create(
        pipeline=pipeline,
        revision_id=pipeline.revision_id,
        trigger=Trigger.SCHEDULE if "scheduled_for" in more else Trigger.MANUAL,
        created_at=at,
        started_at=started or at,
        **{"status": "queued", **more},
    )
    ended = {"finished_at": (started or at) + MINUTE} if status in ("succeeded", "failed") else {}
    Run.objects.filter(pk=run.pk).update(status=status, **ended)
    return run


def tick_of(pipeline: Pipeline, at: datetime, status: str = "succeeded", **more) -> Run:
    return run_of(pipeline, at, status, schedule=pipeline.schedules.get(), scheduled_for=at, **more)


def told() -> list[str]:
    return [
        f"{each.event}: {each.title.removeprefix('[DataMantri] ')}"
        for each in AlertDelivery.objects.order_by("created_at", "event")
    ]


@pytest.mark.parametrize("status", ["queued", "running", "retrying", "held", "failed"])
def test_it_is_late_when_its_scheduled_run_has_not_succeeded_by_the_deadline(hourly, make_rule, status):
    make_rule(LATE, RECOVERED, late_after_min=30)
    tick_of(hourly, TICK - HOUR)
    run = tick_of(hourly, TICK, status)
    watching.watch(TICK + 29 * MINUTE)
    assert told() == []
    watching.watch(TICK + 31 * MINUTE)
    watching.watch(TICK + 32 * MINUTE)
    assert told() == ["opened: Orders is late"]
    assert f"{TICK:%Y-%m-%d %H:%M:%S} UTC has not succeeded 30 min later" in Alert.objects.get().cause
    Run.objects.filter(pk=run.pk).update(status="succeeded", finished_at=TICK + 33 * MINUTE)
    watching.watch(TICK + 34 * MINUTE)
    assert told() == ["opened: Orders is late", "recovered: Orders works again"]
    assert "Lasted: 34 min" in AlertDelivery.objects.get(event="recovered").body


def test_a_tick_that_nobody_turned_into_a_run_is_late_too(hourly, make_rule):
    make_rule(LATE, late_after_min=30)
    tick_of(hourly, TICK - HOUR)
    Schedule.objects.update(next_due=TICK)
    watching.watch(TICK + 31 * MINUTE)
    assert told() == ["opened: Orders is late"]


def test_a_skipped_tick_is_covered_by_the_run_that_waits_for_it(hourly, make_rule):
    make_rule(LATE, late_after_min=30)
    waiting = tick_of(hourly, TICK - HOUR, "queued")
    schedule = hourly.schedules.get()
    Skip.objects.create(
        pipeline=hourly, schedule=schedule, first=TICK, last=TICK, ticks=1, reason="overlap", run=waiting
    )
    watching.watch(TICK + 31 * MINUTE)
    assert told() == ["opened: Orders is late"]
    # It began after the tick it stands for.
    Run.objects.filter(pk=waiting.pk).update(started_at=TICK + 40 * MINUTE, status="succeeded")
    watching.watch(TICK + 45 * MINUTE)
    assert Alert.objects.get().closing == "recovered"


def test_a_run_that_began_before_the_tick_does_not_cover_it(hourly, make_rule):
    make_rule(LATE, late_after_min=30)
    tick_of(hourly, TICK, "running")
    run_of(hourly, TICK - 10 * MINUTE)
    watching.watch(TICK + 31 * MINUTE)
    assert told() == ["opened: Orders is late"]


def test_a_run_by_hand_after_the_tick_does(hourly, make_rule):
    make_rule(LATE, late_after_min=30)
    tick_of(hourly, TICK, "failed")
    run_of(hourly, TICK + 10 * MINUTE)
    watching.watch(TICK + 31 * MINUTE)
    assert told() == []


@pytest.mark.parametrize("action", [RunAction.COMPARE, RunAction.BACKFILL])
def test_what_a_comparison_or_a_backfill_does_counts_for_nothing(hourly, make_rule, action):
    make_rule(LATE, late_after_min=30)
    tick_of(hourly, TICK, "failed")
    run_of(hourly, TICK + 10 * MINUTE, action=action)
    watching.watch(TICK + 31 * MINUTE)
    assert told() == ["opened: Orders is late"]


@pytest.mark.parametrize("how", ["paused", "archived", "just resumed", "skipped while paused"])
def test_nobody_expects_data_of_a_pause(hourly, make_rule, how):
    make_rule(LATE, late_after_min=30)
    tick_of(hourly, TICK - HOUR)
    if how == "skipped while paused":
        schedule = hourly.schedules.get()
        Skip.objects.create(pipeline=hourly, schedule=schedule, first=TICK, last=TICK, ticks=1, reason="paused")
    else:
        tick_of(hourly, TICK, "failed")
        changes = {"active_from": TICK + MINUTE} if how == "just resumed" else {"state": how}
        Pipeline.objects.update(**changes)
    watching.watch(TICK + 31 * MINUTE)
    assert told() == []


def test_pausing_what_is_late_ends_it_without_a_word(hourly, make_rule):
    make_rule(LATE, RECOVERED, late_after_min=30)
    tick_of(hourly, TICK, "failed")
    watching.watch(TICK + 31 * MINUTE)
    Pipeline.objects.update(state="paused")
    watching.watch(TICK + 32 * MINUTE)
    assert told() == ["opened: Orders is late"]
    assert Alert.objects.get().closing == "unwatched"


def test_late_again_is_another_alert(hourly, make_rule):
    make_rule(LATE, RECOVERED, late_after_min=30)
    run = tick_of(hourly, TICK - HOUR, "running")
    watching.watch(TICK - 29 * MINUTE)
    Run.objects.filter(pk=run.pk).update(status="succeeded")
    tick_of(hourly, TICK, "queued")
    watching.watch(TICK + 31 * MINUTE)
    assert sorted(told()) == ["opened: Orders is late", "opened: Orders is late", "recovered: Orders works again"]


def test_data_is_stale_when_nothing_was_loaded_for_so_long(hourly, make_rule):
    make_rule(STALE, RECOVERED, stale_after_h=3)
    run_of(hourly, TICK - 3 * HOUR)
    run_of(hourly, TICK - HOUR, "failed")
    watching.watch(TICK)
    assert told() == []
    watching.watch(TICK + 2 * MINUTE)
    watching.watch(TICK + 3 * MINUTE)
    assert told() == ["opened: Orders has stale data"]
    assert "The rule calls data stale after 3 h." in Alert.objects.get().cause
    run_of(hourly, TICK + 10 * MINUTE)
    watching.watch(TICK + 12 * MINUTE)
    assert told()[1:] == ["recovered: Orders works again"]


@pytest.mark.parametrize(
    ("last", "refusal", "is_stale"),
    [("succeeded", "", False), ("failed", "", True), ("held", "", True), ("succeeded", "Another run is held.", True)],
)
def test_looks_at_a_source_keep_data_fresh_only_while_nothing_is_owed(hourly, make_rule, last, refusal, is_stale):
    make_rule(STALE, stale_after_h=3)
    Pipeline.objects.update(mode="realtime", write_disposition="append", incremental=True, cursor_column="at")
    run_of(hourly, TICK - 10 * HOUR)
    asked = run_of(hourly, TICK - 9 * HOUR, last)
    Poll.objects.create(pipeline=hourly, run=asked, seen_at=TICK, refusal=refusal)
    watching.watch(TICK + MINUTE)
    assert bool(told()) == is_stale


def test_what_was_never_loaded_is_stale_from_its_beginning(hourly, make_rule):
    make_rule(STALE, stale_after_h=49)
    watching.watch(TICK)
    assert told() == []
    watching.watch(TICK + 2 * HOUR)
    assert told() == ["opened: Orders has stale data"]
    assert "Nothing was ever loaded." in Alert.objects.get().cause


def test_after_a_pause_it_has_its_time_again_and_that_is_no_recovery(hourly, make_rule):
    make_rule(STALE, RECOVERED, stale_after_h=3)
    run_of(hourly, TICK - 10 * HOUR)
    watching.watch(TICK)
    Pipeline.objects.update(active_from=TICK + MINUTE)
    watching.watch(TICK + HOUR)
    assert told() == ["opened: Orders has stale data"]
    assert Alert.objects.get().closing == "unwatched"


def test_of_pipelines_without_a_schedule_only_those_that_are_named_can_be_stale(make_pipeline, make_rule):
    by_hand = make_pipeline("By hand")
    Pipeline.objects.update(active_from=TICK - 48 * HOUR)
    rule = make_rule(STALE, stale_after_h=3)
    watching.watch(TICK)
    assert told() == []
    rule.every_pipeline = False
    rule.save()
    rule.pipelines.set([by_hand])
    watching.watch(TICK)
    assert told() == ["opened: By hand has stale data"]


def test_what_lasts_is_told_again_only_if_that_is_wanted(hourly, make_rule, end):
    end_at = datetime.now(UTC)
    make_rule(AlertKind.FAILED, remind_after_h=4, name="With")
    make_rule(AlertKind.FAILED, name="Without")
    end(hourly, "failed")
    AlertDelivery.objects.all().delete()
    watching.watch(end_at + 3 * HOUR)
    assert told() == []
    watching.watch(end_at + 4 * HOUR + MINUTE)
    watching.watch(end_at + 4 * HOUR + 2 * MINUTE)
    watching.watch(end_at + 9 * HOUR)
    assert told() == ["reminded: Orders still failed"] * 2
    assert "Rule: With" in AlertDelivery.objects.first().body


@pytest.mark.parametrize("how", ["off", "deleted", "another kind", "other pipelines", "archived"])
def test_what_nobody_watches_any_more_ends_without_a_word(hourly, make_rule, end, operator, how):
    rule = make_rule(AlertKind.FAILED, RECOVERED)
    end(hourly, "failed")
    if how == "off":
        AlertRule.objects.update(enabled=False)
    elif how == "deleted":
        rule.delete()
    elif how == "another kind":
        AlertRule.objects.update(kinds=[AlertKind.HELD, RECOVERED])
    elif how == "other pipelines":
        AlertRule.objects.update(every_pipeline=False)
    else:
        definitions.archive([hourly], by=operator)
    watching.watch()
    assert Alert.objects.get().closing == "unwatched"
    assert told() == ["opened: Orders failed"]


def test_one_judge_at_a_time(hourly, make_rule, monkeypatch):
    make_rule(LATE, late_after_min=30)
    tick_of(hourly, TICK, "failed")
    monkeypatch.setattr(watching.open_alerts, "take_turn", lambda: False)
    watching.watch(TICK + 31 * MINUTE)
    assert told() == []


def test_now_is_the_databases(hourly, make_rule):
    make_rule(STALE, stale_after_h=24)
    Pipeline.objects.update(active_from=Now() - timedelta(hours=25))
    watching.watch()
    assert told() == ["opened: Orders has stale data"]
