"""What was billed month by month: the ledger's year as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from typing import Any

from django.core.cache import cache
from django.db.models.functions import TruncMonth

from runs import ledger
from runs.ledger import Spent

# A month that is over changes no more: its sum is only forgotten so that nobody has to know of it.
_KEPT_S = 3600


@dataclass(frozen=True)
class Month:
    """A month in the picture, in percent of the most expensive; `link` is what the filter calls it."""

    first: date
    spent: Spent
    link: str
    is_shown: bool
    x: float
    width: float
    height: float

    @property
    def y(self) -> float:
        return 100 - self.height


def months(newest: date, shown: date, total: Spent, **filters: Any) -> Sequence[Month]:
    """The ledger's months up to `newest`, oldest first; `total` is that of the one `shown`.

    Empty where fewer than two of them had a bill.
    """
    firsts = ledger.months_before(newest)[::-1]
    sums = dict(_past(firsts[0], newest, **filters))
    sums[newest] = total if shown == newest else ledger.spent(newest, **filters)
    if sum(bool(each.bytes) for each in sums.values()) < 2:
        return []
    highest, step = max(each.money for each in sums.values()), 100 / len(firsts)
    found = []
    for place, first in enumerate(firsts):
        spent = sums.get(first, Spent())
        height = max(1.5, 100 * spent.money / highest) if highest and spent.bytes else 0.0
        link = "" if first == newest else f"{first:%Y-%m}"
        x, width = round(place * step + step * 0.12, 3), round(step * 0.76, 3)
        found.append(Month(first, spent, link, first == shown, x, width, round(height, 2)))
    return found


def _past(first: date, newest: date, **filters: Any) -> dict[date, Spent]:
    """The sums of the months before `newest`: years of many pipelines are not added up for each look."""
    told = repr((first, sorted((name, str(value)) for name, value in filters.items())))
    key = f"ledger.months.{sha256(told.encode()).hexdigest()}"
    return cache.get_or_set(key, lambda: _by_month(first, newest, **filters), _KEPT_S) or {}


def _by_month(first: date, newest: date, **filters: Any) -> dict[date, Spent]:
    found = ledger.entries(first, until=newest, **filters)
    rows = found.values(month=TruncMonth("day")).annotate(**ledger.SUMS).order_by()
    return {row["month"]: ledger.told(row) for row in rows}
