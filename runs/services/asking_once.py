"""A change of the source asks for one run: one that waits reads it as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.models import Pipeline
from runs.models import Run, Trigger
from runs.services.errors import RunRefused
from runs.services.requests import request_run
from runs.states import RunStatus


def ask_once(
    pipeline: Pipeline, trigger: Trigger, options: Mapping[str, Any] | None = None
) -> tuple[Run | None, bool, str]:
    """The run that will read what changed, whether it is new, and why there is none; under the pipeline's row lock."""
    # A run that has not begun will read this, too, and by the definition as it is now.
    queued = pipeline.runs.filter(status=RunStatus.QUEUED, trigger=trigger)
    waiting = queued.order_by("created_at").first()
    if waiting is not None and queued.filter(pk=waiting.pk).update(revision=pipeline.revision_id):
        return waiting, False, ""
    try:
        run, _ = request_run(pipeline, trigger=trigger, by=None, options=options)
    except RunRefused as refused:
        return None, False, f"{refused.message} {refused.hint}".strip()
    return run, True, ""
