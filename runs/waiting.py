"""Why runs wait, for many runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import Count, Min, Q
from django.utils import timezone

from runs import capacity, upstream_waits
from runs.models import OVER_BUDGET, PartLoad, Run, RunAction
from runs.shortage import Holder, Shortage, shortages
from runs.states import ACTIVE, CLAIMABLE, PartStatus, RunStatus, Step

PLACES = 1000  # further back in the queue, nobody counts
SOON_S = 1.0
TAKEN_WITHIN_S = 10.0


@dataclass(frozen=True)
class Wait:
    """Why a run waits, in words; and the runs to look at: those that have the slots it waits for, or its upstreams'."""

    why: str
    holders: Sequence[Holder] = ()

    def __str__(self) -> str:
        return self.why


NO_WAIT = Wait("")
_FOR_A_DECISION = "Waiting for a person's decision on the pipeline's held run, which this one would put out of date."


def wait_of(run: Run) -> Wait:
    """What a run that does not run is waiting for; says nothing when it runs or has ended."""
    return reasons_to_wait([run]).get(run.pk, NO_WAIT)


def why_waiting(run: Run) -> str:
    return wait_of(run).why


def reasons_to_wait(runs: Sequence[Run]) -> dict[UUID, Wait]:
    """What each run that neither runs nor has ended waits for; the same few queries for any number."""
    reasons = {run.pk: _for_a_person(run) for run in runs if run.status == RunStatus.HELD}
    reasons |= {run.pk: Wait(_silence(run)) for run in runs if _is_silent(run)}
    reasons |= _for_upstreams([run for run in runs if run.status == RunStatus.BLOCKED])
    reasons |= _for_parts([run for run in runs if run.status == RunStatus.RUNNING and run.step == Step.PARTS])
    waiting = [run for run in runs if run.status in CLAIMABLE and run.lease_until is None and run.pk not in reasons]
    if not waiting:
        return reasons
    pipelines = {run.pipeline_id for run in waiting}
    others = Run.objects.filter(pipeline__in=pipelines, status__in=sorted(ACTIVE))
    active = {run.pipeline_id: run for run in others.only("pipeline_id", "status")}
    first = capacity.first_in_line(pipelines)
    short = shortages({run.lane_id for run in waiting if run.lane_id is not None})
    slots, free, has_beat = capacity.total_slots(), capacity.free_slots(), capacity.beats_alive().exists()
    line = capacity.line(PLACES) if free <= 0 else []
    slices = {run.pipeline_id for run in waiting if _begins_a_slice(run)}
    undecided = Run.objects.filter(pipeline__in=slices, status=RunStatus.HELD).exclude(action=RunAction.COMPARE)
    held = set(undecided.values_list("pipeline", flat=True))
    for run in waiting:
        if any(holder.run == run.pk for shortage in short.get(run.lane_id, ()) for holder in shortage.holders):
            continue  # a worker has claimed it since it was read
        reasons[run.pk] = (
            _for_its_time(run)
            or _for_its_pipeline(run, active.get(run.pipeline_id), first.get(run.pipeline_id))
            or (Wait(_FOR_A_DECISION) if _begins_a_slice(run) and run.pipeline_id in held else None)
            or _for_a_slot(short.get(run.lane_id, ()) if slots else ())
            or _for_a_worker(run, slots, free, line, has_beat)
        )
    return reasons


def _begins_a_slice(run: Run) -> bool:
    """Whether it is a slice of a backfill that has yet to begin: one that somebody let go on waits for nobody."""
    return run.action == RunAction.BACKFILL and run.status == RunStatus.QUEUED


def _for_a_person(run: Run) -> Wait:
    if run.error_code == OVER_BUDGET:
        return Wait("Waiting for somebody to approve what it would cost, or for room in the budget.")
    return Wait("Waiting for a person's decision.")


def _for_upstreams(runs: Sequence[Run]) -> dict[UUID, Wait]:
    if not runs:
        return {}
    told = upstream_waits.reasons(run.pk for run in runs)
    soon = Wait("Waiting for a scheduler to see that its upstreams have succeeded.")
    return {run.pk: Wait(*told[run.pk]) if run.pk in told else soon for run in runs}


