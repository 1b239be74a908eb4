"""What a new revision of a pipeline means for its runs."""

from __future__ import annotations

from typing import Any

from pipelines.models import Pipeline, Revision
from runs.models import RunAction
from runs.states import RunStatus


def follow(*, pipeline: Pipeline, before: Revision, **_: Any) -> None:
    """Let loads that have not begun go by the new revision: what it masks or leaves out is not moved by the old one.

    Their values were checked against the parameters that were declared then: where these changed, they stay.
    """
    if before.definition.get("parameters") == pipeline.parameters:
        waiting = pipeline.runs.filter(status__in=(RunStatus.QUEUED, RunStatus.BLOCKED), action=RunAction.LOAD)
        waiting.update(revision=pipeline.revision_id)
