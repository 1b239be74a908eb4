"""Reads of the ledger: what was billed, by pipeline and by day; a few queries for any number of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from django.db.models import F, Q, QuerySet, Sum

from runs.models import CostApproval, Ledger, RunAction

PER_PAGE = 50
APPROVALS_SHOWN = 50
MONTHS = 13
CSV_AT_ONCE = 2000
SUMS = {
    "runs": Sum("runs"),
    "query_bytes": Sum("query_bytes"),
    "storage_bytes": Sum("storage_bytes"),
    "cost": Sum("cost"),
}


ORDERS = {
    "name": "name",
    "cost": "-cost",
    "queries": "-query_bytes",
    "storage": "-storage_bytes",
    "runs": "-runs",
}


@dataclass(frozen=True)
class Spent:
    """What was billed for something: a pipeline, a day, or all of it."""

    runs: int = 0
    query_bytes: int = 0
    storage_bytes: int = 0
    money: float = 0.0
    name: str = ""
    pipeline: UUID | None = None
    day: date | None = None

    @property
    def bytes(self) -> int:
        return self.query_bytes + self.storage_bytes


@dataclass(frozen=True)
class Bar:
    """A day in the chart, in percent of the largest."""

    day: date
    spent: Spent
    x: float
    width: float
    height: float

    @property
    def y(self) -> float:
        return 100 - self.height


@dataclass(frozen=True)
class Page:
    """What the ledger's page shows of a month."""

    total: Spent
    bars: Sequence[Bar]
    rows: Sequence[Spent]
    is_by_day: bool
    approvals: Sequence[CostApproval]
    number: int
    has_more: bool


def entries(
    month: date, *, text: str = "", pipeline: Any = None, action: str = "", until: date | None = None
) -> QuerySet[Ledger]:
    """What was billed in a month, or up to `until`, of pipelines with these words in their names."""
    found = Ledger.objects.filter(day__gte=month, day__lt=until or next_month(month))
    for word in text.split():
        found = found.filter(pipeline__name__icontains=word)
    found = found.filter(pipeline=pipeline) if pipeline else found
    return found.filter(action=action) if action else found


def page(month: date, *, number: int = 1, order: str = "cost", **filters: Any) -> Page:
    """The month's days as a chart, and pipelines by what ORDERS has, by default who spent most: with one its days."""
    found = entries(month, **filters)
    by_day = found.values("day").annotate(**SUMS).order_by("day")
    days = [told(row, day=row["day"]) for row in by_day]
    pipeline = filters.get("pipeline")
    number = max(1, number)
    has_more = False
    if pipeline:
        rows = list(reversed(days))
    else:
        first = (number - 1) * PER_PAGE
        by_pipeline = (
            found.values("pipeline", name=F("pipeline__name"))
            .annotate(**SUMS)
            .order_by(ORDERS.get(order, ORDERS["cost"]), "name", "pipeline")
        )
        fetched = list(by_pipeline[first : first + PER_PAGE + 1])
        rows = [told(row, name=row["name"], pipeline=row["pipeline"]) for row in fetched[:PER_PAGE]]
        has_more = len(fetched) > PER_PAGE
    return Page(_total(days), _bars(month, days), rows, bool(pipeline), approvals(month, **filters), number, has_more)


def approvals(month: date, *, text: str = "", pipeline: Any = None, action: str = "") -> list[CostApproval]:
    """Who let runs go beyond their budgets in a month, newest first."""
    found = CostApproval.objects.filter(at__date__gte=month, at__date__lt=next_month(month))
    for word in text.split():
        found = found.filter(pipeline__name__icontains=word)
    found = found.filter(pipeline=pipeline) if pipeline else found
    found = found.filter(run__action=action) if action else found
    return list(found.select_related("pipeline", "run", "by").order_by("-at", "-id")[:APPROVALS_SHOWN])


def spent(month: date, **filters: Any) -> Spent:
    """What was billed in a month in all."""
    return told({name: each or 0 for name, each in entries(month, **filters).aggregate(**SUMS).items()})


def told(row: dict[str, Any], **about: Any) -> Spent:
    """A row of SUMS."""
    return Spent(row["runs"], row["query_bytes"], row["storage_bytes"], float(row["cost"]), **about)


def _total(days: Sequence[Spent]) -> Spent:
    return Spent(
        sum(day.runs for day in days),
        sum(day.query_bytes for day in days),
        sum(day.storage_bytes for day in days),
        sum(day.money for day in days),
    )


def _bars(month: date, days: Sequence[Spent]) -> list[Bar]:
    count = (next_month(month) - month).days
    step, by_day = 100 / count, {day.day: day for day in days}
    highest = max((day.money for day in days), default=0.0)
    bars = []
    for place in range(count):
        day = month + timedelta(days=place)
        spent = by_day.get(day, Spent())
        height = max(1.5, 100 * spent.money / highest) if highest and spent.bytes else 0.0
        bars.append(Bar(day, spent, round(place * step + step * 0.1, 3), round(step * 0.8, 3), round(height, 2)))
    return bars


def next_month(month: date) -> date:
    return (month.replace(day=1) + timedelta(days=32)).replace(day=1)


def months_before(month: date) -> list[date]:
    """This month and the ones before, newest first."""
    found = [month]
    while len(found) < MONTHS:
        found.append((found[-1] - timedelta(days=1)).replace(day=1))
    return found


Place = tuple[date, int]
HEADER = ("day", "pipeline", "pipeline_id", "action", "runs", "query_bytes", "storage_bytes", "cost")


def table(month: date, after: Place | None = None, **filters: Any) -> tuple[list[tuple[Any, ...]], Place | None]:
    """The entries of a month as HEADER says, for a file, some at a time; and after what to go on, None at the end."""
    found = entries(month, **filters).order_by("day", "id")
    if after is not None:
        day, last = after
        found = found.filter(Q(day=day, id__gt=last) | Q(day__gt=day))
    names = ("id", "day", "pipeline__name", "pipeline", "action", "runs", "query_bytes", "storage_bytes", "cost")
    rows = list(found.values_list(*names)[:CSV_AT_ONCE])
    told = [(day.isoformat(), _harmless(name), *rest) for _, day, name, *rest in rows]
    return told, (rows[-1][1], rows[-1][0]) if len(rows) == CSV_AT_ONCE else None


def _harmless(name: str) -> str:
    """A name that a spreadsheet does not take for a formula."""
    return f"'{name}" if name[:1] in "=+-@\t\r" else name


ACTIONS = [(action.value, action.label) for action in RunAction]
