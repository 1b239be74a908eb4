"""What was spent, and who approved it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import Any
from uuid import UUID

from django.db.models import F, Sum
from django.db.models.functions import Coalesce

from connectors.billing import Estimate
from pipelines import prices
from pipelines.models import Pipeline, PipelineState
from runs.models import MOVE_NOTHING, CostApproval, Ledger, Run
from runs.states import RunStatus
from runs.words import size

# So many of a pipeline's newest loads tell what one costs.
_LOOKED_AT = 20
_BYTES = F("query_bytes") + F("storage_bytes")


def first_of_month(day: date | None = None) -> date:
    """The first day of a month, of this one in UTC."""
    return (day or datetime.now(UTC).date()).replace(day=1)


def spent_this_month(pipeline: UUID) -> int:
    """Bytes that a pipeline's runs of any kind were billed since the month began in UTC."""
    found = Ledger.objects.filter(pipeline=pipeline, day__gte=first_of_month())
    return int(found.aggregate(bytes=Coalesce(Sum(_BYTES), 0))["bytes"])


def approval_of(run: UUID) -> CostApproval | None:
    """The newest: who let this run go on, and up to where."""
    return CostApproval.objects.filter(run=run).order_by("-id").first()


def in_words(told: Estimate) -> str:
    """What a dry run says, for the log."""
    if told.bytes is None:
        return f"What this run will bill is not known. {told.why}".strip()
    least = "at least " if told.is_least else "about "
    parts = ((told.query_bytes, "by queries"), (told.storage_bytes, "by the Storage Read API"))
    kinds = ", ".join(f"{size(amount)} {what}" for amount, what in parts if amount)
    spent = prices.price(prices.money(told.query_bytes or 0, told.storage_bytes or 0))
    return f"This run will bill {least}{size(told.bytes)} ({spent}){f': {kinds}' if kinds else ''}."


@dataclass(frozen=True)
class RunCost:
    """What a run was told to bill and was billed, in all its attempts; None is what nobody could tell."""

    query_bytes: int
    storage_bytes: int
    money: float
    estimated_query_bytes: int | None
    estimated_storage_bytes: int | None
    approvals: Sequence[CostApproval] = ()

    @property
    def bytes(self) -> int:
        return self.query_bytes + self.storage_bytes

    @property
    def estimated_bytes(self) -> int | None:
        if self.estimated_query_bytes is None or self.estimated_storage_bytes is None:
            return None
        return self.estimated_query_bytes + self.estimated_storage_bytes

    @property
    def estimated_money(self) -> float | None:
        """At the prices of today."""
        if self.estimated_query_bytes is None or self.estimated_storage_bytes is None:
            return None
        return prices.money(self.estimated_query_bytes, self.estimated_storage_bytes)

    @property
    def is_known(self) -> bool:
        """Whether there is anything to show."""
        known = (self.estimated_query_bytes, self.estimated_storage_bytes) != (None, None)
        return bool(known or self.bytes or self.approvals)

    def to_json(self) -> dict[str, Any]:
        names = ("query_bytes", "storage_bytes", "money", "estimated_query_bytes", "estimated_storage_bytes")
        return {**{name: getattr(self, name) for name in names}, "estimated_money": self.estimated_money}


def of_run(run: Run) -> RunCost:
    approvals = list(run.cost_approvals.select_related("by")) if run.attempt else []
    return RunCost(
        run.query_bytes,
        run.storage_bytes,
        float(run.cost),
        run.estimated_query_bytes,
        run.estimated_storage_bytes,
        approvals,
    )


# A pipeline ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PipelineCost:
    """What a pipeline has spent in this month of UTC, and what another thirty days come to, by its loads so far."""

    bytes: int
    money: float
    run_budget: int | None
    month_budget: int | None
    # What one load costs; None before the first.
    usual_bytes: float | None
    usual_money: float | None
    # Of the next thirty days by the schedules, or of the last thirty where something else starts the runs.
    monthly_runs: int | None
    monthly_money: float | None
    is_by_schedule: bool

    @property
    def share(self) -> float | None:
        """Of the month's budget, in percent."""
        return 100 * self.bytes / self.month_budget if self.month_budget else None


def of_pipeline(pipeline: Pipeline) -> PipelineCost | None:
    """None where nothing was spent and no budget is set."""
    today = datetime.now(UTC).date()
    month, past = first_of_month(today), today - timedelta(days=prices.DAYS)
    days = list(
        Ledger.objects.filter(pipeline=pipeline, day__gte=min(month, past)).values_list(
            "day", "action", "runs", "query_bytes", "storage_bytes", "cost"
        )
    )
    budgets = pipeline.run_budget_bytes, pipeline.month_budget_bytes
    if not days and budgets == (None, None):
        return None
    spent = [(query + storage, cost) for day, _, _, query, storage, cost in days if day >= month]
    loads = (
        pipeline.runs.filter(status=RunStatus.SUCCEEDED).exclude(action__in=MOVE_NOTHING).exclude(trigger="backfill")
    )
    newest = list(loads.order_by("-created_at").values_list("query_bytes", "storage_bytes", "cost")[:_LOOKED_AT])
    usual_bytes = median([query + storage for query, storage, _ in newest]) if newest else None
    usual_money = float(median([cost for _, _, cost in newest])) if newest else None
    runs = prices.runs_a_month(pipeline) if pipeline.state == PipelineState.ACTIVE else None
    by_schedule = runs is not None
    if runs is None:
        runs = sum(count for day, _, count, *_ in days if day >= past)
        monthly: float | None = float(sum((cost for day, *_, cost in days if day >= past), Decimal(0)))
    else:
        monthly = None if usual_money is None else usual_money * runs
    return PipelineCost(
        sum(each for each, _ in spent),
        float(sum((cost for _, cost in spent), Decimal(0))),
        *budgets,
        usual_bytes,
        usual_money,
        runs,
        monthly,
        by_schedule,
    )
