"""How pipelines depend on each other, as pages show it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from pipelines.dependencies import in_words
from pipelines.models import Dependency, Pipeline, PipelineState
from runs.layout import Line, lay_out
from runs.models import Run
from runs.page_queries import newest_runs

MOST_DRAWN = 300


@dataclass(frozen=True)
class Neighbour:
    """A pipeline right above or below another, with its newest run."""

    pipeline: Pipeline
    run: Run | None
    words: str
    give_up_hours: int
    on_give_up: str


@dataclass(frozen=True)
class Neighbours:
    upstreams: Sequence[Neighbour]
    downstreams: Sequence[Neighbour]

    def __bool__(self) -> bool:
        return bool(self.upstreams or self.downstreams)


def neighbours_of(pipeline: Pipeline) -> Neighbours:
    """What a pipeline waits for, and what waits for it, in the order of their names."""
    up = list(pipeline.dependencies.select_related("upstream").order_by("upstream__name"))
    down = list(pipeline.dependents.select_related("pipeline").order_by("pipeline__name"))
    others = [each.upstream for each in up] + [each.pipeline for each in down]
    newest = newest_runs([other.pk for other in others], 1) if others else {}

    def neighbour(other: Pipeline, each: Dependency) -> Neighbour:
        run = newest.get(other.pk, [None])[-1]
        then = each.get_on_give_up_display().lower()
        return Neighbour(other, run, in_words(each.rule, each.offset_s), each.give_up_hours, then)

    return Neighbours(
        [neighbour(each.upstream, each) for each in up], [neighbour(each.pipeline, each) for each in down]
    )


@dataclass(frozen=True)
class Box:
    """A pipeline in the drawing: its upper left corner, its state as a word and as the name of a colour."""

    pipeline: Pipeline
    run: Run | None
    x: float
    y: float
    upstreams: Sequence[str]
    is_chosen: bool

    @property
    def state(self) -> str:
        if self.pipeline.state != PipelineState.ACTIVE:
            return self.pipeline.state
        return self.run.status if self.run else "none"

    @property
    def word(self) -> str:
        if self.pipeline.state != PipelineState.ACTIVE:
            return self.pipeline.get_state_display()
        return self.run.get_status_display() if self.run else "Never ran"

    @property
    def name(self) -> str:
        """As much of it as the box has room for."""
        name = self.pipeline.name
        return name if len(name) <= 24 else f"{name[:23]}…"


@dataclass(frozen=True)
class Drawing:
    boxes: Sequence[Box]
    lines: Sequence[Line]
    width: float
    height: float
    too_many: int = 0


def draw(chosen: Pipeline | None = None) -> Drawing:
    """All pipelines that depend on others or are depended on; with one chosen, those above and below it."""
    edges = list(Dependency.objects.order_by("pk").values_list("upstream", "pipeline"))
    if chosen is not None:
        related = {chosen.pk, *_reached(chosen.pk, edges), *_reached(chosen.pk, [(b, a) for a, b in edges])}
        edges = [(up, down) for up, down in edges if up in related and down in related]
    else:
        related = {pk for edge in edges for pk in edge}
    if len(related) > MOST_DRAWN:
        return Drawing([], [], 0, 0, too_many=len(related))
    pipelines = {each.pk: each for each in Pipeline.objects.filter(pk__in=related).order_by("name")}
    newest = newest_runs(pipelines, 1)
    layout = lay_out(list(pipelines), [(up, down) for up, down in edges if up in pipelines and down in pipelines])
    names: dict[UUID, list[str]] = defaultdict(list)
    for up, down in edges:
        names[down].append(pipelines[up].name)
    boxes = [
        Box(
            each,
            newest.get(pk, [None])[-1],
            *layout.corners[pk],
            sorted(names[pk]),
            chosen is not None and pk == chosen.pk,
        )
        for pk, each in pipelines.items()
    ]
    return Drawing(boxes, layout.lines, layout.width, layout.height)


def _reached(start: UUID, edges: Iterable[tuple[UUID, UUID]]) -> set[UUID]:
    following: dict[UUID, list[UUID]] = defaultdict(list)
    for one, other in edges:
        following[one].append(other)
    found: set[UUID] = set()
    queue = [start]
    for at in queue:
        for further in following[at]:
            if further not in found:
                found.add(further)
                queue.append(further)
    return found
