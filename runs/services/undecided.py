"""Held runs that have rows staged: any other publish would put those out of date before anybody has decided."""

from __future__ import annotations

from uuid import UUID

from runs.models import OVER_BUDGET, Run
from runs.services.errors import RunRefused
from runs.states import RunStatus


def refuse_beside_held(pipeline: UUID) -> None:
    """Raise RunRefused while a person has yet to decide what becomes of the rows that a run has staged.

    For what is no load itself: a newer load takes the place of what is held, and reads its rows again.
    """
    held = Run.objects.filter(pipeline=pipeline, status=RunStatus.HELD).exclude(error_code=OVER_BUDGET).first()
    if held is not None:
        raise RunRefused(
            "run_held",
            f"Run {held.pk} of this pipeline waits for a decision, and this would put what it staged out of date.",
            "Approve or discard it first.",
        )
