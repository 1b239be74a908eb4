"""Parts of a run, from its plan to its publish: the last one to end rings for that.

Whoever locks both a run and its parts locks the run first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q, Value
from django.db.models.functions import Least, Now

from runs import capacity, doorbell, live
from runs.models import Attempt, PartLoad, Run
from runs.services.errors import StaleToken
from runs.services.journal import Line, write_lines
from runs.services.outcomes import NOTHING_WRONG, Failure, retry_later, time_is_up
from runs.services.ownership import Claim
from runs.services.part_ownership import PartClaim
from runs.states import PartStatus, RunStatus, Step

LOSSES_LIMIT = 10
AT_ONCE = 500


@dataclass(frozen=True)
class NewPart:
    """A part as it was planned."""

    name: str
    estimated_rows: int | None


def spread(
    claimed: Claim, parts: Sequence[NewPart], *, generation: int, fence_token: int, lines: Sequence[Line] = ()
) -> None:
    """Let go of a run whose plan is made: its parts are anybody's to load. Raises StaleToken."""
    with transaction.atomic():
        until = Now() + Value(timedelta(seconds=claimed.definition["time_limit_s"]))
        _let_parts_begin(claimed, fence_token, generation=generation, parts_until=until, rows=0, bytes=0)
        PartLoad.objects.filter(run=claimed.run).delete()
        PartLoad.objects.bulk_create(
            PartLoad(run_id=claimed.run, number=number, name=part.name[:200], estimated_rows=part.estimated_rows)
            for number, part in enumerate(parts)
        )
        _tell(claimed, len(parts), lines)


def spread_again(
    claimed: Claim, numbers: Sequence[int], *, generation: int, fence_token: int, lines: Sequence[Line] = ()
) -> None:
    """Let parts be loaded that are not whole, under a newer fence; their time goes on. Raises StaleToken.

    Where these are other parts than this database knows, which was restored perhaps, the run makes a new plan.
    """
    known = PartLoad.objects.filter(run=claimed.run, number__in=numbers)
    if known.count() != len(numbers) or not Run.objects.filter(pk=claimed.run, generation=generation).exists():
        failure = Failure("new_generation", "The parts at the destination are not those that this run knows.")
        retry_later(claimed, failure, delay=timedelta(0), plans_anew=True, lines=lines)
        return
    with transaction.atomic():
        _let_parts_begin(claimed, fence_token)
        undone = {"status": PartStatus.WAITING, "due": Now(), "lease_until": None, "task_id": "", "finished_at": None}
        known.update(**undone)
        _tell(claimed, len(numbers), lines)


def _let_parts_begin(claimed: Claim, fence_token: int, **changes: Any) -> None:
    owned = Run.objects.filter(pk=claimed.run, token=claimed.token, lease_until__isnull=False, status=RunStatus.RUNNING)
    begun = owned.update(
        step=Step.PARTS,
        fence_token=fence_token,
        lease_until=None,
        task_id="",
        worker="",
        phase="loading",
        error_code="",
        error_message="",
        error_hint="",
        **changes,
    )
    if not begun:
        raise StaleToken(claimed.run, claimed.token)
    Attempt.objects.filter(run_id=claimed.run, number=claimed.attempt).update(ended_at=Now(), outcome="divided")


def _tell(claimed: Claim, parts: int, lines: Sequence[Line]) -> None:
    write_lines(claimed.run, lines, attempt=claimed.attempt)
    # Whoever asked to cancel while the plan was made found an owner to obey: there is none any more.
    if Run.objects.filter(pk=claimed.run, cancel_requested=True).exists():
        go_to_publish(claimed.run)
    transaction.on_commit(lambda: doorbell.ring(max(1, min(parts, capacity.free_slots()))))
    transaction.on_commit(lambda: live.push_run(claimed.run))


# A part's side ----------------------------------------------------------------------------------


def finish_part(claimed: PartClaim, *, rows: int, bytes: int, lines: Sequence[Line] = ()) -> bool:
    """A part is done; says whether it was the last. Raises StaleToken."""
    with transaction.atomic():
        _end_part(claimed, rows, bytes, lines, status=PartStatus.DONE, finished_at=Now(), **_errors(None))
        left = PartLoad.objects.filter(run=claimed.run).exclude(status=PartStatus.DONE).exists()
        if not left:
            go_to_publish(claimed.run)
    return not left


def release_part(
    claimed: PartClaim,
    *,
    rows: int,
    bytes: int,
    failure: Failure | None = None,
    failures: int | None = None,
    delay: timedelta = timedelta(0),
    needs_fence: bool = False,
    lines: Sequence[Line] = (),
) -> None:
    """Let another worker go on behind the last checkpoint, after `delay`; `failures` are those in a row by now.

    With `needs_fence`, nobody may go on before the run's owner has raised the fence. Raises StaleToken.
    """
    with transaction.atomic():
        counted = {} if failures is None else {"failures": failures}
        due = Now() + Value(delay)
        _end_part(claimed, rows, bytes, lines, status=PartStatus.WAITING, due=due, **counted, **_errors(failure))
        if needs_fence:
            go_to_publish(claimed.run)
        transaction.on_commit(doorbell.ring)


def fail_part(claimed: PartClaim, failure: Failure, *, rows: int, bytes: int, lines: Sequence[Line] = ()) -> None:
    """A part that cannot be loaded ends the run: whoever takes its last step says how. Raises StaleToken."""
    with transaction.atomic():
        _end_part(claimed, rows, bytes, lines, status=PartStatus.FAILED, finished_at=Now(), **_errors(failure))
        go_to_publish(claimed.run)


