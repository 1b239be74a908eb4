"""Before anything is read: what a run would bill, against its pipeline's budgets and what somebody approved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from connectors.billing import Estimate
from connectors.errors import Held
from connectors.reading import ReadPlan
from pipelines.prices import money, price
from runs import costs
from runs.reporter import Reporter
from runs.services import Claim
from runs.words import size

# So much more than was approved a run may bill: tables grow while somebody decides.
MARGIN = 1.1
_HINT = "Somebody who may approve costs lets it go on, or raises the budget; or discard it."


class OverBudget(Held):
    """Nothing was read: a person must say whether the run may bill so much."""

    code = "over_budget"


def limit_of(claimed: Claim, reporter: Reporter, estimate: Callable[[], Estimate]) -> int | None:
    """What query jobs of this attempt may bill; None without a budget, and then nobody is asked for an estimate.

    What attempts before this one were billed counts. Raises OverBudget where a dry run says that the budget, or what
    was approved, is not enough.
    """
    if claimed.run_budget is None and claimed.month_budget is None:
        return None
    told = estimate()
    reporter.estimate = told
    reporter.log("info", costs.in_words(told))
    left = _judge(claimed, told)
    if left is not None and told.bytes is None:
        reporter.log("warning", f"Its queries may bill {size(left)}, and end with an error beyond that.")
    return None if left is None else max(1, left - (told.storage_bytes or 0))


def look_again(claimed: Claim, reporter: Reporter, plan: ReadPlan) -> None:
    """Judge once more where no dry run knew what the read session says that it scans: nothing is read from it yet.

    Raises OverBudget.
    """
    told, scanned = reporter.estimate, plan.facts.get("estimated_storage_bytes")
    if told is None or told.storage_bytes is not None or not scanned:
        return
    reporter.estimate = told = replace(told, storage_bytes=scanned)
    is_known = told.bytes is not None
    reporter.log("info", costs.in_words(told) if is_known else f"The read session scans {size(scanned)}, as it says.")
    _judge(claimed, told)


def _judge(claimed: Claim, told: Estimate) -> int | None:
    """What the run may still bill; None where somebody approved what nobody can tell. Raises OverBudget."""
    left, why = _left(claimed)
    approved = costs.approval_of(claimed.run)
    if approved is not None:
        if approved.bytes is None:
            return None
        left = max(left, round(approved.bytes * MARGIN) - claimed.billed.bytes)
    known = (told.query_bytes or 0) + (told.storage_bytes or 0)
    if known > left or (told.bytes is None and left <= 0):
        raise OverBudget(_refusal(claimed, told, known, why), hint=_HINT)
    return left


def _left(claimed: Claim) -> tuple[int, str]:
    """What the narrower of the budgets leaves, and what it is, in words."""
    found: list[tuple[int, str]] = []
    if claimed.run_budget is not None:
        spent = claimed.billed.bytes
        before = f", of which earlier attempts have spent {size(spent)}" if spent else ""
        text = f"the budget of a run is {size(claimed.run_budget)}{before}"
        found.append((claimed.run_budget - spent, text))
    if claimed.month_budget is not None:
        spent = costs.spent_this_month(claimed.pipeline)
        text = f"the budget of this month is {size(claimed.month_budget)}, of which {size(spent)} are spent"
        found.append((claimed.month_budget - spent, text))
    return min(found)


def _refusal(claimed: Claim, told: Estimate, known: int, why: str) -> str:
    if told.bytes is None and not known:
        return f"Nobody can tell what this run would bill, and {why}."
    amount = money(told.query_bytes or 0, told.storage_bytes or 0)
    least = "at least " if told.is_least or told.bytes is None else "about "
    return f"This run would bill {least}{size(known)} ({price(amount)}), and {why}."
