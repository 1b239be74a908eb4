"""Data intervals of scheduled runs follow one another: nothing is read twice, and only what is meant to be left out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from pipelines import services as definitions
from pipelines.models import Missed, Overlap
from runs.models import Run
from runs.states import RunStatus
from tests.runs.clockwork import at, clock, cron, every, runs_of

__all__ = ["clock"]
pytestmark = pytest.mark.django_db

HOURLY = cron("0 * * * *")


def intervals(pipeline) -> list[tuple[datetime, datetime]]:
    return [(run.data_interval_start, run.data_interval_end) for run in runs_of(pipeline)]


def follow_one_another(pipeline) -> bool:
    return all(one[1] == other[0] for one, other in pairwise(intervals(pipeline)))


def work_off() -> None:
    Run.objects.filter(status=RunStatus.QUEUED).update(status=RunStatus.SUCCEEDED)


def replace(clock, pipeline, *rules) -> None:
    definitions.save_pipeline(pipeline, schedules=rules, by=None)


def test_a_tick_that_was_skipped_for_another_run_leaves_its_data_to_the_next(clock):
    pipeline = clock.pipeline(HOURLY, overlap=Overlap.COALESCE)
    clock.tick_at(at(13), at(14), at(15))
    work_off()
    clock.tick_at(at(16))
    assert intervals(pipeline) == [(at(12), at(13)), (at(13), at(16))]


def test_so_does_one_that_was_skipped_before_the_first_run(clock):
    pipeline = clock.pipeline(HOURLY, overlap=Overlap.SKIP)
    Run.objects.create(pipeline=pipeline, revision_id=pipeline.revision_id, trigger="manual", status=RunStatus.RUNNING)
    clock.tick_at(at(13), at(14))
    Run.objects.update(status=RunStatus.SUCCEEDED)
    clock.tick_at(at(15))
    assert (at(12), at(15)) in intervals(pipeline)


def test_missed_ticks_that_another_run_stood_for_leave_their_data_to_the_next(clock):
    pipeline = clock.pipeline(HOURLY)
    clock.tick_at(at(13), at(16))  # 14 and 15 are missed, and the run of 13 waits
    work_off()
    clock.tick_at(at(17))
    assert intervals(pipeline) == [(at(12), at(13)), (at(13), at(17))]


def test_what_somebody_said_is_to_be_left_out_stays_out(clock):
    skips = clock.pipeline(HOURLY, missed=Missed.SKIP)
    paused = clock.pipeline(HOURLY)
    clock.tick_at(at(13))
    work_off()
    definitions.pause([paused], by=None)
    clock.tick_at(at(16, 30))
    definitions.resume([paused], by=None)
    clock.tick_at(at(17))
    assert intervals(skips) == intervals(paused) == [(at(12), at(13)), (at(16), at(17))]


@pytest.mark.parametrize("rule", [cron("30 * * * *"), every(7200), cron("0 18 * * *", "Europe/Berlin")])
def test_another_rule_begins_where_the_former_one_ended(clock, rule):
    pipeline = clock.pipeline(HOURLY)
    clock.tick_at(at(13))
    work_off()
    clock.now = at(13, 40)
    replace(clock, pipeline, rule)
    for minutes in range(1, 24 * 60 + 30, 30):
        clock.tick_at(at(13, 40) + timedelta(minutes=minutes))
        work_off()
    assert len(intervals(pipeline)) > 1
    assert intervals(pipeline)[1][0] == at(13)
    assert follow_one_another(pipeline)


def test_ticks_that_nobody_has_looked_at_when_the_rule_changes_still_have_their_data(clock):
    pipeline = clock.pipeline(HOURLY)
    clock.tick_at(at(13))
    work_off()
    clock.now = at(14, 0, 30)
    replace(clock, pipeline, cron("45 * * * *"))
    clock.tick_at(at(14, 0, 40))
    work_off()
    clock.tick_at(at(14, 45))
    assert intervals(pipeline) == [(at(12), at(13)), (at(13), at(14)), (at(14), at(14, 45))]


def test_rules_that_change_twice_before_a_tick_lose_nothing(clock):
    pipeline = clock.pipeline(HOURLY)
    clock.tick_at(at(13))
    work_off()
    clock.now = at(13, 10)
    replace(clock, pipeline, cron("20 * * * *"))
    clock.now = at(13, 15)
    replace(clock, pipeline, cron("50 * * * *"))
    clock.tick_at(at(13, 50))
    assert intervals(pipeline)[1:] == [(at(13), at(13, 50))]


def test_two_rules_in_the_place_of_one_begin_where_it_ended(clock):
    pipeline = clock.pipeline(HOURLY)
    clock.tick_at(at(13))
    work_off()
    clock.now = at(13, 10)
    replace(clock, pipeline, cron("30 14 * * *"), cron("0 15 * * *"))
    clock.tick_at(at(14, 30))
    work_off()
    clock.tick_at(at(15))
    assert intervals(pipeline)[1:] == [(at(13), at(14, 30)), (at(13), at(15))]


@pytest.mark.parametrize(
    ("month", "hours", "begins"),
    # At midnight in Berlin.
    [(3, 23, datetime(2026, 3, 28, 23, tzinfo=UTC)), (10, 25, datetime(2026, 10, 24, 22, tzinfo=UTC))],
)
def test_days_of_a_zone_follow_one_another_through_both_clock_changes(clock, month, hours, begins):
    clock.now = datetime(2026, month, 20, 12, tzinfo=UTC)
    pipeline = clock.pipeline(cron("0 0 * * *", "Europe/Berlin"))
    for day in range(20):
        clock.tick_at(datetime(2026, month, 21, tzinfo=UTC) + timedelta(days=day))
        work_off()
    found = intervals(pipeline)
    assert (len(found), follow_one_another(pipeline)) == (20, True)
    lengths = {(end - start).total_seconds() / 3600: start for start, end in found}
    assert set(lengths) == {24, hours}
    assert lengths[hours] == begins
