"""Due times → runs and skips; bells for what nobody claimed; lost leases → recovery.

Any number of tickers may run: each takes pipelines under a row lock and passes by what another holds,
and `ticked_through` moves in the transaction that writes the runs and skips of its ticks.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from pipelines import schedules
from pipelines.models import Missed, Overlap, Pipeline, PipelineState, Schedule
from runs import live, queries, services
from runs.models import Run, Skip, Trigger
from runs.states import ACTIVE, RunStatus

log = logging.getLogger(__name__)

PIPELINES_AT_ONCE = 200
TICKS_AT_ONCE = 1000
LATE_AFTER = timedelta(seconds=60)
UNREADABLE_FOR = timedelta(minutes=5)


@dataclass(frozen=True, order=True)
class Tick:
    """One firing of one schedule."""

    at: datetime
    schedule: Schedule = field(compare=False)


@dataclass
class Standing:
    """What a pipeline already has under way, kept up to date while its ticks are decided."""

    active: Run | None = None
    waiting: Run | None = None


@dataclass
class Decisions:
    """What one pass writes."""

    runs: list[Run] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)

    def run(self, tick: Tick, pipeline: Pipeline, *, since: datetime | None) -> Run:
        run = Run(
            pipeline=pipeline,
            revision_id=pipeline.revision_id,
            trigger=Trigger.SCHEDULE,
            schedule=tick.schedule,
            scheduled_for=tick.at,
            data_interval_start=since or schedules.previous_time(schedules.Rule.of(tick.schedule), tick.at),
            data_interval_end=tick.at,
            priority=services.SCHEDULED,
        )
        self.runs.append(run)
        return run

    def skip(self, ticks: Iterable[Tick], reason: Skip.Reason, run: Run | None = None) -> None:
        """One row per schedule and unbroken range."""
        by_schedule: dict[Schedule, list[datetime]] = defaultdict(list)
        for tick in ticks:
            by_schedule[tick.schedule].append(tick.at)
        for schedule, times in by_schedule.items():
            last = self.skips[-1] if self.skips else None
            if last and last.schedule_id == schedule.pk and last.reason == reason and last.run is run:
                last.last, last.ticks = times[-1], last.ticks + len(times)
                continue
            self.skips.append(
                Skip(
                    pipeline_id=schedule.pipeline_id,
                    schedule=schedule,
                    first=times[0],
                    last=times[-1],
                    ticks=len(times),
                    reason=reason,
                    run=run,
                )
            )


def tick() -> int:
    """Turn every tick that is due into a run or a recorded skip; returns how many runs were queued."""
    queued = 0
    while True:
        runs, looked_at = _tick_some()
        queued += len(runs)
        for run in runs:
            live.push_board(run.pk, run.pipeline_id, RunStatus.QUEUED)
        if looked_at < PIPELINES_AT_ONCE:
            return queued


@transaction.atomic
def _tick_some() -> tuple[list[Run], int]:
    now = queries.database_now()
    pipelines = {
        pipeline.pk: pipeline
        for pipeline in Pipeline.objects.select_for_update(skip_locked=True, no_key=True, of=("self",))
        .filter(pk__in=Schedule.objects.filter(next_due__lte=now).values("pipeline"))
        .order_by("pk")[:PIPELINES_AT_ONCE]
    }
    due: dict[UUID, list[Schedule]] = defaultdict(list)
    for schedule in Schedule.objects.filter(pipeline__in=pipelines, next_due__lte=now).order_by("starts_at", "pk"):
        due[schedule.pipeline_id].append(schedule)
    standings = _standings(pipelines)
    decisions = Decisions()
    for pk, its_schedules in due.items():
        try:
            ticks, through = _ticks_of(its_schedules, now)
        except schedules.RuleError as error:
            # One rule that cannot be read (a zone that is gone) must not stop everybody's ticks.
            log.error("The schedules of %s cannot be read: %s", pipelines[pk].name, error)
            for schedule in its_schedules:
                schedule.next_due = now + UNREADABLE_FOR
            continue
        _decide(pipelines[pk], ticks, standings[pk], decisions, now)
        for schedule in its_schedules:
            schedule.ticked_through = through[schedule.pk]
            schedule.next_due = _next_due(schedule)
    Run.objects.bulk_create(decisions.runs)
    _save_skips(decisions.skips)
    Schedule.objects.bulk_update(
        [schedule for its in due.values() for schedule in its], ["ticked_through", "next_due"], batch_size=500
    )
    return decisions.runs, len(pipelines)


def _standings(pipelines: Iterable[UUID]) -> dict[UUID, Standing]:
    standings: dict[UUID, Standing] = defaultdict(Standing)
    unfinished = Run.objects.filter(
        Q(status__in=ACTIVE) | Q(status=RunStatus.QUEUED, trigger=Trigger.SCHEDULE), pipeline__in=list(pipelines)
    )
    for run in unfinished:
        if run.status == RunStatus.QUEUED:
            standings[run.pipeline_id].waiting = run
        else:
            standings[run.pipeline_id].active = run
    return standings


def _ticks_of(its_schedules: list[Schedule], now: datetime) -> tuple[list[Tick], dict[UUID, datetime]]:
    """All ticks of a pipeline's schedules up to now, in order, and how far each schedule was read."""
    ticks: list[Tick] = []
    through: dict[UUID, datetime] = {}
    for schedule in its_schedules:
        until = min(now, schedule.ends_at) if schedule.ends_at else now
        rule = schedules.Rule.of(schedule)
        times = schedules.due_times(rule, schedule.ticked_through, until, limit=TICKS_AT_ONCE)
        ticks += [Tick(at, schedule) for at in times]
        # A full page of ticks: the rest comes with the next pass.
        through[schedule.pk] = times[-1] if len(times) == TICKS_AT_ONCE else max(until, schedule.ticked_through)
    return sorted(ticks), through


