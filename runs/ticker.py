"""Due times → runs and skips; bells for what nobody claimed.

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

from django.db import connection, transaction

from pipelines import schedules
from pipelines.models import Missed, Overlap, Pipeline, PipelineState, Schedule
from runs import capacity, live, queries
from runs.closings import Closings
from runs.decisions import Decisions, Tick
from runs.models import Run, RunAction, Skip
from runs.states import ACTIVE

log = logging.getLogger(__name__)

PIPELINES_AT_ONCE = 500
TICKS_AT_ONCE = 1000
LATE_AFTER = timedelta(seconds=60)
UNREADABLE_FOR = timedelta(minutes=5)
# A rule that cannot be read: its zone is gone or damaged, its times leave the calendar.
UNREADABLE = (schedules.RuleError, LookupError, ValueError, OverflowError, OSError)


@dataclass
class Standing:
    """What a pipeline already has under way, kept up to date while its ticks are decided."""

    active: Run | None = None
    waiting: Run | None = None


@dataclass
class Reading:
    """The ticks of a pipeline's schedules, in order, up to `through`; with `has_more`, there are others up to now."""

    ticks: list[Tick] = field(default_factory=list)
    has_more: bool = False


def tick() -> int:
    """Turn ticks that are due into runs or recorded skips, of at most PIPELINES_AT_ONCE pipelines.

    Returns how many runs were queued. What is left over is due at once again, see `seconds_to_next`.
    """
    runs = _tick_some()
    live.push_boards(run.pipeline_id for run in runs)
    return len(runs)


@transaction.atomic
def _tick_some() -> list[Run]:
    now = queries.database_now()
    needed = ("state", "revision", "active_from", "missed", "overlap", "priority")
    pipelines = {
        pipeline.pk: pipeline
        for pipeline in Pipeline.objects.select_for_update(skip_locked=True, no_key=True, of=("self",))
        .filter(pk__in=Schedule.objects.filter(next_due__lte=now).values("pipeline"))
        .order_by()
        .only(*needed)[:PIPELINES_AT_ONCE]
    }
    if not pipelines:
        return []
    due: dict[UUID, list[Schedule]] = defaultdict(list)
    for schedule in Schedule.objects.filter(pipeline__in=pipelines, next_due__lte=now).order_by("starts_at", "pk"):
        due[schedule.pipeline_id].append(schedule)
    closings = Closings.of(schedule for its_schedules in due.values() for schedule in its_schedules)
    readings = {pk: _read(its_schedules, now) for pk, its_schedules in due.items()}
    standings = _standings(pipelines)
    ticks = [tick for reading in readings.values() for tick in reading.ticks]
    decisions = Decisions.after(ticks, closings.spread_of)
    for pk, reading in readings.items():
        decisions.leave_out(tick for tick in reading.ticks if decisions.has_run(tick))
        ticks = [tick for tick in reading.ticks if not decisions.has_run(tick)]
        _decide(pipelines[pk], ticks, reading.has_more, standings[pk], decisions, closings, now)
    decisions.save()
    _move_on([schedule for its_schedules in due.values() for schedule in its_schedules])
    return decisions.runs


def _move_on(read: list[Schedule]) -> None:
    """Save how far schedules were read; a bulk_update would cost more than all the rest of a pass."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE pipelines_schedule s SET ticked_through = r.ticked_through, next_due = r.next_due,
                covered_through = r.covered_through
            FROM unnest(%s::uuid[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[])
                AS r (id, ticked_through, next_due, covered_through)
            WHERE s.id = r.id
            """,
            [
                [s.pk for s in read],
                [s.ticked_through for s in read],
                [s.next_due for s in read],
                [s.covered_through for s in read],
            ],
        )


def _standings(pipelines: Iterable[UUID]) -> dict[UUID, Standing]:
    standings: dict[UUID, Standing] = defaultdict(Standing)
    chosen = list(pipelines)
    # A comparison or a slice of a backfill is no reason to skip a tick: its load comes after it.
    active = Run.objects.filter(pipeline__in=chosen, status__in=sorted(ACTIVE)).exclude(
        action__in=[RunAction.COMPARE, RunAction.BACKFILL]
    )
    for run in active.order_by().only("id", "pipeline_id", "status"):
        standings[run.pipeline_id].active = run
    # The last of each queue, however long it is, by the index that workers take from. A run that waits for upstreams
    # counts unless it is about its own data interval: of those, each tick has its own. One that waits for its cost to
    # be approved counts, too; in most installations there is none at all.
    waiting = Run.objects.raw(
        """
        SELECT last.id, last.pipeline_id, last.status, last.due FROM unnest(%s::uuid[]) AS chosen (id)
        CROSS JOIN LATERAL (
            (SELECT id, pipeline_id, status, due FROM runs_run
             WHERE pipeline_id = chosen.id AND status = 'queued' AND trigger = 'schedule'
             ORDER BY priority DESC, due DESC, id DESC LIMIT 1)
            UNION ALL
            (SELECT b.id, b.pipeline_id, b.status, b.due FROM runs_run b
             WHERE b.pipeline_id = chosen.id AND b.status = 'blocked' AND b.trigger = 'schedule' AND NOT EXISTS (
                 SELECT FROM runs_prerequisite p WHERE p.run_id = b.id AND p.interval_end IS NOT NULL)
             LIMIT 1)
            UNION ALL
            (SELECT h.id, h.pipeline_id, h.status, h.due FROM runs_run h
             WHERE h.pipeline_id = chosen.id AND h.status = 'held' AND h.error_code = 'over_budget'
               AND h.trigger = 'schedule'
               AND (SELECT EXISTS (SELECT FROM runs_run WHERE status = 'held' AND error_code = 'over_budget'))
             LIMIT 1)
            LIMIT 1
        ) AS last
        """,
        [chosen],
    )
    for run in waiting:
        standings[run.pipeline_id].waiting = run
    return standings


