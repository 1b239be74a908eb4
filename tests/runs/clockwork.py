"""A database clock that tests set, and pipelines with schedules under it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipelines import queries as definition_queries
from pipelines import schedules
from pipelines.models import Pipeline, Schedule
from pipelines.specs import ScheduleSpec
from runs import queries, ticker
from runs.models import Run, Skip

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def cron(text: str, zone: str = "UTC", **more: Any) -> ScheduleSpec:
    return ScheduleSpec("cron", cron=text, zone=zone, **more)


def every(seconds: int, **more: Any) -> ScheduleSpec:
    return ScheduleSpec("interval", every_s=seconds, **more)


@dataclass
class Clock:
    """Stands for the database's clock: it cannot be had otherwise."""

    make_pipeline: Callable[..., Pipeline]
    now: datetime = NOON
    pipelines: list[Pipeline] = field(default_factory=list)

    def pipeline(self, *rules: ScheduleSpec, **changes: Any) -> Pipeline:
        """A pipeline that has these schedules from now on."""
        pipeline = self.make_pipeline(f"Scheduled {len(self.pipelines)}", schedules=rules, **changes)
        Pipeline.objects.filter(pk=pipeline.pk).update(active_from=self.now)
        pipeline.refresh_from_db()
        self.pipelines.append(pipeline)
        return pipeline

    def tick_at(self, *moments: datetime) -> int:
        queued = 0
        for moment in moments:
            self.now = moment
            queued += ticker.tick()
        return queued

    def tick_after(self, **later: float) -> int:
        return self.tick_at(self.now + timedelta(**later))


@pytest.fixture
def clock(make_pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(make_pipeline)
    monkeypatch.setattr(queries, "database_now", lambda: clock.now)
    monkeypatch.setattr(definition_queries, "database_now", lambda: clock.now)
    return clock


def at(hour: int, minute: int = 0, second: int = 0, day: int = 2) -> datetime:
    return datetime(2026, 3, day, hour, minute, second, tzinfo=UTC)


def runs_of(pipeline: Pipeline) -> list[Run]:
    return list(Run.objects.filter(pipeline=pipeline).order_by("scheduled_for"))


def run_times(pipeline: Pipeline) -> list[datetime]:
    return [run.scheduled_for for run in runs_of(pipeline)]


def skips_of(pipeline: Pipeline) -> list[tuple[str, datetime, datetime, int]]:
    found = Skip.objects.filter(pipeline=pipeline).order_by("first", "schedule__starts_at")
    return [(skip.reason, skip.first, skip.last, skip.ticks) for skip in found]


def check_books(pipeline: Pipeline, until: datetime) -> None:
    """Every tick has one run or one recorded skip."""
    for schedule in Schedule.objects.filter(pipeline=pipeline):
        rule = schedules.Rule.of(schedule)
        end = min(until, schedule.ends_at) if schedule.ends_at else until
        due = schedules.due_times(rule, schedule.starts_at, end, limit=100_000)
        kept = list(Run.objects.filter(schedule=schedule).values_list("scheduled_for", flat=True))
        for skip in Skip.objects.filter(schedule=schedule):
            ticks = schedules.due_times(rule, skip.first - timedelta(microseconds=1), skip.last, limit=100_000)
            assert (ticks[0], ticks[-1], len(ticks)) == (skip.first, skip.last, skip.ticks)
            kept += ticks
        assert sorted(kept) == due