def _end_part(claimed: PartClaim, rows: int, bytes: int, lines: Sequence[Line], **changes: Any) -> None:
    """Let go of a part, with what is committed of it, under the lock of its run."""
    run = Run.objects.select_for_update(no_key=True).filter(pk=claimed.run, step=Step.PARTS).first()
    owned = PartLoad.objects.filter(pk=claimed.part, token=claimed.token, lease_until__isnull=False)
    part = owned.first()
    if run is None or part is None:
        raise StaleToken(claimed.run, claimed.token)
    owned.update(lease_until=None, task_id="", rows=rows, bytes=bytes, **changes)
    Run.objects.filter(pk=run.pk).update(rows=run.rows + rows - part.rows, bytes=run.bytes + bytes - part.bytes)
    write_lines(claimed.run, lines, attempt=claimed.attempt)
    transaction.on_commit(lambda: live.push_run(claimed.run))


def go_to_publish(run_id: UUID) -> None:
    """Nothing more is loaded: the run's last step is due, by whose fence no part commits any more."""
    # Its place among others is that of the run.
    Run.objects.filter(pk=run_id, step=Step.PARTS).update(step=Step.PUBLISH, due=Least(F("due"), Now()))
    PartLoad.objects.filter(run=run_id, lease_until__isnull=False).update(
        status=PartStatus.WAITING, lease_until=None, task_id=""
    )
    transaction.on_commit(doorbell.ring)


def failed_part(run_id: UUID) -> PartLoad | None:
    """The part that ended its run before it was whole."""
    return PartLoad.objects.filter(run=run_id, status=PartStatus.FAILED).order_by("finished_at", "number").first()


def _errors(failure: Failure | None) -> dict[str, str]:
    told = failure or NOTHING_WRONG
    return {"error_code": told.code, "error_message": told.message, "error_hint": told.hint}


# Parts whose owner is gone ----------------------------------------------------------------------


def sweep_parts() -> int:
    """Give parts whose lease ran out to whoever goes on behind their checkpoint; says how many."""
    _end_late_runs()
    return give_up(Q(lease_until__lt=Now()), "stopped answering; its lease ran out")


def _end_late_runs() -> None:
    """Let runs fail whose parts are not done in time, whether they load or wait."""
    loading = Run.objects.filter(status=RunStatus.RUNNING, step=Step.PARTS)
    for run in loading.filter(parts_until__lt=Now()).select_related("revision")[:AT_ONCE]:
        with transaction.atomic():
            if not loading.select_for_update(no_key=True, skip_locked=True).filter(pk=run.pk).exists():
                continue
            failure = time_is_up(run.revision.definition)
            left = PartLoad.objects.filter(run=run).exclude(status=PartStatus.DONE).order_by("number")
            late = {"status": PartStatus.FAILED, "finished_at": Now(), "lease_until": None, "task_id": ""}
            PartLoad.objects.filter(pk__in=left.values("pk")[:1]).update(**late, **_errors(failure))
            write_lines(run.pk, [Line("error", failure.message)], attempt=run.attempt)
            go_to_publish(run.pk)


def give_up(lost: Q, what_happened: str) -> int:
    """Let others load the parts whose owners are `lost`, one run at a time under its lock; says how many."""
    found = PartLoad.objects.filter(lost, status=PartStatus.RUNNING).values_list("run", flat=True)[:AT_ONCE]
    given_up = 0
    for run_id in sorted(set(found)):
        with transaction.atomic():
            run = Run.objects.select_for_update(no_key=True, skip_locked=True).filter(pk=run_id).first()
            if run is None:
                continue
            lost_ones = PartLoad.objects.filter(lost, run=run, status=PartStatus.RUNNING)
            if run.step != Step.PARTS or run.status != RunStatus.RUNNING:
                # Taken in the moment in which its run went on: its worker let go by itself.
                lost_ones.update(status=PartStatus.WAITING, lease_until=None, task_id="")
                continue
            parts = list(lost_ones)
            of = PartLoad.objects.filter(run=run).count()
            for part in parts:
                _lose(run, part, of, what_happened)
            given_up += len(parts)
            if parts:
                transaction.on_commit(partial(doorbell.ring, len(parts)))
        live.push_run(run_id)
    return given_up


def _lose(run: Run, part: PartLoad, of: int, what_happened: str) -> None:
    changes: dict[str, Any] = {"status": PartStatus.WAITING, "due": Now()}
    then = "Another one goes on behind what is committed."
    level = "warning"
    if part.losses >= LOSSES_LIMIT:
        changes = {"status": PartStatus.FAILED, "finished_at": Now()} | _errors(
            Failure(
                "worker_lost",
                f"The worker was lost {part.losses + 1} times while it loaded part {part.number + 1}.",
                "Look for memory limits and crashes in the workers' own logs.",
            )
        )
        level, then = "error", "It is not tried again."
    PartLoad.objects.filter(pk=part.pk).update(lease_until=None, task_id="", losses=F("losses") + 1, **changes)
    message = f"Part {part.number + 1} of {of}: worker {part.worker} {what_happened}. {then}"
    write_lines(run.pk, [Line(level, message)], attempt=run.attempt)
    if changes["status"] == PartStatus.FAILED:
        go_to_publish(run.pk)
