"""Runs whose owner is gone: the next one asks the destination."""

from __future__ import annotations

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from runs import doorbell, live
from runs.models import Attempt, Run, RunAction
from runs.services import parts
from runs.services.journal import Line, write_lines
from runs.states import RunStatus

AT_ONCE = 500
_LOOKS = "Looking at the destination to see what was published."
_STARTS_OVER = "The comparison starts over."


def sweep() -> int:
    """Give runs and parts whose lease ran out to whoever goes on with them; says how many."""
    return _give_up_leases(Q(lease_until__lt=Now()), "stopped answering; its lease ran out") + parts.sweep_parts()


def give_back_lease(task_id: str, *, process: str = "") -> int:
    """The worker child of this Celery task died: no need to wait for its lease to end.

    With `process`, only for a child of that one: a message that was delivered twice is the same task elsewhere.
    """
    of_process = Q(worker__startswith=f"{process}:") if process else Q()
    return _give_back(Q(task_id=task_id) & of_process) if task_id else 0


def give_back_leases(worker: str) -> int:
    """This worker child is gone, whichever task it had: no need to wait for what it held."""
    return _give_back(Q(worker=worker))


def give_back_all_leases(process: str) -> int:
    """This worker ends, and its children with it, also those whose end it never heard of."""
    return _give_back(Q(worker__startswith=f"{process}:"))


def _give_back(lost: Q) -> int:
    lost &= Q(lease_until__isnull=False)
    return _give_up_leases(lost, "died") + parts.give_up(lost, "died")


def _give_up_leases(lost: Q, what_happened: str) -> int:
    with transaction.atomic():
        runs = list(
            Run.objects.select_for_update(skip_locked=True, no_key=True).filter(
                lost, status__in=[RunStatus.RUNNING, RunStatus.RESOLVING]
            )[:AT_ONCE]
        )
        for run in runs:
            then = _STARTS_OVER if run.action == RunAction.COMPARE else _LOOKS
            message = f"Worker {run.worker} {what_happened}. {then}"
            Attempt.objects.filter(run=run, number=run.attempt).update(
                ended_at=Now(), outcome="lost", error_code="worker_lost", error_message=message
            )
            write_lines(run.pk, [Line("warning", message)], attempt=run.attempt)
        # The token rises with the next claim; until then nobody owns these runs.
        Run.objects.filter(pk__in=[run.pk for run in runs]).update(
            status=RunStatus.RESOLVING, lease_until=None, task_id="", due=Now(), losses=F("losses") + 1, phase=""
        )
        if runs:
            transaction.on_commit(doorbell.ring)
    for run in runs:
        live.push_run(run.pk)
        live.push_board(run.pk, run.pipeline_id, RunStatus.RESOLVING)
    return len(runs)
