"""What a pipeline's runs may read that is billed: how much, and who may say so."""

from __future__ import annotations

from typing import Any

from pipelines.models import Pipeline
from pipelines.objections import PipelineRefused

FIELDS = ("run_budget_bytes", "month_budget_bytes")
APPROVES = "pipelines.approve_cost"


def told(pipeline: Pipeline) -> dict[str, int]:
    """The budgets that are set, as a definition has them: one without any is what it was before there were budgets."""
    found = {name: getattr(pipeline, name) for name in FIELDS}
    return {name: value for name, value in found.items() if value is not None}


def against(before: Pipeline | None, pipeline: Pipeline, by: Any) -> list[PipelineRefused]:
    """Why `by` may not set these budgets: raising or lifting one lets runs go on that wait for an approver."""
    if before is None or by is None or by.has_perm(APPROVES):
        return []
    return [
        PipelineRefused(
            "budget_raised",
            "A budget is raised or lifted by somebody who may approve costs.",
            "Ask for it, or leave it as it is.",
            name,
        )
        for name in FIELDS
        if _is_more(getattr(before, name), getattr(pipeline, name))
    ]


def _is_more(before: int | None, now: int | None) -> bool:
    return before is not None and (now is None or now > before)


def refuse(before: Pipeline | None, pipeline: Pipeline, by: Any) -> None:
    """Raise PipelineRefused for the first of `against`."""
    for refused in against(before, pipeline, by):
        raise refused
