"""What was spent, and who approved it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import UUID

from django.db.models import F, Sum
from django.db.models.functions import Coalesce

from runs.models import CostApproval, Ledger


def price(money: float) -> str:
    """Money as people read it; the currency is that of the prices that are set."""
    if 0 < money < 0.01:
        return "less than 0.01"
    return f"{money:,.2f}"


def first_of_month(day: date | None = None) -> date:
    """The first day of a month, of this one in UTC."""
    return (day or datetime.now(UTC).date()).replace(day=1)


def spent_this_month(pipeline: UUID) -> int:
    """Bytes that a pipeline's runs of any kind were billed since the month began in UTC."""
    found = Ledger.objects.filter(pipeline=pipeline, day__gte=first_of_month())
    total = found.aggregate(bytes=Coalesce(Sum(F("query_bytes") + F("storage_bytes")), 0))
    return int(total["bytes"])


def approval_of(run: UUID) -> CostApproval | None:
    """The newest: who let this run go on, and up to where."""
    return CostApproval.objects.filter(run=run).order_by("-id").first()
