"""Active windows, calendars of times without runs, and jitter."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from pipelines import calendars
from pipelines import services as definitions
from pipelines.models import Calendar, Missed, Overlap, Pipeline, PipelineState, Schedule
from pipelines.schedules import Closures
from runs import services, ticker, waiting
from runs.models import LogLine, Run, Skip, Trigger
from tests.runs.clockwork import Clock, at, check_books, clock, cron, every, run_times, runs_of, skips_of

__all__ = ["clock"]
pytestmark = pytest.mark.django_db


def calendar(*lines: str, name: str = "Holidays", zone: str = "UTC") -> str:
    calendars.save_calendar(Calendar(name=name, zone=zone, closed=list(lines)), by=None)
    return name


def intervals(pipeline: Pipeline) -> list[tuple[datetime, datetime]]:
    return [(run.data_interval_start, run.data_interval_end) for run in runs_of(pipeline)]


# Windows


def test_a_schedule_ticks_within_its_window_both_ends_included(clock: Clock) -> None:
    hourly = cron("0 * * * *", active_from=at(14), active_until=at(16))
    pipeline = clock.pipeline(hourly, overlap=Overlap.QUEUE, missed=Missed.ALL)
    schedule = pipeline.schedules.get()
    assert schedule.next_due == at(14)
    clock.tick_at(at(13), at(13, 30), at(14), at(15), at(16), at(17), at(18))
    assert run_times(pipeline) == [at(14), at(15), at(16)]
    assert skips_of(pipeline) == [], "outside of the window there is nothing to skip"
    assert runs_of(pipeline)[0].data_interval_start == at(13)
    schedule.refresh_from_db()
    assert schedule.next_due is None, "and nobody looks at it again"
    check_books(pipeline, clock.now)


def test_an_interval_counts_from_the_start_of_its_window(clock: Clock) -> None:
    pipeline = clock.pipeline(every(1500, active_from=at(12, 10)), overlap=Overlap.QUEUE, missed=Missed.ALL)
    clock.tick_at(at(13, 1))
    assert run_times(pipeline) == [at(12, 10), at(12, 35), at(13)]
    check_books(pipeline, clock.now)


def test_a_window_that_is_widened_runs_nothing_of_the_past(clock: Clock, operator: User) -> None:
    pipeline = clock.pipeline(cron("0 * * * *", active_from=at(16)), overlap=Overlap.QUEUE, missed=Missed.ALL)
    clock.tick_at(at(14, 30))
    definitions.save_pipeline(pipeline, schedules=[cron("0 * * * *", active_from=at(9))], by=operator)
    clock.tick_at(at(14, 45))
    assert run_times(pipeline) == []
    clock.tick_at(at(15))
    assert run_times(pipeline) == [at(15)]


def test_an_edit_of_jitter_or_calendar_leaves_the_phase_of_an_interval(clock: Clock, operator: User) -> None:
    pipeline = clock.pipeline(every(7 * 86400), overlap=Overlap.QUEUE)
    begun = at(0)
    calendar("2026-12-24")
    changes: list[dict[str, Any]] = [
        {"jitter_s": 60},
        {"calendar": "Holidays"},
        {"active_until": at(0) + timedelta(days=400)},
        {},
    ]
    for week, change in enumerate(changes):
        # On the third day of each week.
        clock.now = begun + timedelta(days=7 * week + 3, hours=5)
        definitions.save_pipeline(pipeline, schedules=[every(7 * 86400, **change)], by=operator)
        assert pipeline.schedules.get(ends_at=None).next_due == begun + timedelta(days=7 * (week + 1))
        clock.tick_at(begun + timedelta(days=7 * (week + 1), minutes=1))
    assert run_times(pipeline) == [begun + timedelta(days=7 * week) for week in (1, 2, 3, 4)]
    check_books(pipeline, clock.now)
    definitions.save_pipeline(pipeline, schedules=[every(6 * 86400)], by=operator)
    assert pipeline.schedules.get(ends_at=None).next_due == begun + timedelta(days=28 + 6), "another length begins anew"


# Calendars


def test_a_tick_that_a_calendar_closes_is_a_skip_that_names_it(clock: Clock) -> None:
    closed = calendar("2026-03-02 14:00 to 2026-03-02 16:00 Stock-taking")
    pipeline = clock.pipeline(cron("0 * * * *", calendar=closed), overlap=Overlap.QUEUE)
    clock.tick_at(at(13), at(14), at(15), at(16))
    assert run_times(pipeline) == [at(13), at(16)]
    assert skips_of(pipeline) == [("calendar", at(14), at(15), 2)]
    assert Skip.objects.get().calendar == "Holidays"
    check_books(pipeline, clock.now)


@pytest.mark.parametrize("at_once", [False, True])
def test_the_run_after_closed_times_has_their_data_as_well(clock: Clock, at_once: bool) -> None:
    closed = calendar("every day 14:00-16:00", "every day 17:00-18:00")
    rules = cron("0 * * * *", calendar=closed)
    pipeline = clock.pipeline(rules, overlap=Overlap.QUEUE, missed=Missed.ALL)
    hours = [at(hour) for hour in range(13, 20)]
    clock.tick_at(*(hours[-1:] if at_once else hours))
    assert intervals(pipeline) == [
        (at(12), at(13)), (at(13), at(16)), (at(16), at(18)), (at(18), at(19)),
    ]  # fmt: skip
    check_books(pipeline, clock.now)


def test_what_was_missed_in_closed_times_is_not_made_up_for(clock: Clock) -> None:
    closed = calendar("every day 13:30-16:30")
    latest = clock.pipeline(cron("0 * * * *", calendar=closed), missed=Missed.LATEST)
    clock.tick_at(at(16, 10))
    assert run_times(latest) == [at(13)], "the newest that was open"
    assert skips_of(latest) == [("calendar", at(14), at(16), 3)]
    check_books(latest, clock.now)


def test_only_the_schedules_that_go_by_a_calendar_are_closed(clock: Clock) -> None:
    closed = calendar("2026-03-02")
    pipeline = clock.pipeline(cron("0 * * * *", calendar=closed), cron("30 * * * *"), overlap=Overlap.QUEUE)
    clock.tick_at(at(12, 30), at(13), at(13, 30))
    assert run_times(pipeline) == [at(12, 30), at(13, 30)]
    both = clock.pipeline(cron("0 * * * *", calendar=closed), cron("*/30 * * * *"), overlap=Overlap.QUEUE)
    clock.tick_at(at(14))
    assert run_times(both) == [at(14)], "an instant that one of two closes still has its run"
    check_books(both, clock.now)


def test_a_calendar_that_is_changed_counts_from_now_on_and_runs_nothing_of_the_past(clock: Clock) -> None:
    closed = calendar("every day")
    pipeline = clock.pipeline(cron("0 * * * *", calendar=closed), overlap=Overlap.QUEUE, missed=Missed.ALL)
    clock.tick_at(at(13), at(14))
    holidays = Calendar.objects.get()
    holidays.closed = []
    calendars.save_calendar(holidays, by=None)
    clock.tick_at(at(14, 30))
    assert run_times(pipeline) == []
    clock.tick_at(at(15))
    assert run_times(pipeline) == [at(15)]
    check_books(pipeline, clock.now)


def test_a_pause_comes_before_a_calendar(clock: Clock, operator: User) -> None:
    pipeline = clock.pipeline(cron("0 * * * *", calendar=calendar("every day")))
    definitions.pause([pipeline], by=operator)
    clock.tick_at(at(13))
    assert skips_of(pipeline) == [("paused", at(13), at(13), 1)]


def test_a_calendar_that_cannot_be_read_stops_nobody(clock: Clock) -> None:
    pipeline = clock.pipeline(cron("0 * * * *", calendar=calendar("every day")))
    Calendar.objects.update(closed=["no such thing"])
    clock.tick_at(at(13))
    assert run_times(pipeline) == [at(13)]


def test_fifty_calendars_take_as_many_queries_as_one(clock: Clock, django_assert_max_num_queries: Any) -> None:
    for number in range(50):
        name = calendar("every day 12:00-13:30", name=f"Calendar {number}")
        clock.pipeline(cron("0 * * * *", calendar=name, jitter_s=60))
    with django_assert_max_num_queries(40) as closed:
        assert clock.tick_at(at(13)) == 0
    with django_assert_max_num_queries(40) as run:
        assert clock.tick_at(at(14)) == 50
    plain = [clock.pipeline(cron("0 * * * *")) for _ in range(50)]
    Pipeline.objects.exclude(pk__in=[pipeline.pk for pipeline in plain]).update(state="archived")
    Pipeline.objects.get(pk=plain[0].pk).schedules.model.objects.exclude(pipeline__in=plain).delete()
    with django_assert_max_num_queries(40) as without:
        clock.tick_at(at(15))
    assert len(run) == len(without) + 1, "one for all calendars, none where there is none"
    assert len(closed) <= len(run)


@pytest.mark.parametrize("missed", Missed)
def test_closed_times_in_the_middle_of_an_outage_are_skips_of_their_own(clock: Clock, missed: str) -> None:
    pipeline = clock.pipeline(cron("0 * * * *", calendar=calendar("every day 14:00-16:00")), missed=missed)
    clock.tick_at(at(18, 30))
    skipped = skips_of(pipeline)
    assert ("calendar", at(14), at(15), 2) in skipped
    if missed == Missed.SKIP:
        assert sorted(skipped, key=lambda skip: skip[1]) == [
            ("missed", at(13), at(13), 1), ("calendar", at(14), at(15), 2), ("missed", at(16), at(18), 3),
        ]  # fmt: skip
    check_books(pipeline, clock.now)


# Jitter


def test_jitter_delays_the_start_and_nothing_else(clock: Clock) -> None:
    pipelines = [clock.pipeline(cron("0 * * * *", jitter_s=600)) for _ in range(20)]
    clock.tick_at(at(13))
    runs = [runs_of(pipeline)[0] for pipeline in pipelines]
    assert {(run.scheduled_for, run.data_interval_start, run.data_interval_end) for run in runs} == {
        (at(13), at(12), at(13))
    }
    starts = {run.due for run in runs}
    assert len(starts) == 20
    assert min(starts) >= at(13)
    assert max(starts) < at(13, 10)
    assert max(starts) - min(starts) > timedelta(minutes=1), "spread out"


def test_jitter_is_the_same_whoever_ticks_and_another_for_the_next_tick(clock: Clock) -> None:
    pipeline = clock.pipeline(cron("0 * * * *", jitter_s=600), overlap=Overlap.QUEUE)
    clock.tick_at(at(13), at(14))
    first, second = (run.due - run.scheduled_for for run in runs_of(pipeline))
    assert first != second
    Run.objects.all().delete()
    pipeline.schedules.update(ticked_through=at(12), next_due=at(13))
    clock.tick_at(at(13, 0, 30), at(14, 0, 30))
    assert [run.due - run.scheduled_for for run in runs_of(pipeline)] == [first, second]


def test_jitter_longer_than_the_rule_does_not_turn_runs_round(clock: Clock) -> None:
    pipeline = clock.pipeline(every(60, jitter_s=3600), overlap=Overlap.QUEUE)
    for minute in range(1, 31):
        clock.tick_at(at(12, minute))
    starts = [run.due for run in runs_of(pipeline)]
    assert starts == sorted(set(starts))


@pytest.mark.parametrize(
    ("more", "ends"),
    [
        ({"calendar": "Maintenance"}, at(14)),
        ({"active_until": at(13, 59)}, at(13, 59)),
        ({"calendar": "Maintenance", "active_until": at(13, 57)}, at(13, 57)),
        ({"active_until": at(13, 55)}, at(13, 55)),
    ],
)
def test_jitter_leads_into_no_closed_time_and_not_past_the_window(
    clock: Clock, more: dict[str, Any], ends: datetime
) -> None:
    calendar("every day 14:00-16:00", name="Maintenance")
    pipelines = [clock.pipeline(cron("55 * * * *", jitter_s=3 * 3600, **more)) for _ in range(10)]
    clock.tick_at(at(13, 55))
    starts = {runs_of(pipeline)[0].due for pipeline in pipelines}
    assert at(13, 55) <= min(starts) <= max(starts) <= ends
    assert ends == at(13, 55) or len(starts) == 10, "spread over the time that is left"
    assert max(starts) < at(14)


def test_a_calendar_is_asked_once_a_tick_for_all_who_go_by_it(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = calendar("every day 14:00-16:00")
    asked: list[datetime] = []
    plain = Closures.next
    monkeypatch.setattr(Closures, "next", lambda self, at, until: asked.append(at) or plain(self, at, until))
    for jitter_s in (1200, 2400, 21600):
        clock.pipeline(cron("0 * * * *", calendar=closed, jitter_s=jitter_s))
    clock.tick_at(at(13))
    assert asked == [at(13)]


def test_jitter_with_calendars_takes_no_query_more(clock: Clock, django_assert_num_queries: Any) -> None:
    closed = calendar("every day 14:00-16:00")
    for _ in range(5):
        clock.pipeline(cron("*/30 * * * *", calendar=closed, jitter_s=7200))
    clock.now = at(12, 30)
    with CaptureQueriesContext(connection) as with_jitter:
        ticker.tick()
    Run.objects.all().delete()
    Schedule.objects.update(jitter_s=0)
    clock.now = at(13)
    with django_assert_num_queries(len(with_jitter)):
        ticker.tick()


@pytest.mark.parametrize("by_the_form", [False, True])
def test_a_pause_takes_back_what_waits_for_nothing_but_its_jitter(
    clock: Clock, operator: User, by_the_form: bool
) -> None:
    delayed, prompt, other = (clock.pipeline(cron("0 * * * *", jitter_s=each)) for each in (3600, 0, 3600))
    clock.tick_at(at(13))
    services.request_run(delayed, trigger=Trigger.MANUAL, by=operator)
    for pipeline in (delayed, prompt):
        if by_the_form:
            pipeline.state = PipelineState.PAUSED
            definitions.save_pipeline(pipeline, schedules=None, by=operator)
        else:
            definitions.pause([pipeline], by=operator)
    (taken,) = Run.objects.filter(pipeline=delayed, trigger=Trigger.SCHEDULE)
    assert (taken.status, taken.error_code, taken.cancelled_by) == ("cancelled", "paused_before_start", operator)
    assert taken.finished_at is not None
    line = LogLine.objects.get(run=taken)
    assert "was paused" in line.message
    assert taken.last_seq == line.seq
    assert Run.objects.get(pipeline=delayed, trigger=Trigger.MANUAL).status == "queued", "a person asked for it"
    assert [run.status for run in runs_of(prompt)] == ["queued"], "its turn had come"
    assert [run.status for run in runs_of(other)] == ["queued"]
    clock.tick_at(at(13, 59))
    definitions.resume([delayed], by=operator)
    clock.tick_at(at(14))
    assert run_times(delayed)[:2] == [at(13), at(14)]
    services.clear_run(taken, by=operator)
    taken.refresh_from_db()
    assert taken.status == "queued"
    check_books(prompt, clock.now)


def test_a_worker_waits_for_the_jitter_and_the_page_says_so(
    clock: Clock, claim: Callable[..., services.Claim | None]
) -> None:
    for _ in range(4):
        clock.pipeline(cron("0 * * * *", jitter_s=3600))
    clock.tick_at(at(13))
    # The one that was given the longest wait: chance may have given one of them none to speak of.
    run = Run.objects.latest("due")
    Run.objects.exclude(pk=run.pk).delete()
    # As the real clock sees it: the tick was just now.
    shift = ticker.queries.timezone.now() - at(13)
    Run.objects.update(scheduled_for=F("scheduled_for") + shift, due=F("due") + shift)
    run.refresh_from_db()
    assert claim() is None
    assert "spread" in waiting.why_waiting(run)
    Run.objects.update(due=F("scheduled_for"))
    assert claim() is not None


# All of it together


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_every_tick_has_one_run_or_one_skip(
    clock: Clock, operator: User, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Calendars that change, windows, jitter, pauses, edits, outages: the books are right, runs are in order."""
    chance = random.Random(seed)
    monkeypatch.setattr(ticker, "TICKS_AT_ONCE", chance.choice([20, 60, 1000]))
    night, some = calendar("every day 22:00-05:30", name="Night"), calendar("every Mon-Wed 13:10-16:50", name="Some")
    rules = [
        cron("0 * * * *", calendar=night), cron("*/10 * * * *", "Asia/Kolkata", calendar=some, jitter_s=900),
        every(900, active_from=at(14, 7), calendar=some), cron("15 */2 * * *", active_until=at(9, day=3)),
        every(45, active_from=at(18), active_until=at(19), jitter_s=7), cron("@daily", jitter_s=3600),
    ]  # fmt: skip
    pipelines = [
        clock.pipeline(
            *chance.sample(rules, chance.randint(1, 3)),
            overlap=chance.choice(Overlap.values),
            missed=chance.choice(Missed.values),
        )
        for _ in range(3)
    ]
    # Of each run the step at which it was made, and the one at which it ended.
    made: dict[Any, int] = {}
    ended: dict[Any, int] = {}
    for step in range(25):
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
                over = Run.objects.filter(pipeline=pipeline, due__lte=clock.now)
                ended = {**dict.fromkeys(over.values_list("pk", flat=True), step), **ended}
                over.update(status="succeeded", lease_until=None)
            case 4:
                changed = Calendar.objects.get(name="Some")
                changed.closed = chance.choice([[], ["every day"], ["every Tue 06:00-18:00"]])
                calendars.save_calendar(changed, by=None)
        clock.tick_after(seconds=chance.choice([1, 30, 600, 3600, 5 * 3600]))
        made = {**dict.fromkeys(Run.objects.values_list("pk", flat=True), step), **made}
    while Schedule.objects.filter(next_due__lte=clock.now).exists():
        ticker.tick()
    for pipeline in pipelines:
        check_books(pipeline, clock.now)
        times = run_times(pipeline)
        assert len(times) == len(set(times))
        # What a pause took back starts no more.
        waited: list[Run] = []
        for run in runs_of(pipeline):
            if run.error_code:
                continue
            # Ticks that were missed may come when what was due after them has run already.
            waited = [other for other in waited if ended.get(other.pk, 25) > made.get(run.pk, 25)]
            assert all(other.due < run.due for other in waited), "in the order of their ticks"
            waited.append(run)
    assert Skip.objects.filter(reason="calendar").exclude(calendar__in=["Night", "Some"]).count() == 0
