"""Which run is forgotten at the destination when the next one is published: it keeps a row for each run for ever."""

from __future__ import annotations

from uuid import UUID

from connectors.modes import WriteDisposition
from connectors.writing import Fence
from runs.models import Run, Trigger
from runs.services import Claim, PartClaim
from runs.services.poll_days import is_micro_batch
from runs.states import RunStatus


def superseded_by(claimed: Claim | PartClaim, fence: Fence) -> UUID | None:
    """The micro-batch before this one, which has ended here too; without it a year would leave millions of rows.

    Not of an append, whose rows are added up from these, nor where a former state of the table may be put back.
    """
    definition = claimed.definition
    if fence.last_run is None or not is_micro_batch(claimed.options):
        return None
    if definition["write_disposition"] != WriteDisposition.MERGE or definition.get("undo_depth"):
        return None
    ended = Run.objects.filter(
        pk=fence.last_run, pipeline=claimed.pipeline, trigger=Trigger.REALTIME, status=RunStatus.SUCCEEDED
    )
    return fence.last_run if ended.exists() else None
