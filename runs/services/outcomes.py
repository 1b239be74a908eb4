"""How an owner lets go of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Value
from django.db.models.functions import Now

from runs import doorbell, live
from runs.models import Attempt, PartLoad, Run, RunAction
from runs.services.errors import InvalidTransition, StaleToken
from runs.services.journal import Line, storable, write_lines
from runs.services.ownership import Claim
from runs.states import RunStatus, Step, may_become

LONGEST_CODE = 60


@dataclass(frozen=True)
class Failure:
    """What went wrong, in the form it is stored and shown."""

    code: str
    message: str
    hint: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", storable(self.code)[:LONGEST_CODE])
        object.__setattr__(self, "message", storable(self.message))
        object.__setattr__(self, "hint", storable(self.hint))


NOTHING_WRONG = Failure("", "", "")


def time_is_up(definition: Mapping[str, Any]) -> Failure:
    return Failure(
        "time_limit",
        f"The run was stopped at its time limit of {definition['time_limit_s']} seconds. Nothing was published.",
        "Raise the pipeline's time limit, or read less.",
    )


def move_run(run_id: UUID, to: RunStatus, *, token: int, **changes: object) -> None:
    """Move a run to `to` exactly once, however many workers try.

    Raises StaleToken if the run has a newer owner, InvalidTransition if it cannot become `to`.
    """
    owned = Run.objects.filter(pk=run_id, token=token, lease_until__isnull=False)
    if not owned.filter(status__in=may_become(to)).update(status=to, **changes):
        raise InvalidTransition(run_id, to) if owned.exists() else StaleToken(run_id, token)


def finish(
    claimed: Claim,
    to: RunStatus,
    *,
    failure: Failure | None = None,
    receipt: dict[str, Any] | None = None,
    outcome: str = "",
    lines: Sequence[Line] = (),
) -> None:
    """End a run: succeeded, failed or cancelled. The caller owns it and knows what the destination holds."""
    changes: dict[str, Any] = {"finished_at": Now(), **_released(failure)}
    if receipt is not None:
        changes |= {"receipt": receipt, "rows": receipt.get("rows", 0), "bytes": receipt.get("bytes", 0)}
    with transaction.atomic():
        if to == RunStatus.SUCCEEDED and claimed.action != RunAction.COMPARE:
            overtake_held(claimed.pipeline, by=claimed.run, why="A newer run of the pipeline was published.")
        _leave(claimed, to, changes, failure, outcome or to.value, lines)


def retry_later(
    claimed: Claim, failure: Failure, *, delay: timedelta, plans_anew: bool = False, lines: Sequence[Line] = ()
) -> None:
    """Give the run another try after `delay`: the failure was a passing one and nothing was published.

    With `plans_anew`, a run in parts begins again with its plan.
    """
    changes = {"due": Now() + Value(delay), "failures": F("failures") + 1, **_released(failure)}
    with transaction.atomic():
        if plans_anew:
            changes |= {"step": Step.WHOLE, "generation": 0}
            PartLoad.objects.filter(run=claimed.run).delete()
        _leave_for_retry(claimed, changes, failure, "retrying", lines)


def hand_back(
    claimed: Claim,
    *,
    failure: Failure | None = None,
    delay: timedelta = timedelta(0),
    outcome: str = "drained",
    lines: Sequence[Line] = (),
) -> None:
    """Let the run start over elsewhere: nothing was published, and it is no fault of the run's own."""
    _leave_for_retry(claimed, {"due": Now() + Value(delay), **_released(failure)}, failure, outcome, lines)


def resolve_later(
    claimed: Claim, failure: Failure, *, delay: timedelta = timedelta(0), lines: Sequence[Line] = ()
) -> None:
    """Only the destination knows how this attempt ended: the next owner reads it there."""
    changes = {"due": Now() + Value(delay), **_released(failure)}
    _leave(claimed, RunStatus.RESOLVING, changes, failure, "unresolved", lines)


def hold(claimed: Claim, failure: Failure, *, keep_for: timedelta, lines: Sequence[Line] = ()) -> None:
    """The rows are staged and a person must decide; what this pipeline held before is out of date with it."""
    with transaction.atomic():
        overtake_held(claimed.pipeline, by=claimed.run, why="A newer run of the pipeline is held instead.")
        changes = {"held_until": Now() + Value(keep_for), **_released(failure)}
        _leave(claimed, RunStatus.HELD, changes, failure, "held", lines)


def overtake_held(pipeline: UUID, *, by: UUID, why: str) -> None:
    """End held runs of a pipeline whose staged rows can be published no more: nothing of them was."""
    held = Run.objects.select_for_update(no_key=True).filter(pipeline=pipeline, status=RunStatus.HELD).exclude(pk=by)
    for run in held:
        Run.objects.filter(pk=run.pk).update(status=RunStatus.CANCELLED, finished_at=Now(), phase="")
        write_lines(run.pk, [Line("warning", f"{why} What was staged here is discarded.")], attempt=run.attempt)
        transaction.on_commit(partial(live.push_run, run.pk))


def resume(claimed: Claim) -> None:
    """A run whose outcome was unknown was not published: run it on, as the same owner."""
    move_run(claimed.run, RunStatus.RUNNING, token=claimed.token)
    live.push_run(claimed.run)


def _released(failure: Failure | None) -> dict[str, Any]:
    told = failure or NOTHING_WRONG
    return {
        "lease_until": None,
        "task_id": "",
        "phase": "",
        "error_code": told.code,
        "error_message": told.message,
        "error_hint": told.hint,
    }


def _leave_for_retry(
    claimed: Claim, changes: dict[str, Any], failure: Failure | None, outcome: str, lines: Sequence[Line]
) -> None:
    """Nothing was published: try again, or end here if that is what somebody asked for meanwhile."""
    with transaction.atomic():
        asked = Run.objects.select_for_update(no_key=True).values_list("cancel_requested", flat=True)
        if asked.get(pk=claimed.run):
            line = Line("warning", "Cancelled. Nothing was published.")
            finish(claimed, RunStatus.CANCELLED, failure=failure, lines=[*lines, line])
            return
        _leave(claimed, RunStatus.RETRYING, changes, failure, outcome, lines)
        transaction.on_commit(doorbell.ring)


def _leave(
    claimed: Claim,
    to: RunStatus,
    changes: dict[str, Any],
    failure: Failure | None,
    outcome: str,
    lines: Sequence[Line],
) -> None:
    with transaction.atomic():
        move_run(claimed.run, to, token=claimed.token, **changes)
        _end_attempt(claimed, failure, outcome)
        write_lines(claimed.run, lines, attempt=claimed.attempt)
        transaction.on_commit(lambda: live.push_run(claimed.run))
        transaction.on_commit(lambda: live.push_board(claimed.run, claimed.pipeline, to))


def _end_attempt(claimed: Claim, failure: Failure | None, outcome: str) -> None:
    told = failure or NOTHING_WRONG
    Attempt.objects.filter(run_id=claimed.run, number=claimed.attempt).update(
        ended_at=Now(), outcome=outcome, error_code=told.code, error_message=told.message, error_hint=told.hint
    )
