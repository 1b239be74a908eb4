"""Rows that go for good: what only somebody who has confirmed it may have forgotten."""

from __future__ import annotations

from connectors.modes import WriteDisposition
from pipelines import deletions
from pipelines.models import Pipeline
from runs.models import RunAction
from runs.services.errors import RunRefused

_HINT = "Confirm it on the page that asks; in the API, with force."


def forgets(pipeline: Pipeline, action: str) -> bool:
    """Whether a run would delete versions that nobody could bring back."""
    return action == RunAction.FULL_REFRESH and pipeline.write_disposition == WriteDisposition.HISTORY


def refuse_unconfirmed(pipeline: Pipeline, action: str) -> None:
    """Raise RunRefused for what begins a history anew, or takes what a new definition leaves out for gone."""
    if forgets(pipeline, action):
        raise RunRefused(
            "history_begins_anew",
            f"A full refresh of {pipeline.name} deletes every version in its history, and begins with what the source"
            " has now.",
            _HINT,
        )
    if action == RunAction.KEEP and deletions.are_made(pipeline):
        raise RunRefused(
            "keep_deletes",
            f"Rows of {pipeline.name} that its definition gives no longer count as gone, although the others are kept:"
            f" {deletions.what_goes(pipeline)}.",
            _HINT,
        )
