"""Due times → runs and skips."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, transaction

from pipelines import services as definitions
from pipelines.models import Missed, Overlap, Pipeline, PipelineState, Priority, Schedule
from runs import decisions, services, ticker
from runs.models import Run, Skip, Trigger
from runs.states import ACTIVE, RunStatus
from tests.runs.clockwork import Clock, at, check_books, clock, cron, every, run_times, runs_of, skips_of

__all__ = ["clock"]
pytestmark = pytest.mark.django_db

HOURLY = cron("0 * * * *")


def end_runs(**found: Any) -> None:
    Run.objects.filter(**found).update(status=RunStatus.SUCCEEDED, lease_until=None)


# A tick that is on time


def test_a_due_tick_becomes_a_run_of_the_current_revision(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY)
    assert clock.tick_at(at(12, 59, 59)) == 0
    assert clock.tick_at(at(13)) == 1
    (run,) = runs_of(pipeline)
    assert (run.status, run.trigger, run.priority) == (RunStatus.QUEUED, Trigger.SCHEDULE, Priority.NORMAL)
    assert run.revision_id == pipeline.revision_id
    assert (run.data_interval_start, run.data_interval_end) == (at(12), at(13))
    assert run.scheduled_for == run.due == at(13)
    assert run.schedule == pipeline.schedules.get()
    check_books(pipeline, clock.now)


def test_a_tick_is_taken_once(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY)
    assert clock.tick_at(at(13), at(13), at(13, 0, 1), at(13, 59, 59)) == 1
    schedule = pipeline.schedules.get()
    assert (schedule.ticked_through, schedule.next_due) == (at(13), at(14))


def test_a_database_that_was_put_back_in_time_does_not_run_a_tick_twice(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, overlap=Overlap.QUEUE)
    clock.tick_at(at(13))
    Schedule.objects.update(ticked_through=at(12), next_due=at(13))
    clock.tick_at(at(14))
    assert run_times(pipeline) == [at(13), at(14)]
    check_books(pipeline, clock.now)


def test_a_clock_that_goes_backwards_moves_nothing_back(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, overlap=Overlap.QUEUE)
    clock.tick_at(at(13), at(12, 30), at(13, 30), at(14))
    assert run_times(pipeline) == [at(13), at(14)]


def test_the_runs_of_one_pass_get_in_line_in_the_order_of_their_ticks(
    clock: Clock, claim: Callable[..., services.Claim | None]
) -> None:
    pipeline = clock.pipeline(HOURLY, missed=Missed.ALL, overlap=Overlap.QUEUE)
    clock.tick_at(at(17))
    assert run_times(pipeline) == [at(13), at(14), at(15), at(16), at(17)]
    for expected in runs_of(pipeline):
        claimed = claim()
        assert claimed is not None
        assert claimed.run == expected.pk
        services.finish(claimed, RunStatus.CANCELLED)


def test_seconds_count(clock: Clock) -> None:
    pipeline = clock.pipeline(every(20), overlap=Overlap.QUEUE)
    clock.tick_at(at(12, 0, 19))
    clock.tick_at(at(12, 1))
    assert run_times(pipeline) == [at(12, 0, 20), at(12, 0, 40), at(12, 1)]


# Missed ticks


def test_latest_runs_once_for_all_that_was_missed_over_all_its_data(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, missed=Missed.LATEST)
    assert clock.tick_at(at(16, 30)) == 1
    (run,) = runs_of(pipeline)
    assert run.scheduled_for == at(16)
    assert (run.data_interval_start, run.data_interval_end) == (at(12), at(16))
    assert skips_of(pipeline) == [("missed", at(13), at(15), 3)]
    assert Skip.objects.get().run == run
    check_books(pipeline, clock.now)


def test_latest_prefers_the_tick_that_is_on_time(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, missed=Missed.LATEST)
    clock.tick_at(at(16, 0, 5))
    (run,) = runs_of(pipeline)
    assert (run.data_interval_start, run.data_interval_end) == (at(12), at(16))
    check_books(pipeline, clock.now)


def test_one_missed_tick_still_runs(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, missed=Missed.LATEST)
    clock.tick_at(at(13, 30))
    assert run_times(pipeline) == [at(13)]
    assert skips_of(pipeline) == []


def test_latest_does_not_queue_a_second_run_behind_one_that_waits(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, missed=Missed.LATEST, overlap=Overlap.COALESCE)
    clock.tick_at(at(13), at(17, 30))
    (run,) = runs_of(pipeline)
    assert skips_of(pipeline) == [("missed", at(14), at(16), 3), ("overlap", at(17), at(17), 1)]
    assert set(Skip.objects.values_list("run", flat=True)) == {run.pk}
    check_books(pipeline, clock.now)


def test_skip_runs_nothing_that_was_missed(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, missed=Missed.SKIP)
    clock.tick_at(at(16, 30), at(17))
    assert run_times(pipeline) == [at(17)]
    assert skips_of(pipeline) == [("missed", at(13), at(16), 4)]
    check_books(pipeline, clock.now)


def test_all_runs_every_missed_tick(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, missed=Missed.ALL)
    clock.tick_at(at(16, 30))
    assert run_times(pipeline) == [at(13), at(14), at(15), at(16)]
    assert [run.data_interval_start for run in runs_of(pipeline)] == [at(12), at(13), at(14), at(15)]
    check_books(pipeline, clock.now)


def test_a_tick_that_comes_a_little_late_was_not_missed(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, missed=Missed.SKIP)
    clock.tick_at(at(13, 0, 59))
    assert run_times(pipeline) == [at(13)]


@pytest.mark.parametrize("missed", Missed)
def test_an_outage_longer_than_a_page_of_ticks_changes_nothing(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, missed: Missed
) -> None:
    monkeypatch.setattr(ticker, "TICKS_AT_ONCE", 4)
    pipeline = clock.pipeline(HOURLY, missed=missed, overlap=Overlap.QUEUE)
    end = at(10, 30, day=3)
    while pipeline.schedules.get().ticked_through < end:
        clock.tick_at(end)
    check_books(pipeline, end)
    if missed == Missed.ALL:
        assert len(run_times(pipeline)) == 22
    elif missed == Missed.SKIP:
        assert skips_of(pipeline) == [("missed", at(13), at(10, day=3), 22)]
    else:
        (run,) = runs_of(pipeline)
        assert (run.scheduled_for, run.data_interval_start) == (at(10, day=3), at(12))
        assert skips_of(pipeline) == [("missed", at(13), at(9, day=3), 21)]
        assert Skip.objects.get().run == run


# Overlap


@pytest.mark.parametrize("status", sorted(ACTIVE))
def test_coalesce_lets_one_run_wait_behind_the_active_one(clock: Clock, status: RunStatus) -> None:
    pipeline = clock.pipeline(HOURLY, overlap=Overlap.COALESCE)
    clock.tick_at(at(13))
    Run.objects.update(status=status)
    clock.tick_at(at(14), at(15), at(16))
    first, waiting = runs_of(pipeline)
    assert (first.scheduled_for, waiting.scheduled_for) == (at(13), at(14))
    assert skips_of(pipeline) == [("overlap", at(15), at(16), 2)]
    assert Skip.objects.get().run == waiting
    check_books(pipeline, clock.now)


def test_a_run_that_a_person_asked_for_takes_no_ticks_place(clock: Clock, operator: User) -> None:
    pipeline = clock.pipeline(HOURLY, overlap=Overlap.COALESCE)
    services.request_run(pipeline, trigger=Trigger.MANUAL, by=operator)
    assert clock.tick_at(at(13)) == 1


@pytest.mark.parametrize("status", [*sorted(ACTIVE), RunStatus.QUEUED])
def test_skip_skips_ticks_while_a_run_is_active_or_waits(clock: Clock, status: RunStatus) -> None:
    pipeline = clock.pipeline(HOURLY, overlap=Overlap.SKIP)
    clock.tick_at(at(13))
    Run.objects.update(status=status)
    clock.tick_at(at(14), at(15))
    (run,) = runs_of(pipeline)
    assert skips_of(pipeline) == [("overlap", at(14), at(15), 2)]
    assert Skip.objects.get().run == run
    end_runs()
    assert clock.tick_at(at(16)) == 1
    check_books(pipeline, clock.now)


def test_queue_gives_every_tick_its_turn(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, overlap=Overlap.QUEUE)
    clock.tick_at(at(13), at(14), at(15))
    assert run_times(pipeline) == [at(13), at(14), at(15)]


def test_what_has_ended_or_is_held_blocks_nothing(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, overlap=Overlap.SKIP)
    for hour, status in enumerate([RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.HELD], 13):
        assert clock.tick_at(at(hour)) == 1
        Run.objects.filter(status=RunStatus.QUEUED).update(status=status)
    assert len(run_times(pipeline)) == 4


# Pauses


def test_ticks_of_a_paused_pipeline_are_recorded(clock: Clock, operator: User) -> None:
    pipeline = clock.pipeline(HOURLY)
    definitions.pause([pipeline], by=operator)
    clock.tick_at(at(13), at(14), at(15))
    assert run_times(pipeline) == []
    assert skips_of(pipeline) == [("paused", at(13), at(15), 3)]
    check_books(pipeline, clock.now)


def test_resuming_makes_no_surprise_run(clock: Clock, operator: User) -> None:
    pipeline = clock.pipeline(HOURLY, missed=Missed.ALL)
    definitions.pause([pipeline], by=operator)
    clock.tick_at(at(13))
    clock.now = at(15, 30)
    definitions.resume([pipeline], by=operator)
    assert clock.tick_at(at(15, 30), at(15, 59)) == 0
    assert clock.tick_at(at(16)) == 1
    assert skips_of(pipeline) == [("paused", at(13), at(15), 3)]
    check_books(pipeline, clock.now)


def test_a_pause_that_came_and_went_while_no_ticker_ran_makes_no_surprise_run(clock: Clock, operator: User) -> None:
    pipeline = clock.pipeline(HOURLY, missed=Missed.ALL)
    definitions.pause([pipeline], by=operator)
    clock.now = at(15, 30)
    definitions.resume([pipeline], by=operator)
    clock.tick_at(at(17, 30))
    assert run_times(pipeline) == [at(16), at(17)]
    assert skips_of(pipeline) == [("paused", at(13), at(15), 3)]
    check_books(pipeline, clock.now)


def test_an_archived_pipeline_ticks_no_more(clock: Clock, operator: User) -> None:
    pipeline = clock.pipeline(HOURLY)
    clock.now = at(14, 30)
    definitions.archive([pipeline], by=operator)
    assert clock.tick_at(at(14, 30), at(20)) == 0
    assert skips_of(pipeline) == [("paused", at(13), at(14), 2)]
    check_books(pipeline, clock.now)


def test_a_pipeline_without_a_revision_does_not_run(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY)
    Pipeline.objects.update(revision=None)
    assert clock.tick_at(at(13)) == 0
    assert skips_of(pipeline) == [("paused", at(13), at(13), 1)]


# Edits


def test_ticks_before_an_edit_keep_the_rule_they_came_from(clock: Clock, operator: User) -> None:
    pipeline = clock.pipeline(HOURLY, overlap=Overlap.QUEUE, missed=Missed.ALL)
    clock.now = at(14, 30)
    definitions.save_pipeline(pipeline, schedules=[cron("45 * * * *")], by=operator)
    clock.tick_at(at(15, 50))
    assert run_times(pipeline) == [at(13), at(14), at(14, 45), at(15, 45)]
    old, new = pipeline.schedules.order_by("starts_at")
    assert (old.ends_at, old.next_due) == (at(14, 30), None)
    assert new.next_due == at(16, 45)
    check_books(pipeline, clock.now)


def test_a_schedule_that_was_taken_away_ticks_no_more(clock: Clock, operator: User) -> None:
    pipeline = clock.pipeline(HOURLY)
    definitions.save_pipeline(pipeline, schedules=[], by=operator)
    assert clock.tick_at(at(15)) == 0
    assert skips_of(pipeline) == []


def test_saving_the_same_rule_again_misses_nothing(clock: Clock, operator: User) -> None:
    pipeline = clock.pipeline(HOURLY, overlap=Overlap.QUEUE)
    for minute in (0, 20, 40):
        clock.now = at(13, minute) - timedelta(milliseconds=1)
        definitions.save_pipeline(pipeline, schedules=[HOURLY], by=operator)
        clock.tick_at(at(13, minute))
    assert run_times(pipeline) == [at(13)]


# Several schedules


def test_ticks_of_one_instant_make_one_run(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, cron("*/30 * * * *"), overlap=Overlap.QUEUE)
    clock.tick_at(at(12, 30), at(13))
    assert run_times(pipeline) == [at(12, 30), at(13)]
    assert skips_of(pipeline) == [("merged", at(13), at(13), 1)]
    assert Skip.objects.get().run == runs_of(pipeline)[-1]
    check_books(pipeline, clock.now)


@pytest.mark.parametrize("missed", Missed)
@pytest.mark.parametrize("overlap", Overlap)
def test_ticks_of_one_instant_stay_together_however_long_the_outage(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, missed: Missed, overlap: Overlap
) -> None:
    monkeypatch.setattr(ticker, "TICKS_AT_ONCE", 5)
    pipeline = clock.pipeline(HOURLY, cron("*/20 * * * *"), cron("0 */3 * * *"), missed=missed, overlap=overlap)
    for _ in range(20):
        clock.tick_at(at(23, 30))
    check_books(pipeline, clock.now)
    times = run_times(pipeline)
    assert len(times) == len(set(times))


def test_a_blocked_pipeline_with_two_schedules_gets_two_rows(clock: Clock) -> None:
    pipeline = clock.pipeline(cron("0 * * * *"), cron("30 * * * *"), overlap=Overlap.SKIP)
    clock.tick_at(at(12, 30))
    for _ in range(12):
        clock.tick_after(minutes=30)
    assert [(reason, ticks) for reason, _, _, ticks in skips_of(pipeline)] == [("overlap", 6), ("overlap", 6)]
    check_books(pipeline, clock.now)


def test_a_skip_does_not_grow_over_a_run(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, overlap=Overlap.QUEUE)
    for hour, state in ((13, "paused"), (14, "active"), (15, "paused"), (16, "paused")):
        Pipeline.objects.update(state=state)
        clock.tick_at(at(hour))
    assert skips_of(pipeline) == [("paused", at(13), at(13), 1), ("paused", at(15), at(16), 2)]
    check_books(pipeline, clock.now)


# Clocks that jump


@pytest.mark.parametrize(
    ("day", "hours"),
    [(datetime(2026, 3, 28, 23, tzinfo=UTC), 23), (datetime(2026, 10, 24, 22, tzinfo=UTC), 25)],
    ids=["a day of 23 hours", "a day of 25 hours"],
)
def test_the_days_on_which_clocks_jump(clock: Clock, day: datetime, hours: int) -> None:
    clock.now = day
    hourly = clock.pipeline(cron("0 * * * *", "Europe/Berlin"), overlap=Overlap.QUEUE)
    daily = clock.pipeline(cron("30 2 * * *", "Europe/Berlin"), overlap=Overlap.QUEUE)
    for _ in range(hours * 6):
        clock.tick_after(minutes=10)
    assert len(run_times(hourly)) == hours
    assert len(run_times(daily)) == 1
    check_books(hourly, clock.now)
    check_books(daily, clock.now)


# Trouble


def test_a_rule_that_cannot_be_read_stops_nobody_else(clock: Clock) -> None:
    good = clock.pipeline(HOURLY)
    bad = clock.pipeline(HOURLY, cron("30 * * * *"), missed=Missed.ALL, overlap=Overlap.QUEUE)
    Schedule.objects.filter(pipeline=bad, cron="0 * * * *").update(zone="Mars/Olympus")
    clock.tick_at(at(13), at(13, 30), at(14))
    assert run_times(good) == [at(13)]
    assert at(13, 30) in run_times(bad), "nor its own pipeline's other schedule"
    Schedule.objects.filter(zone="Mars/Olympus").update(zone="UTC")
    clock.tick_at(at(14, 10))
    assert {at(13), at(14)} <= set(run_times(bad)), "its ticks stay due"
    check_books(bad, clock.now)


def test_a_pass_that_breaks_leaves_nothing_half_done(clock: Clock) -> None:
    pipeline = clock.pipeline(HOURLY, missed=Missed.ALL, overlap=Overlap.QUEUE)
    save = decisions.Decisions.save

    def break_after(decided: decisions.Decisions) -> None:
        save(decided)
        raise OperationalError("server closed the connection")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decisions.Decisions, "save", break_after)
        with pytest.raises(OperationalError):
            clock.tick_at(at(14))
    assert run_times(pipeline) == []
    clock.tick_at(at(14, 0, 1))
    assert run_times(pipeline) == [at(13), at(14)]


def test_more_pipelines_than_one_pass_takes(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "PIPELINES_AT_ONCE", 2)
    for _ in range(5):
        clock.pipeline(HOURLY)
    assert [clock.tick_at(at(13)) for _ in range(4)] == [2, 2, 1, 0]


def test_fifty_pipelines_take_as_many_queries_as_one(clock: Clock, django_assert_max_num_queries: Any) -> None:
    rules = (HOURLY, cron("*/30 * * * *"))
    clock.pipeline(*rules, overlap=Overlap.SKIP)
    clock.tick_at(at(12, 30))
    with django_assert_max_num_queries(40) as one:
        clock.tick_at(at(13))
    for _ in range(49):
        clock.pipeline(*rules, overlap=Overlap.SKIP)
    clock.tick_at(at(13, 30))
    with django_assert_max_num_queries(40) as fifty:
        assert clock.tick_at(at(14)) == 0
    assert Skip.objects.filter(last=at(14)).count() == 100
    assert len(fifty) <= len(one) + 1
    with django_assert_max_num_queries(4):
        clock.tick_at(at(14, 1))


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_every_tick_has_one_run_or_one_skip(
    clock: Clock, operator: User, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Pauses, edits, outages, runs that end late: the books are right."""
    chance = random.Random(seed)
    monkeypatch.setattr(ticker, "TICKS_AT_ONCE", chance.choice([20, 60, 1000]))
    rules = [HOURLY, cron("*/10 * * * *"), cron("15 */2 * * *"), every(900), every(45), cron("@daily")]
    pipelines = [
        clock.pipeline(
            *chance.sample(rules, chance.randint(1, 3)),
            overlap=chance.choice(Overlap.values),
            missed=chance.choice(Missed.values),
        )
        for _ in range(3)
    ]
    for _ in range(20):
        pipeline = chance.choice(pipelines)
        pipeline.refresh_from_db()
        match chance.randint(0, 6):
            case 0:
                definitions.pause([pipeline], by=operator)
            case 1:
                definitions.resume([pipeline], by=operator)
            case 2:
                wanted = chance.sample(rules, chance.randint(0, 3))
                definitions.save_pipeline(pipeline, schedules=wanted, by=operator)
            case 3:
                end_runs(pipeline=pipeline)
            case 4:
                first = Run.objects.filter(pipeline=pipeline, status=RunStatus.QUEUED).first()
                if first and not Run.objects.filter(pipeline=pipeline, status__in=ACTIVE).exists():
                    Run.objects.filter(pk=first.pk).update(status=RunStatus.RUNNING)
        clock.tick_after(seconds=chance.choice([1, 30, 600, 3600, 5 * 3600]))
    while Schedule.objects.filter(next_due__lte=clock.now).exists():
        ticker.tick()
    for pipeline in pipelines:
        check_books(pipeline, clock.now)
        times = run_times(pipeline)
        assert len(times) == len(set(times))


