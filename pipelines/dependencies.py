"""What pipelines wait for: reading, checking and writing it. The graph of all dependencies never has a cycle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

from pipelines.locks import AdvisoryLock
from pipelines.models import Dependency, DependencyRule, GiveUp, Pipeline, PipelineState
from pipelines.objections import PipelineRefused

FIELD = "dependencies"
_UNITS = ((604800, "week"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True)
class DependencySpec:
    """A dependency as a person states it."""

    upstream: UUID
    rule: str = DependencyRule.SAME_INTERVAL
    offset_s: int | None = None
    give_up_hours: int = 24
    on_give_up: str = GiveUp.FAIL

    @classmethod
    def of(cls, dependency: Dependency) -> DependencySpec:
        return cls(
            dependency.upstream_id,
            dependency.rule,
            dependency.offset_s,
            dependency.give_up_hours,
            dependency.on_give_up,
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DependencySpec:
        return cls(**{**value, "upstream": UUID(value["upstream"])})

    def to_json(self) -> dict[str, Any]:
        return {
            "upstream": str(self.upstream),
            "rule": str(self.rule),
            "offset_s": self.offset_s,
            "give_up_hours": self.give_up_hours,
            "on_give_up": str(self.on_give_up),
        }


def specs_of(pipeline: Pipeline) -> list[DependencySpec]:
    """In one order, however they came about."""
    return sorted(map(DependencySpec.of, pipeline.dependencies.all()), key=lambda spec: str(spec.upstream))


def in_words(rule: str, offset_s: int | None) -> str:
    """What is waited for, after the upstream's name."""
    if rule == DependencyRule.OFFSET:
        return f"has succeeded for the data interval {_span(offset_s or 0)} earlier"
    if rule == DependencyRule.NEW_DATA:
        return "has succeeded since the last run"
    return "has succeeded for the same data interval"


def _span(seconds: int) -> str:
    length, name = next((length, name) for length, name in _UNITS if seconds % length == 0)
    count = seconds // length
    return f"{count} {name}{'' if count == 1 else 's'}"


# Checks ---------------------------------------------------------------------------------------


def against(pipeline: Pipeline, specs: Sequence[DependencySpec]) -> list[PipelineRefused]:
    """What `replace` would refuse, told before anything is tried."""
    found = []
    upstreams = [spec.upstream for spec in specs]
    if len(set(upstreams)) < len(upstreams):
        found.append(
            PipelineRefused("dependency_twice", "It waits for the same pipeline twice.", "Take one out.", FIELD)
        )
    for spec in specs:
        if (spec.rule == DependencyRule.OFFSET) != (spec.offset_s is not None):
            message = "An offset goes with the rule that is about it, and only with that."
            found.append(
                PipelineRefused("dependency_offset", message, "Give its seconds, or choose another rule.", FIELD)
            )
            break
    names = dict(Pipeline.objects.filter(pk__in=upstreams).values_list("pk", "name"))
    if missing := [upstream for upstream in upstreams if upstream not in names]:
        message = f"There is no pipeline {missing[0]}."
        found.append(PipelineRefused("dependency_missing", message, "Choose one that is there.", FIELD))
    kept = {spec.upstream for spec in map(DependencySpec.of, pipeline.dependencies.all())} if pipeline.pk else set()
    archived = Pipeline.objects.filter(pk__in=set(upstreams) - kept, state=PipelineState.ARCHIVED)
    found += [
        PipelineRefused(
            "dependency_archived", f"{name} is archived and will not run.", "Choose another pipeline.", FIELD
        )
        for name in archived.values_list("name", flat=True)
    ]
    if cycle := find_cycle(pipeline.pk, upstreams):
        named = {**dict(Pipeline.objects.filter(pk__in=cycle).values_list("pk", "name")), pipeline.pk: pipeline.name}
        found.append(cycle_refused([named[pk] for pk in cycle]))
    return found


def find_cycle(pipeline: UUID | None, upstreams: Iterable[UUID]) -> list[UUID]:
    """The shortest way from `pipeline` through what waits for it back to itself, if it waited for `upstreams`.

    Begins and ends with the pipeline; each waits for the one before it. Empty if there is none.
    """
    wanted = set(upstreams)
    if pipeline is None or not wanted:
        return []
    downstreams: dict[UUID, list[UUID]] = defaultdict(list)
    edges = Dependency.objects.exclude(pipeline=pipeline).order_by("pk").values_list("upstream", "pipeline")
    for upstream, downstream in edges:
        downstreams[upstream].append(downstream)
    ways: dict[UUID, UUID | None] = {pipeline: None}
    queue = [pipeline]
    for at in queue:
        if at in wanted:
            return [*_way_to(at, ways), pipeline]
        for further in downstreams[at]:
            if further not in ways:
                ways[further] = at
                queue.append(further)
    return []


def _way_to(end: UUID, ways: Mapping[UUID, UUID | None]) -> list[UUID]:
    way: list[UUID] = []
    at: UUID | None = end
    while at is not None:
        way.append(at)
        at = ways[at]
    return way[::-1]


def cycle_refused(names: Sequence[str]) -> PipelineRefused:
    """Names begin and end with the same; each waits for the one before it."""
    if len(names) == 2:
        return PipelineRefused(
            "dependency_cycle", f"{names[0]} cannot wait for itself.", "Choose another pipeline.", FIELD
        )
    shown = " → ".join(names)
    return PipelineRefused(
        "dependency_cycle",
        f"These would wait for each other for ever: {shown}.",
        "Take one of these dependencies out.",
        FIELD,
    )


# Writes ---------------------------------------------------------------------------------------


def lock() -> None:
    """Let nobody else change the graph until this transaction ends; taken before the locks of any pipeline's row."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [AdvisoryLock.DEPENDENCIES])


def replace(pipeline: Pipeline, specs: Sequence[DependencySpec]) -> None:
    """Let a pipeline wait for these and no others; the caller holds `lock`. Raises PipelineRefused."""
    for refused in against(pipeline, specs):
        raise refused
    wanted = {spec.upstream: spec for spec in specs}
    there = {dependency.upstream_id: dependency for dependency in pipeline.dependencies.all()}
    gone = [dependency.pk for upstream, dependency in there.items() if upstream not in wanted]
    if gone:
        Dependency.objects.filter(pk__in=gone).delete()
    for upstream, spec in wanted.items():
        if upstream not in there:
            Dependency.objects.create(pipeline=pipeline, **_columns(spec))
        elif DependencySpec.of(there[upstream]) != spec:
            Dependency.objects.filter(pk=there[upstream].pk).update(**_columns(spec))


def _columns(spec: DependencySpec) -> dict[str, Any]:
    return {"upstream_id": spec.upstream, **{k: v for k, v in vars(spec).items() if k != "upstream"}}


def remove_others(kept: Mapping[UUID, Iterable[UUID]]) -> None:
    """Of each of these pipelines, take out what it is not to wait for any more, before others are put in."""
    for pipeline, upstreams in kept.items():
        Dependency.objects.filter(pipeline=pipeline).exclude(upstream__in=list(upstreams)).delete()
