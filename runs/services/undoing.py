"""An undo is asked for: the pipeline is paused first, so that no crash leaves it running over what was put back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from pipelines import services as definitions
from pipelines.models import Pipeline, PipelineState
from runs import live
from runs.models import OVER_BUDGET, Run, RunAction
from runs.services.errors import RunRefused
from runs.services.requests import cancel_run, request_run
from runs.states import ACTIVE, RunStatus


def request_undo(
    pipeline: Pipeline,
    *,
    trigger: str,
    by: Any,
    kept: UUID,
    expected: UUID | None,
    target: Mapping[str, str],
    idempotency_key: str | None = None,
    request_digest: str = "",
) -> tuple[Run, bool]:
    """Pause the pipeline, cancel what waits to run, and queue a run that puts back what the run `kept` put aside.

    All in one transaction; says whether the run is new. The run refuses by itself if anything but `expected` was
    published last when its turn comes. Raises RunRefused, and then nothing has changed.
    """
    with transaction.atomic():
        now = Pipeline.objects.select_for_update(no_key=True).get(pk=pipeline.pk)
        run, is_new = request_run(
            now,
            trigger=trigger,
            by=by,
            action=RunAction.UNDO,
            options={"kept": str(kept), "expected": str(expected) if expected else "", "target": dict(target)},
            idempotency_key=idempotency_key,
            request_digest=request_digest,
        )
        if not is_new:
            return run, False
        others = Run.objects.filter(pipeline=now).exclude(pk=run.pk)
        if others.filter(status__in=sorted(ACTIVE)).exists():
            raise RunRefused(
                "pipeline_busy",
                "A run of this pipeline is under way, and would put other rows in the place of what is put back.",
                "Cancel it or wait for its end; then look at what is there.",
            )
        # What waits for its cost would go on by itself one day, and load over what is put back.
        costly = Q(status=RunStatus.HELD, error_code=OVER_BUDGET)
        for waiting in others.filter(Q(status__in=[RunStatus.QUEUED, RunStatus.BLOCKED]) | costly):
            cancel_run(waiting, by=by)
            transaction.on_commit(partial(live.push_run, waiting.pk))
        if now.state == PipelineState.ACTIVE:
            definitions.pause([now], by=by)
    return run, True
