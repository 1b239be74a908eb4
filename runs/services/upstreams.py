"""Upstreams' successes → downstream runs: those that waited go on, and pipelines without a schedule of their own start.

Each success is handled once: its row goes in the transaction that acts on it, and one pass works at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Exists, OuterRef

from connectors.modes import WriteDisposition
from pipelines import given
from pipelines.locks import AdvisoryLock
from pipelines.models import Dependency, DependencyRule, Overlap, Pipeline, PipelineState, Schedule
from runs import doorbell, live, priorities
from runs.models import CHAIN, NO_NEWS, Prerequisite, Run, RunAction, Trigger, UpstreamSuccess
from runs.services import prerequisites
from runs.services.journal import Line, write_lines
from runs.services.prerequisites import Interval
from runs.states import ACTIVE, RunStatus

_HAS_WORK = """
SELECT EXISTS (SELECT FROM runs_upstreamsuccess) OR EXISTS (SELECT FROM runs_run WHERE status = 'blocked')
"""


@dataclass(frozen=True)
class Waiting:
    """A run that has not begun, and was made to wait for an upstream."""

    interval: Interval
    is_blocked: bool
    is_of_chain: bool = False


def settle() -> int:
    """Act on upstreams' successes, on what waits and on what has waited too long; says how many runs may start now."""
    with connection.cursor() as cursor:
        cursor.execute(_HAS_WORK)
        if not cursor.fetchone()[0]:
            return 0
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s), clock_timestamp()", [AdvisoryLock.UPSTREAMS])
            is_mine, now = cursor.fetchone()
        if not is_mine:
            return 0
        return _settle(now)


def _settle(now: datetime) -> int:
    found = UpstreamSuccess.objects.select_related("run__revision").defer("run__receipt")
    successes = list(found.order_by("pk")[: prerequisites.AT_ONCE])
    handled = [success.pk for success in successes]
    prerequisites.forget_withdrawn()
    prerequisites.meet({success.run.pipeline_id for success in successes}, handled)
    if successes:
        made = _trigger([success.run for success in successes], now)
        UpstreamSuccess.objects.filter(pk__in=handled).delete()
        if made:
            prerequisites.meet((), handled)
    free = prerequisites.release()
    ended = prerequisites.give_up()
    told = [(run, pipeline, RunStatus.QUEUED) for run, pipeline in free] + ended
    for run, pipeline, status in told:
        transaction.on_commit(partial(live.push_run, run))
        transaction.on_commit(partial(live.push_board, run, pipeline, status))
    if free:
        transaction.on_commit(partial(doorbell.ring, len(free)))
    return len(free)


def _trigger(succeeded: Sequence[Run], now: datetime) -> list[Run]:
    """Make the runs that successes start: of active pipelines that depend on them and have no schedule of their own.

    A success counts for a run that has not begun and is for the same data, if there is one.
    """
    told: dict[UUID, list[Dependency]] = defaultdict(list)
    scheduled = Schedule.objects.filter(pipeline=OuterRef("pipeline"), ends_at__isnull=True)
    edges = Dependency.objects.filter(
        ~Exists(scheduled),
        upstream__in={run.pipeline_id for run in succeeded},
        pipeline__state=PipelineState.ACTIVE,
        pipeline__revision__isnull=False,
    )
    for dependency in edges.select_related("pipeline").order_by("pk"):
        told[dependency.upstream_id].append(dependency)
    downstreams = {dependency.pipeline_id for its in told.values() for dependency in its}
    if not downstreams:
        return []
    waiting = _waiting(downstreams)
    busy = _busy(dependency.pipeline for its in told.values() for dependency in its)
    waits_for = prerequisites.dependencies_of(downstreams)
    since = prerequisites.last_starts(downstreams)
    runs: list[Run] = []
    needed: list[Prerequisite] = []
    for success in succeeded:
        for dependency in told[success.pipeline_id]:
            if dependency.rule == DependencyRule.NEW_DATA and not _has_news(success):
                continue
            interval = prerequisites.handed_down(success, dependency)
            there = waiting[dependency.pipeline_id, success.pipeline_id]
            if any(_stands_for(each, dependency, interval) for each in there):
                continue
            if dependency.pipeline_id in busy:
                told_of = (
                    f"{dependency.pipeline.name} is not started by this: a run of it is active, and it skips then."
                )
                write_lines(success.pk, [Line("warning", told_of)])
                continue
            run = _new_run(dependency.pipeline, interval)
            its = prerequisites.prerequisites(run, waits_for[run.pipeline_id], now, since.get(run.pipeline_id))
            if interval is None and given.uses_interval(dependency.pipeline):
                run.data_interval_start, run.data_interval_end = prerequisites.since_the_last(
                    dependency.pipeline, since, now
                )
            for each in its:
                waiting[run.pipeline_id, each.upstream_id].append(Waiting(interval, is_blocked=True))
                if each.upstream_id == success.pipeline_id:
                    each.is_checked, each.met_at, each.met_by = True, now, success
            runs.append(run)
            needed += its
    Run.objects.bulk_create(runs)
    Prerequisite.objects.bulk_create(needed)
    return runs


def _waiting(downstreams: Iterable[UUID]) -> dict[tuple[UUID, UUID], list[Waiting]]:
    """What has not begun, by its pipeline and the upstream that it was made to wait for."""
    rows = Prerequisite.objects.filter(
        run__pipeline__in=list(downstreams), run__status__in=[RunStatus.BLOCKED, RunStatus.QUEUED]
    ).values_list(
        "run__pipeline", "upstream", "run__data_interval_start", "run__data_interval_end", "run__status", "rule"
    )
    found: dict[tuple[UUID, UUID], list[Waiting]] = defaultdict(list)
    for pipeline, upstream, start, end, status, rule in rows:
        interval = (start, end) if end else None
        found[pipeline, upstream].append(Waiting(interval, status == RunStatus.BLOCKED, rule == CHAIN))
    return found


def _busy(pipelines: Iterable[Pipeline]) -> set[UUID]:
    """Of those that are not to start while a run is active: which have one."""
    skipping = [pipeline.pk for pipeline in pipelines if pipeline.overlap == Overlap.SKIP]
    if not skipping:
        return set()
    active = Run.objects.filter(pipeline__in=skipping, status__in=sorted(ACTIVE)).exclude(action__in=NO_NEWS)
    return set(active.values_list("pipeline", flat=True))


def _stands_for(waiting: Waiting, dependency: Dependency, interval: Interval) -> bool:
    """Whether the run that waits reads what a new one would."""
    any_will_do = dependency.rule == DependencyRule.NEW_DATA
    queues = dependency.pipeline.overlap == Overlap.QUEUE
    return (any_will_do or waiting.is_of_chain or waiting.interval == interval) and (waiting.is_blocked or not queues)


def _has_news(run: Run) -> bool:
    """Whether it brought new data: one that appended or merged no row, and deleted none, did not."""
    replaces = run.revision.definition["write_disposition"] == WriteDisposition.REPLACE
    deleted = (run.receipt or {}).get("changes", {}).get("deleted")
    return bool(run.rows or deleted) or replaces or run.action == RunAction.FULL_REFRESH


def _new_run(pipeline: Pipeline, interval: Interval) -> Run:
    start, end = interval or (None, None)
    return Run(
        pipeline=pipeline,
        revision_id=pipeline.revision_id,
        trigger=Trigger.UPSTREAM,
        status=RunStatus.BLOCKED,
        data_interval_start=start,
        data_interval_end=end,
        priority=priorities.scheduled(pipeline),
    )
