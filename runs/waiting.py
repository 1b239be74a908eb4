"""Why runs wait, for many runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.utils import timezone

from runs import queries
from runs.models import Run
from runs.states import ACTIVE, CLAIMABLE, RunStatus

PLACES = 1000  # further back in the queue, nobody counts


def reasons_to_wait(runs: Sequence[Run]) -> dict[UUID, str]:
    """In words, what each run that neither runs nor has ended waits for; the same five queries for any number."""
    reasons = {run.pk: "Waiting for a person's decision." for run in runs if run.status == RunStatus.HELD}
    waiting = [run for run in runs if run.status in CLAIMABLE and run.lease_until is None]
    if not waiting:
        return reasons
    others = Run.objects.filter(pipeline__in={run.pipeline_id for run in waiting}, status__in=sorted(ACTIVE))
    active = {run.pipeline_id: run for run in others.only("pipeline_id", "status")}
    slots, free = queries.total_slots(), queries.free_slots()
    order = queries.claimable().order_by("priority", "due", "pk").values_list("pk", flat=True)[:PLACES]
    ahead = {pk: place for place, pk in enumerate(order)}
    for run in waiting:
        reasons[run.pk] = _reason(run, active.get(run.pipeline_id), slots, free, ahead.get(run.pk, PLACES))
    return reasons


def _reason(run: Run, active: Run | None, slots: int, free: int, ahead: int) -> str:
    wait_s = (run.due - timezone.now()).total_seconds()
    if run.status == RunStatus.RETRYING and wait_s > 1:
        return f"Waiting {_span(wait_s)} before the next attempt, after: {run.error_message}".rstrip(": ")
    if run.status == RunStatus.RESOLVING and wait_s > 1:
        return f"Waiting {_span(wait_s)} before the destination is asked again what was published."
    if run.status == RunStatus.QUEUED and active is not None:
        return f"Waiting for this pipeline's run that is {active.get_status_display().lower()} now."
    if not slots:
        return "Waiting because no worker is running."
    if free <= 0:
        before = f", {ahead} before it" if ahead else ""
        return f"Waiting because all {slots} worker slots are busy{before}."
    return "Waiting for a worker to take it."


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