def _for_parts(runs: Sequence[Run]) -> dict[UUID, Wait]:
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
    short = shortages({run.lane_id for run in runs if run.lane_id is not None})
    return {run.pk: _of_parts(found.get(run.pk), slots, short.get(run.lane_id, ())) for run in runs}


def _of_parts(row: dict[str, Any] | None, slots: int, short: Sequence[Shortage]) -> Wait:
    if row is None or row["loading"]:
        return NO_WAIT
    wait_s = (row["due"] - timezone.now()).total_seconds()
    if wait_s > SOON_S:
        return Wait(f"Waiting {_span(wait_s)} before a part is tried again.")
    if not slots:
        return Wait("Waiting because no worker is running.")
    one = row["left"] == 1
    left = "Its part that is left waits for" if one else f"Its {row['left']} parts that are left wait for"
    return _for_a_slot(short, left) or Wait(f"{left} a free worker slot.")


def _for_its_time(run: Run) -> Wait | None:
    wait_s = (run.due - timezone.now()).total_seconds()
    if wait_s <= SOON_S:
        return None
    if run.status == RunStatus.RETRYING:
        why = f"Waiting {_span(wait_s)} before the next attempt, after: {run.error_message}"
        return Wait(why.removesuffix(", after: "))
    if run.status == RunStatus.RESOLVING:
        return Wait(f"Waiting {_span(wait_s)} before the destination is asked again what was published.")
    if run.scheduled_for and run.due > run.scheduled_for:
        return Wait(f"Waiting {_span(wait_s)} more: the starts of its schedule are spread over time.")
    return Wait(f"Waiting {_span(wait_s)} until it is due.")


def _for_its_pipeline(run: Run, active: Run | None, first: UUID | None) -> Wait | None:
    if run.status != RunStatus.QUEUED:
        return None
    if active is not None:
        return Wait(f"Waiting for this pipeline's run that is {active.get_status_display().lower()} now.")
    if first not in (None, run.pk):
        return Wait("Waiting for this pipeline's run that came before it.")
    return None


def _for_a_slot(short: Sequence[Shortage], waits_for: str = "Waiting for") -> Wait | None:
    if not short:
        return None
    holders = {holder.run: holder for shortage in short for holder in shortage.holders}
    return Wait(f"{waits_for} {'; and for '.join(str(shortage) for shortage in short)}.", list(holders.values()))


def _for_a_worker(run: Run, slots: int, free: int, line: Sequence[capacity.Place], has_beat: bool) -> Wait:
    if not slots:
        return Wait("Waiting because no worker is running.")
    if free <= 0:
        return Wait(f"Waiting because all {slots} worker slots are busy{_behind(run, line)}.")
    if (timezone.now() - run.due).total_seconds() < TAKEN_WITHIN_S:
        return Wait("Waiting for a worker to take it.")
    if not has_beat:
        return Wait("Waiting for a worker to take it; no scheduler is running that would call one.")
    return Wait("Waiting although workers are free: they cannot be called while the broker does not answer.")


def _behind(run: Run, line: Sequence[capacity.Place]) -> str:
    """How many runs will be taken before this one, and how many of them for their priority."""
    ahead = [place for place in line if place.key < (run.priority, run.due, run.pk)]
    if not ahead:
        return ""
    higher = sum(place.priority < run.priority for place in ahead)
    many = f"{'at least ' if len(ahead) == PLACES else ''}{len(ahead)} before it"
    return f", {many}{f' ({higher} of higher priority)' if higher else ''}"


def _is_silent(run: Run) -> bool:
    """Owned by a worker whose lease ran out, which nobody has noticed yet."""
    owned = run.status in ACTIVE and run.lease_until is not None
    return owned and (timezone.now() - run.lease_until).total_seconds() > SOON_S


def _silence(run: Run) -> str:
    return f"Its worker {run.worker} stopped answering. A scheduler must notice that before another one takes over."


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
