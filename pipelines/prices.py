"""What bytes cost: two settings, one for queries and one for the Storage Read API; and how both are said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils import timezone

from connectors.billing import TIB
from pipelines import queries, upcoming
from pipelines.models import Pipeline, PipelineState

DAYS = 30


def money(query_bytes: int, storage_bytes: int) -> float:
    return (query_bytes * settings.PRICE_PER_TIB + storage_bytes * settings.STORAGE_PRICE_PER_TIB) / TIB


def price(amount: float) -> str:
    """Money as people read it; the currency is that of the prices that are set."""
    return "less than 0.01" if 0 < amount < 0.01 else f"{amount:,.2f}"


def size(value: float | None) -> str:
    """Bytes: 1234567 → 1.23 MB"""
    if value is None:
        return ""
    for unit, bytes_in_it in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= bytes_in_it:
            return f"{value / bytes_in_it:.3g} {unit}"
    return f"{value:.0f} B"


@dataclass(frozen=True)
class Outlook:
    """What a run would bill by a dry run, and the runs that schedules start in DAYS; None is what nobody can tell."""

    query_bytes: int | None
    storage_bytes: int | None
    money: float | None
    why: str
    is_least: bool
    runs_a_month: int | None
    money_a_month: float | None
    # Later runs read less: only what is new since.
    is_first: bool

    def lines(self) -> list[str]:
        """The same in sentences."""
        if self.money is None:
            return [f"What a run bills is not known. {self.why}".strip()]
        bytes_ = (self.query_bytes or 0) + (self.storage_bytes or 0)
        who = "The first run, which reads all rows," if self.is_first else "A run"
        about = "at least" if self.is_least else "about"
        told = [f"{who} bills {about} {size(bytes_)}: {price(self.money)}."]
        if self.is_first:
            return [*told, "What later runs cost follows from what is new by then."]
        if self.runs_a_month and self.money_a_month is not None:
            runs = f"{self.runs_a_month:,} runs" if self.runs_a_month > 1 else "one run"
            told.append(f"Its schedules start {runs} in the next {DAYS} days: about {price(self.money_a_month)}.")
        return told


def outlook(pipeline: Pipeline) -> Outlook | None:
    """By what the look-up that went before has found out; None if it could not ask."""
    found: dict[str, Any] | None = pipeline.cost_estimate
    if found is None:
        return None
    query, storage = found["query_bytes"], found["storage_bytes"]
    known = None if query is None or storage is None else money(query, storage)
    runs = runs_a_month(pipeline)
    monthly = None if known is None or runs is None or pipeline.incremental else known * runs
    return Outlook(query, storage, known, found["why"], found["is_least"], runs, monthly, pipeline.incremental)


def runs_a_month(pipeline: Pipeline) -> int | None:
    """How many runs the pipeline's schedules start in DAYS; None if it has none, or is not active."""
    if pipeline._state.adding or pipeline.state != PipelineState.ACTIVE:
        return None
    current = list(queries.current_schedules().filter(pipeline=pipeline).select_related("calendar"))
    return upcoming.count_within(current, timezone.now(), DAYS) if current else None
