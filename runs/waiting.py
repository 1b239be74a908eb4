"""Why runs wait, for many runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db.models import Count, Min, Q
from django.utils import timezone

from runs import capacity
from runs.models import PartLoad, Run
from runs.states import ACTIVE, CLAIMABLE, PartStatus, RunStatus, Step

PLACES = 1000  # further back in the queue, nobody counts
SOON_S = 1.0
TAKEN_WITHIN_S = 10.0


def why_waiting(run: Run) -> str:
    """In words, what a run that does not run is waiting for; empty when it runs or has ended."""
    return reasons_to_wait([run]).get(run.pk, "")


def reasons_to_wait(runs: Sequence[Run]) -> dict[UUID, str]:
    """In words, what each run that neither runs nor has ended waits for; the same few queries for any number."""
    reasons = {run.pk: "Waiting for a person's decision." for run in runs if run.status == RunStatus.HELD}
    reasons |= {run.pk: _silence(run) for run in runs if _is_silent(run)}
    reasons |= _for_parts([run for run in runs if run.status == RunStatus.RUNNING and run.step == Step.PARTS])
    waiting = [run for run in runs if run.status in CLAIMABLE and run.lease_until is None and run.pk not in reasons]
    if not waiting:
        return reasons
    others = Run.objects.filter(pipeline__in={run.pipeline_id for run in waiting}, status__in=sorted(ACTIVE))
    active = {run.pipeline_id: run for run in others.only("pipeline_id", "status")}
    slots, free, has_beat = capacity.total_slots(), capacity.free_slots(), capacity.beats_alive().exists()
    ahead: dict[UUID, int] = {}
    first: dict[UUID, UUID] = {}
    order = capacity.claimable().order_by("priority", "due", "pk").values_list("pk", "pipeline_id")[:PLACES]
    for place, (pk, pipeline) in enumerate(order):
        ahead[pk] = place
        first.setdefault(pipeline, pk)
    for run in waiting:
        reasons[run.pk] = (
            _for_its_time(run)
            or _for_its_pipeline(run, active.get(run.pipeline_id), first.get(run.pipeline_id))
            or _for_a_worker(run, slots, free, ahead.get(run.pk, PLACES), has_beat)
        )
    return reasons


def _for_parts(runs: Sequence[Run]) -> dict[UUID, str]:
    """What runs wait for whose parts all wait; one that is being loaded does not wait."""
    if not runs:
        return {}
    parts = PartLoad.objects.filter(
        run__in=[run.pk for run in runs], status__in=[PartStatus.WAITING, PartStatus.RUNNING]
    )
    counted = parts.values("run").annotate(
        loading=Count("pk", filter=Q(status=PartStatus.RUNNING)), left=Count("pk"), due=Min("due")
    )
    found = {row["run"]: row for row in counted}
    slots = capacity.total_slots()
    return {run.pk: _of_parts(found.get(run.pk), slots) for run in runs}


def _of_parts(row: dict[str, Any] | None, slots: int) -> str:
    if row is None or row["loading"]:
        return ""
    wait_s = (row["due"] - timezone.now()).total_seconds()
    if wait_s > SOON_S:
        return f"Waiting {_span(wait_s)} before a part is tried again."
    if not slots:
        return "Waiting because no worker is running."
    return f"Its {row['left']} parts that are left wait for a free worker slot."


def _for_its_time(run: Run) -> str:
    wait_s = (run.due - timezone.now()).total_seconds()
    if wait_s <= SOON_S:
        return ""
    if run.status == RunStatus.RETRYING:
        return f"Waiting {_span(wait_s)} before the next attempt, after: {run.error_message}".removesuffix(", after: ")
    if run.status == RunStatus.RESOLVING:
        return f"Waiting {_span(wait_s)} before the destination is asked again what was published."
    return f"Waiting {_span(wait_s)} until it is due."


def _for_its_pipeline(run: Run, active: Run | None, first: UUID | None) -> str:
    if run.status != RunStatus.QUEUED:
        return ""
    if active is not None:
        return f"Waiting for this pipeline's run that is {active.get_status_display().lower()} now."
    if first not in (None, run.pk):
        return "Waiting for this pipeline's run that came before it."
    return ""


def _for_a_worker(run: Run, slots: int, free: int, ahead: int, has_beat: bool) -> str:
    if not slots:
        return "Waiting because no worker is running."
    if free <= 0:
        before = f", {ahead} before it" if ahead else ""
        return f"Waiting because all {slots} worker slots are busy{before}."
    if (timezone.now() - run.due).total_seconds() < TAKEN_WITHIN_S:
        return "Waiting for a worker to take it."
    if not has_beat:
        return "Waiting for a worker to take it; no scheduler is running that would call one."
    return "Waiting although workers are free: they cannot be called while the broker does not answer."


def _is_silent(run: Run) -> bool:
    """Owned by a worker whose lease ran out, which nobody has noticed yet."""
    owned = run.status in ACTIVE and run.lease_until is not None
    return owned and (timezone.now() - run.lease_until).total_seconds() > SOON_S


def _silence(run: Run) -> str:
    return f"Its worker {run.worker} stopped answering. A scheduler must notice that before another one takes over."


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