def _next_due(schedule: Schedule) -> datetime | None:
    at = schedules.next_time(schedules.Rule.of(schedule), schedule.ticked_through)
    if at is None or (schedule.ends_at and at > schedule.ends_at):
        return None
    return at


def _decide(pipeline: Pipeline, ticks: list[Tick], standing: Standing, decisions: Decisions, now: datetime) -> None:
    """Give each tick its run or its skip: pause first, then what was missed, then what overlaps."""
    resting = pipeline.state != PipelineState.ACTIVE or pipeline.revision_id is None
    paused = [t for t in ticks if resting or t.at <= pipeline.active_from]
    decisions.skip(paused, Skip.Reason.PAUSED)
    ticks = ticks[len(paused) :]
    late = [t for t in ticks if t.at < now - LATE_AFTER]
    on_time = ticks[len(late) :]
    since: datetime | None = None
    if late and pipeline.missed == Missed.SKIP:
        decisions.skip(late, Skip.Reason.MISSED)
    elif late and pipeline.missed == Missed.LATEST:
        # The newest tick runs for all of them: its data interval reaches back over what was missed.
        chosen = on_time[0] if on_time else late[-1]
        missed = [t for t in late if t.at != chosen.at]
        first = late[0]
        since = schedules.previous_time(schedules.Rule.of(first.schedule), first.at)
        decisions.skip(missed, Skip.Reason.MISSED)
        on_time = on_time or [t for t in late if t.at == chosen.at]
    elif late:
        for same in _by_instant(late):
            run = decisions.run(same[0], pipeline, since=None)
            decisions.skip(same[1:], Skip.Reason.MERGED, run)
            standing.waiting = run
    for same in _by_instant(on_time):
        blocker = _blocker(pipeline, standing)
        if blocker is not None:
            decisions.skip(same, Skip.Reason.OVERLAP, blocker)
            continue
        run = decisions.run(same[0], pipeline, since=since)
        decisions.skip(same[1:], Skip.Reason.MERGED, run)
        standing.waiting, since = run, None


def _blocker(pipeline: Pipeline, standing: Standing) -> Run | None:
    """The run that stands for this tick, by the pipeline's overlap policy; None: the tick gets its own."""
    if pipeline.overlap == Overlap.QUEUE:
        return None
    if pipeline.overlap == Overlap.SKIP:
        return standing.active or standing.waiting
    return standing.waiting


def _by_instant(ticks: list[Tick]) -> list[list[Tick]]:
    """Ticks of one pipeline at one instant make one run."""
    grouped: dict[datetime, list[Tick]] = defaultdict(list)
    for tick in ticks:
        grouped[tick.at].append(tick)
    return list(grouped.values())


def _save_skips(skips: list[Skip]) -> None:
    """Insert skips; one that goes on where the schedule's newest one ended makes that one longer instead."""
    newest = {
        skip.schedule_id: skip
        for skip in Skip.objects.filter(schedule__in={skip.schedule_id for skip in skips})
        .order_by("schedule", "-last")
        .distinct("schedule")
    }
    fresh = []
    for skip in skips:
        before = newest.pop(skip.schedule_id, None)
        run = skip.run.pk if skip.run else None
        if before and before.reason == skip.reason and before.run_id == run and _adjoin(before, skip):
            Skip.objects.filter(pk=before.pk).update(last=skip.last, ticks=F("ticks") + skip.ticks)
        else:
            fresh.append(skip)
    Skip.objects.bulk_create(fresh)


def _adjoin(before: Skip, skip: Skip) -> bool:
    return schedules.next_time(schedules.Rule.of(skip.schedule), before.last) == skip.first


# Bells and recovery ---------------------------------------------------------------------------


def bells_due(queued: int, *, waited: timedelta = timedelta(seconds=0.5)) -> int:
    """How many bells to ring: for what was just queued and what waits unclaimed, at most one a free slot."""
    waiting = max(queued, queries.claimable_count(waited=waited))
    return min(waiting, max(queries.free_slots(), 1)) if waiting else 0


def seconds_to_next(longest: float) -> float:
    """How long the ticker may sleep: until the next tick is due, at most `longest`."""
    next_due = Schedule.objects.filter(next_due__isnull=False).order_by("next_due").values_list("next_due", flat=True)
    first = next_due.first()
    if first is None:
        return longest
    return min(longest, max(0.0, (first - timezone.now()).total_seconds()))
