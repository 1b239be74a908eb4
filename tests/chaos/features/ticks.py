"""A schedule that fires every second: each tick has one run, or stands in one recorded skip, whoever is killed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from django.utils import timezone

from pipelines import services as definitions
from pipelines.models import Missed, Schedule
from pipelines.specs import ScheduleSpec
from runs.models import Run, Skip
from runs.states import TERMINAL, RunStatus
from tests.chaos.features.watched import Watched
from tests.chaos.feeds import AppendAll, Rows
from tests.chaos.lanes import RUN_LIMIT_S, Outcome, Stuck
from tests.chaos.stack import insist

WINDOW_S = 6
_SECOND = timedelta(seconds=1)


class Small(AppendAll):
    options = {**AppendAll.options, "missed": Missed.ALL}
    ROWS, MORE = 40, 0


class TickLane(Watched):
    FEEDS = {"ticks": Small}

    def _turn(self, meanwhile: Callable[[Run], None] | None) -> Outcome:
        self.feed_insists(self.feed.make)
        # Whole seconds, of which the last one is no tick any more, or just one: that is the schedules' own matter.
        first = timezone.now().replace(microsecond=0) + 2 * _SECOND
        last = first + WINDOW_S * _SECOND
        spec = ScheduleSpec("interval", every_s=1, active_from=first, active_until=last)
        insist(lambda: definitions.save_pipeline(self.pipeline, schedules=[spec], by=None))
        schedule: Schedule = insist(lambda: Schedule.objects.get(pipeline=self.pipeline, ends_at=None))
        runs = self._wait_for_all(schedule, last)
        done = sum(run.status == RunStatus.SUCCEEDED for run in runs)
        rows = Rows({row: count * done for row, count in self.feed.held[0].items()})
        outcome = self.judge_all(runs, [self.rows + rows])
        outcome.verdict.told += insist(lambda: list(_faults(schedule, runs, first, last)))
        return outcome

    def _wait_for_all(self, schedule: Schedule, last: datetime) -> list[Run]:
        """Until nothing of the window is to come any more, and all its runs have ended."""
        deadline = time.monotonic() + RUN_LIMIT_S
        while True:
            insist(schedule.refresh_from_db)
            runs: list[Run] = insist(lambda: list(Run.objects.filter(schedule=schedule).order_by("scheduled_for")))
            for run in runs:
                insist(lambda run=run: self._hurry(run))
            if schedule.next_due is None and runs and all(run.status in TERMINAL for run in runs):
                return runs
            if not self.is_in_peace():
                deadline = time.monotonic() + RUN_LIMIT_S
            if time.monotonic() > deadline:
                run = runs[-1] if runs else self.pipeline.runs.first()
                assert run is not None, f"{self.pipeline.name} never ticked"
                raise Stuck(run, f"ticks up to {last} are not over: {schedule.ticked_through}")
            time.sleep(0.2)

    def may_be_seen(self, found: Rows, before: Rows) -> bool:
        """So many times all rows of the round."""
        times = {found[row] - before[row] for row in self.feed.held[0]}
        return len(times) == 1 and found == before + Rows(dict.fromkeys(self.feed.held[0], times.pop()))


def _faults(schedule: Schedule, runs: list[Run], first: datetime, last: datetime) -> Iterable[str]:
    ticks = Counter(run.scheduled_for for run in runs if run.scheduled_for is not None)
    for skip in Skip.objects.filter(schedule=schedule):
        seconds = round((skip.last - skip.first).total_seconds()) + 1
        if seconds != skip.ticks:
            yield f"a skip of {skip.ticks} ticks reaches from {skip.first} to {skip.last}"
        ticks += Counter(skip.first + number * _SECOND for number in range(seconds))
    twice = [str(tick) for tick, count in ticks.items() if count > 1]
    if twice:
        yield f"these ticks have more than one run or skip: {twice}"
    missing = [str(first + number * _SECOND) for number in range(1, WINDOW_S) if first + number * _SECOND not in ticks]
    if missing:
        yield f"these ticks have neither a run nor a skip: {missing}"
    others = [str(tick) for tick in ticks if not first <= tick <= last]
    if others:
        yield f"these are no ticks: {others}"


LANES = (TickLane,)
