"""What a backfill would take: how many runs, how long at past speed, how many bytes and how much money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from django.conf import settings

from connectors.cursor import Span
from connectors.parameters import Parameter
from pipelines import given, lookups
from pipelines.models import Pipeline
from runs.backfill_plans import Plan
from runs.models import MOVE_NOTHING, BackfillKind, BackfillSlice, SliceStatus
from runs.services.backfills import interval_of
from runs.states import RunStatus

_TIB = 1 << 40
# So many of the past tell how long one takes.
_LOOKED_AT = 20


@dataclass(frozen=True)
class Estimate:
    """Of all slices together; None where nobody can tell, and then `problem` says why for the bytes."""

    slices: int
    seconds: float | None
    bytes: int | None
    money: float | None
    price_per_tib: float
    problem: str = ""


def estimate(pipeline: Pipeline, plan: Plan) -> Estimate:
    """Look at the first and the last slice without cost, and at what runs took so far."""
    count, problem, total = len(plan.slices), "", None
    try:
        told = lookups.range_bytes(pipeline, _samples(pipeline, plan))
    except lookups.LookupFailed as failure:
        problem = f"{failure.message} {failure.hint}".strip()
    else:
        known = [each for each in told if each is not None]
        total = round(sum(known) / len(known) * count) if known else None
    each_s = _seconds_of_one(pipeline)
    price = settings.PRICE_PER_TIB
    return Estimate(
        count,
        each_s and each_s * count,
        total,
        None if total is None else total / _TIB * price,
        price,
        problem,
    )


def _samples(pipeline: Pipeline, plan: Plan) -> list[tuple[Sequence[Parameter], Span | None]]:
    chosen = dict.fromkeys([plan.slices[0], plan.slices[-1]])
    samples: list[tuple[Sequence[Parameter], Span | None]] = []
    for low, high in chosen:
        start, end = interval_of(low, high)
        own = given.built_in(start, end, end or datetime.now(UTC), "")
        span = Span(pipeline.cursor_column, low, high) if plan.kind == BackfillKind.CURSOR else None
        samples.append((given.resolved_of(pipeline, plan.parameters, own), span))
    return samples


def _seconds_of_one(pipeline: Pipeline) -> float | None:
    """What a slice took, or a run where there was none yet."""
    slices = BackfillSlice.objects.filter(backfill__pipeline=pipeline, status=SliceStatus.SUCCEEDED)
    took = list(slices.order_by("-finished_at").values_list("seconds", flat=True)[:_LOOKED_AT])
    if not took:
        runs = pipeline.runs.filter(status=RunStatus.SUCCEEDED, started_at__isnull=False).exclude(
            action__in=MOVE_NOTHING
        )
        times = runs.order_by("-created_at").values_list("started_at", "finished_at")[:_LOOKED_AT]
        took = [(finished - started).total_seconds() for started, finished in times if finished]
    return median(took) if took else None
