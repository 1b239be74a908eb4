"""Runs of a pipeline and of all that depends on it, in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from pipelines import given, queries
from pipelines.models import Dependency, Pipeline, PipelineState
from runs import intervals, live, priorities
from runs.models import CHAIN, Prerequisite, Run, RunAction
from runs.services import prerequisites
from runs.services.errors import RunRefused
from runs.services.loaded import refuse_twice
from runs.services.requests import request_run
from runs.states import RunStatus


@dataclass(frozen=True)
class Chain:
    """`pipelines` in the order in which they run, the first one first; `left_out` are paused, or behind such only."""

    pipelines: list[Pipeline]
    left_out: list[Pipeline]
    edges: dict[UUID, list[Dependency]]


def chain_from(pipeline: Pipeline) -> Chain:
    """What running a pipeline and all downstream of it comes to."""
    downstreams: dict[UUID, list[Dependency]] = defaultdict(list)
    for dependency in Dependency.objects.select_related("pipeline").order_by("pipeline__name", "pk"):
        downstreams[dependency.upstream_id].append(dependency)
    # Everybody comes after the last of those that it waits for: the graph has no cycle, so each walk ends.
    order: list[Pipeline] = []
    seen: set[UUID] = set()
    paused: dict[UUID, Pipeline] = {}

    def visit(at: Pipeline) -> None:
        seen.add(at.pk)
        for dependency in reversed(downstreams[at.pk]):
            further = dependency.pipeline
            if further.state != PipelineState.ACTIVE or further.revision_id is None:
                paused[further.pk] = further
            elif further.pk not in seen:
                visit(further)
        order.append(at)

    visit(pipeline)
    order.reverse()
    behind = _behind(paused, downstreams, seen)
    edges: dict[UUID, list[Dependency]] = defaultdict(list)
    for upstream in seen:
        for dependency in downstreams[upstream]:
            if dependency.pipeline_id in seen:
                edges[dependency.pipeline_id].append(dependency)
    left_out = sorted([*paused.values(), *behind.values()], key=lambda each: each.name)
    return Chain(order, [each for each in left_out if each.state != PipelineState.ARCHIVED], dict(edges))


def _behind(
    paused: dict[UUID, Pipeline], downstreams: dict[UUID, list[Dependency]], seen: Iterable[UUID]
) -> dict[UUID, Pipeline]:
    """What only paused pipelines lead to."""
    found: dict[UUID, Pipeline] = {}
    queue = list(paused)
    for at in queue:
        for dependency in downstreams[at]:
            further = dependency.pipeline
            if further.pk not in found and further.pk not in paused and further.pk not in seen:
                found[further.pk] = further
                queue.append(further.pk)
    return found


def request_chain(pipeline: Pipeline, *, trigger: str, by: Any, **more: Any) -> tuple[list[Run], bool]:
    """Queue a run of the pipeline, and one of each downstream that waits for those above it; says whether they are new.

    `more` as in request_run: a repeated idempotency key gives the runs it made the first time. Raises RunRefused.
    """
    with transaction.atomic():
        head, is_new = request_run(pipeline, trigger=trigger, by=by, **more)
        if not is_new:
            return [head, *runs_of_chain(head)], False
        head.refresh_from_db(fields=["created_at"])
        chain = chain_from(pipeline)
        runs = {head.pipeline_id: head}
        needed: list[Prerequisite] = []
        for each in chain.pipelines[1:]:
            start, end = _interval(each, [(runs[edge.upstream_id], edge) for edge in chain.edges[each.pk]])
            if not more.get("force"):
                refuse_twice(each, RunAction.LOAD, {}, (start, end))
            run = runs[each.pk] = Run(
                pipeline=each,
                revision_id=each.revision_id,
                trigger=trigger,
                status=RunStatus.BLOCKED,
                requested_by=by,
                data_interval_start=start,
                data_interval_end=end,
                priority=priorities.asked_for(each),
            )
            needed += [_part_of_chain(run, head, dependency) for dependency in chain.edges[each.pk]]
        made = [run for run in runs.values() if run is not head]
        Run.objects.bulk_create(made)
        Prerequisite.objects.bulk_create(needed)
        for run in made:
            transaction.on_commit(partial(live.push_board, run.pk, run.pipeline_id, RunStatus.BLOCKED))
    return list(runs.values()), True


def _interval(pipeline: Pipeline, above: Iterable[tuple[Run, Dependency]]) -> intervals.Interval:
    """The interval of a run that needs one: what those above it hand down, a run by hand's, or all since the last."""
    for run, dependency in above if given.uses_interval(pipeline) else ():
        if found := prerequisites.handed_down(run, dependency):
            return found
    try:
        return intervals.of_a_run_by_hand(pipeline, RunAction.LOAD)
    except RunRefused:
        starts = prerequisites.last_starts([pipeline.pk])
        return prerequisites.since_the_last(pipeline, starts, queries.database_now())


def runs_of_chain(head: Run) -> list[Run]:
    """The runs that were asked for together with `head`, in their order."""
    first = Prerequisite.objects.filter(head=head).order_by("pk").select_related("run__pipeline", "run__revision")
    return list({each.run_id: each.run for each in first}.values())


def _part_of_chain(run: Run, head: Run, dependency: Dependency) -> Prerequisite:
    return Prerequisite(
        run=run,
        upstream_id=dependency.upstream_id,
        rule=CHAIN,
        since=head.created_at,
        head=head,
        give_up_at=timezone.now() + timedelta(hours=dependency.give_up_hours),
        on_give_up=dependency.on_give_up,
    )