# Tickers at once


@pytest.mark.django_db(transaction=True)
def test_tickers_at_once_take_each_tick_once(clock: Clock, at_once: Callable[..., list[Any]]) -> None:
    pipelines = [
        clock.pipeline(every(60), overlap=Overlap.QUEUE),
        clock.pipeline(HOURLY, missed=Missed.ALL),
        clock.pipeline(every(60), state=PipelineState.PAUSED),
    ]
    for _ in range(6):
        clock.now += timedelta(minutes=30)
        queued = at_once(lambda _: ticker.tick(), times=3)
        assert all(isinstance(count, int) for count in queued), queued
    ticker.tick()
    for pipeline in pipelines:
        check_books(pipeline, clock.now)


@pytest.mark.django_db(transaction=True)
def test_a_ticker_passes_by_a_pipeline_that_is_being_saved(clock: Clock, at_once: Callable[..., list[Any]]) -> None:
    busy, free = clock.pipeline(HOURLY), clock.pipeline(HOURLY)
    clock.now = at(13)
    with transaction.atomic():
        list(Pipeline.objects.select_for_update().filter(pk=busy.pk))
        assert at_once(lambda _: ticker.tick(), times=1) == [1]
    assert (run_times(busy), run_times(free)) == ([], [at(13)])
    assert ticker.tick() == 1