def _read(its_schedules: list[Schedule], now: datetime) -> Reading:
    """Read a pipeline's schedules up to now, all equally far, and move each to where it was read."""
    times: dict[Schedule, list[datetime]] = {}
    for schedule in its_schedules:
        until = min(now, schedule.ends_at) if schedule.ends_at else now
        try:
            times[schedule] = schedules.due_times(
                schedules.Rule.of(schedule), schedule.ticked_through, until, limit=TICKS_AT_ONCE
            )
        except UNREADABLE as error:
            # It must not stop everybody's ticks; its own stay due.
            log.error("A schedule of %s cannot be read: %s", schedule.pipeline_id, error)
            schedule.next_due = now + UNREADABLE_FOR
    # A full page of ticks: the rest comes with the next pass.
    through = min((its[-1] for its in times.values() if len(its) == TICKS_AT_ONCE), default=now)
    for schedule in times:
        until = min(through, schedule.ends_at) if schedule.ends_at else through
        schedule.ticked_through = max(schedule.ticked_through, until)
        schedule.next_due = _next_due(schedule)
    ticks = [Tick(at, schedule) for schedule, its in times.items() for at in its if at <= through]
    return Reading(sorted(ticks), has_more=through < now)


def _next_due(schedule: Schedule) -> datetime | None:
    at = schedules.next_time(schedules.Rule.of(schedule), schedule.ticked_through)
    if at is None or (schedule.ends_at and at > schedule.ends_at):
        return None
    return at


def _decide(
    pipeline: Pipeline,
    ticks: list[Tick],
    has_more: bool,
    standing: Standing,
    decisions: Decisions,
    closings: Closings,
    now: datetime,
) -> None:
    """Give each tick its run or its skip: pause first, then calendars, what was missed, what overlaps."""
    resting = pipeline.state != PipelineState.ACTIVE or pipeline.revision_id is None
    paused = [t for t in ticks if resting or t.at <= pipeline.active_from]
    decisions.leave_out(paused)
    decisions.skip(paused, Skip.Reason.PAUSED)
    ticks = ticks[len(paused) :]
    if closed := closings.closed(ticks):
        decisions.close(ticks, closed)
        ticks = [tick for tick in ticks if tick.instant not in closed]
    late = [t for t in ticks if t.at < now - LATE_AFTER]
    on_time = _by_instant(ticks[len(late) :])
    if pipeline.missed == Missed.ALL:
        for same in _by_instant(late):
            standing.waiting = decisions.run(same, pipeline, behind=standing.waiting)
    elif pipeline.missed == Missed.SKIP:
        decisions.leave_out(late)
        decisions.skip(late, Skip.Reason.MISSED)
    elif ticks and (late or decisions.missed_before(ticks[0])):
        on_time = _run_latest(pipeline, late, on_time, has_more, standing, decisions)
    for same in on_time:
        if blocker := _blocker(pipeline, standing):
            decisions.skip(same, Skip.Reason.OVERLAP, blocker)
        else:
            standing.waiting = decisions.run(same, pipeline, behind=standing.waiting)


def _run_latest(
    pipeline: Pipeline,
    late: list[Tick],
    on_time: list[list[Tick]],
    has_more: bool,
    standing: Standing,
    decisions: Decisions,
) -> list[list[Tick]]:
    """Let the newest tick run for all that were missed, over all their data; returns the ticks that are left."""
    if has_more and not on_time:
        # Newer ones come with the next pass, which finds these as missed before.
        decisions.skip(late, Skip.Reason.MISSED)
        return []
    chosen, *left = on_time or _by_instant(late)[-1:]
    missed = [t for t in late if t.at < chosen[0].at]
    if blocker := _blocker(pipeline, standing):
        decisions.skip(missed, Skip.Reason.MISSED, blocker)
        decisions.skip(chosen, Skip.Reason.OVERLAP, blocker)
        return left
    since = decisions.start_of_missed((missed or chosen)[0])
    run = decisions.new_run(chosen[0], pipeline, behind=standing.waiting, since=since)
    decisions.skip(missed, Skip.Reason.MISSED, run)
    decisions.merge(chosen, run)
    standing.waiting = run
    return left


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


# Bells ----------------------------------------------------------------------------------------


def bells_due(queued: int, *, waited: timedelta = timedelta(seconds=0.5)) -> int:
    """How many bells to ring: for what was just queued and what waits unclaimed, at most one a free slot.

    Without a free slot none is of use: a worker that finishes or starts looks for work by itself.
    """
    free = capacity.free_slots()
    return capacity.claimable_count(waited=timedelta(0) if queued else waited, most=free) if free else 0


def seconds_to_next(longest: float) -> float:
    """How long the ticker may sleep: until the next tick is due by the database's clock, at most `longest`."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM min(next_due) - clock_timestamp()) FROM pipelines_schedule"
            " WHERE next_due < clock_timestamp() + %s",
            [timedelta(seconds=longest)],
        )
        (wait_s,) = cursor.fetchone()
    return longest if wait_s is None else max(0.0, float(wait_s))
