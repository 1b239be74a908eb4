"""What one pass of the ticker writes: runs, and skips as unbroken ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from pipelines import schedules
from pipelines.models import Pipeline, Schedule
from runs import priorities
from runs.models import Prerequisite, Run, Skip, Trigger
from runs.services.bulk import insert_alike
from runs.services.prerequisites import hold_back
from runs.states import RunStatus

TIMES = ("scheduled_for", "data_interval_start", "data_interval_end")
Instant = tuple[UUID, datetime]


@dataclass(frozen=True, order=True)
class Tick:
    """One firing of one schedule."""

    at: datetime
    schedule: Schedule = field(compare=False)

    @property
    def instant(self) -> Instant:
        return self.schedule.pk, self.at


@dataclass
class Decisions:
    """What one pass writes, kept until it is all decided.

    `ending` are skips, stored or new, by the tick that they end with: the next one may make them longer.
    """

    before: dict[Instant, datetime | None]
    # Where the data interval of a tick begins that comes after ticks which a calendar closed.
    since: dict[Instant, datetime | None]
    ending: dict[Instant, Skip]
    done: set[Instant]
    # Over how many seconds the start of a tick's run is spread.
    spread_of: Callable[[Tick], float]
    runs: list[Run] = field(default_factory=list)
    new_skips: list[Skip] = field(default_factory=list)
    grown_skips: dict[int, Skip] = field(default_factory=dict)

    @classmethod
    def after(cls, ticks: Sequence[Tick], spread_of: Callable[[Tick], float]) -> Decisions:
        """Begin with what is stored about the ticks right before `ticks`; locks the skips that may grow."""
        before: dict[Instant, datetime | None] = {}
        last: dict[UUID, datetime] = {}
        firsts: dict[UUID, datetime | None] = {}
        for tick in ticks:
            pk = tick.schedule.pk
            if pk not in last:
                firsts[pk] = schedules.previous_time(schedules.Rule.of(tick.schedule), tick.at)
            before[tick.instant] = last.get(pk, firsts[pk])
            last[pk] = tick.at
        adjoining = Skip.objects.raw(
            """
            SELECT s.* FROM runs_skip s JOIN unnest(%s::uuid[], %s::timestamptz[]) AS f (schedule, last)
              ON s.schedule_id = f.schedule AND s.last = f.last
            FOR UPDATE OF s
            """,
            [list(firsts), list(firsts.values())],
        )
        ending = {(skip.schedule_id, skip.last): skip for skip in adjoining}
        closed = {skip.schedule_id: skip for skip in ending.values() if skip.reason == Skip.Reason.CALENDAR}
        since = {
            first.instant: schedules.previous_time(schedules.Rule.of(first.schedule), closed[pk].first)
            for pk, first in _first_of_each(ticks).items()
            if pk in closed
        }
        done: set[Instant] = set()
        if ticks:
            ran = Run.objects.filter(schedule__in=list(last), scheduled_for__gte=min(tick.at for tick in ticks))
            done = set(ran.values_list("schedule", "scheduled_for"))
        return cls(before, since, ending, done, spread_of)

    def has_run(self, tick: Tick) -> bool:
        """Whether the tick has its run already: a database that was put back in time ticks again."""
        return tick.instant in self.done

    def close(self, ticks: Sequence[Tick], closed: Mapping[Instant, str]) -> None:
        """Skip what calendars closed, by their names; the next tick's data interval reaches back over it."""
        start: dict[UUID, datetime | None] = {}
        for tick in ticks:
            pk = tick.schedule.pk
            if tick.instant in closed:
                start.setdefault(pk, self.begin_of(tick))
                self.skip([tick], Skip.Reason.CALENDAR, calendar=closed[tick.instant])
            elif pk in start:
                self.since[tick.instant] = start.pop(pk)

    def begin_of(self, tick: Tick) -> datetime | None:
        return self.since.get(tick.instant, self.before[tick.instant])

    def run(self, same: Sequence[Tick], pipeline: Pipeline, *, behind: Run | None) -> Run:
        """One run for ticks of one instant."""
        run = self.new_run(same[0], pipeline, behind=behind)
        self.merge(same, run)
        return run

    def new_run(self, tick: Tick, pipeline: Pipeline, *, behind: Run | None, since: datetime | None = None) -> Run:
        """A run that comes after the one it waits `behind`, whatever the jitter of both."""
        due = schedules.start_of(tick.schedule.pk, tick.at, self.spread_of(tick))
        if behind is not None and behind.due >= due:
            due = behind.due + timedelta(microseconds=1)
        run = Run(
            pipeline=pipeline,
            revision_id=pipeline.revision_id,
            trigger=Trigger.SCHEDULE,
            schedule=tick.schedule,
            scheduled_for=tick.at,
            data_interval_start=self._covered(tick) or since or self.begin_of(tick),
            data_interval_end=tick.at,
            priority=priorities.scheduled(pipeline),
            # Runs of one pass get in line in the order of their ticks.
            due=due,
        )
        self.runs.append(run)
        tick.schedule.covered_through = tick.at
        return run

    def _covered(self, tick: Tick) -> datetime | None:
        """Up to where earlier runs of the schedule reach, whatever was skipped since; None before the first."""
        covered = tick.schedule.covered_through
        return covered if covered is not None and covered < tick.at else None

    def leave_out(self, ticks: Iterable[Tick]) -> None:
        """The data of ticks that a run, or somebody's word, stands for: no later run reaches back over it."""
        for tick in ticks:
            tick.schedule.covered_through = tick.at

    def merge(self, same: Sequence[Tick], run: Run) -> None:
        """All but the first of the ticks of one instant are skips that name the run."""
        self.leave_out(same[1:])
        self.skip(same[1:], Skip.Reason.MERGED, run)

    def missed_before(self, tick: Tick) -> bool:
        """Whether the ticks right before this one were missed, and no run stands for them yet."""
        skip = self._right_before(tick)
        return skip is not None and skip.reason == Skip.Reason.MISSED and not skip.run_id

    def start_of_missed(self, first: Tick) -> datetime | None:
        """Where the data interval begins that reaches back over everything missed up to `first`."""
        skip = self._right_before(first)
        if skip is None or not self.missed_before(first):
            return self.begin_of(first)
        return schedules.previous_time(schedules.Rule.of(first.schedule), skip.first)

    def skip(self, ticks: Iterable[Tick], reason: Skip.Reason, run: Run | None = None, *, calendar: str = "") -> None:
        """Record skips, one row per schedule and unbroken range."""
        for tick in ticks:
            schedule = tick.schedule
            if schedule.covered_through is None and reason == Skip.Reason.OVERLAP:
                schedule.covered_through = self.begin_of(tick)
            before = self._right_before(tick)
            if before is not None and self._grows(before, tick, reason, run):
                del self.ending[schedule.pk, before.last]
                before.last, before.ticks, before.run, before.calendar = tick.at, before.ticks + 1, run, calendar
                if before.pk:
                    self.grown_skips[before.pk] = before
                self.ending[tick.instant] = before
                continue
            skip = Skip(
                pipeline_id=schedule.pipeline_id,
                schedule=schedule,
                first=tick.at,
                last=tick.at,
                ticks=1,
                reason=reason,
                run=run,
                calendar=calendar,
            )
            self.ending[tick.instant] = skip
            self.new_skips.append(skip)

    def _right_before(self, tick: Tick) -> Skip | None:
        """The skip that ends with the tick right before this one."""
        before = self.before[tick.instant]
        return self.ending.get((tick.schedule.pk, before)) if before is not None else None

    def _grows(self, skip: Skip, tick: Tick, reason: Skip.Reason, run: Run | None) -> bool:
        if skip.reason != reason:
            return False
        # What was missed has no run until the last of it is read.
        return skip.run_id == (run.pk if run else None) or self.missed_before(tick)

    def save(self) -> None:
        prerequisites = hold_back(self.runs)
        for status in (RunStatus.QUEUED, RunStatus.BLOCKED):
            alike = [run for run in self.runs if run.status == status]
            insert_alike(alike, ("id", "pipeline", "revision", "schedule", "priority", *TIMES, "due"))
        if prerequisites:
            Prerequisite.objects.bulk_create(prerequisites)
        Skip.objects.bulk_create(self.new_skips)
        if self.grown_skips:
            Skip.objects.bulk_update(self.grown_skips.values(), ["last", "ticks", "run", "calendar"])


def _first_of_each(ticks: Sequence[Tick]) -> dict[UUID, Tick]:
    firsts: dict[UUID, Tick] = {}
    for tick in ticks:
        firsts.setdefault(tick.schedule.pk, tick)
    return firsts
