"""What a new revision of a pipeline means for its runs."""

from __future__ import annotations

from typing import Any

from django.db.models import Q

from pipelines.models import Pipeline, Revision
from runs.models import OVER_BUDGET, RunAction
from runs.states import RunStatus


def follow(*, pipeline: Pipeline, before: Revision, **_: Any) -> None:
    """Let loads that have read nothing go by the new revision: what it masks or leaves out is not moved by the old one.

    Those that wait for their cost have a new dry run before they go on, and what is approved is no more than was told.
    Their values were checked against the parameters that were declared then: where these changed, they stay.
    """
    if before.definition.get("parameters") == pipeline.parameters:
        waits = Q(status__in=(RunStatus.QUEUED, RunStatus.BLOCKED)) | Q(status=RunStatus.HELD, error_code=OVER_BUDGET)
        pipeline.runs.filter(waits, action=RunAction.LOAD).update(revision=pipeline.revision_id)
