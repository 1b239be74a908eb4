"""How an owner lets go of its run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from connectors import naming
from pipelines.given import NAMES, goes_by_values
from runs import doorbell, live
from runs.models import OVER_BUDGET, READ_NOTHING, CostApproval, Decision, PartLoad, Run, RunAction
from runs.services import drift
from runs.services.begun_anew import BEGUN_ANEW, is_load
from runs.services.check_results import note_results
from runs.services.deciding import decide
from runs.services.errors import InvalidTransition, StaleToken
from runs.services.journal import Line, push_later, storable
from runs.services.ownership import Claim
from runs.services.poll_days import count_micro_batch, is_micro_batch
from runs.services.prepared import Prepared
from runs.states import TERMINAL, RunStatus, Step, may_become

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
        raise _refusal(run_id, to, token)


def _refusal(run_id: UUID, to: RunStatus, token: int) -> InvalidTransition | StaleToken:
    owned = Run.objects.filter(pk=run_id, token=token, lease_until__isnull=False)
    return InvalidTransition(run_id, to) if owned.exists() else StaleToken(run_id, token)


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
    publishes = to == RunStatus.SUCCEEDED and claimed.action != RunAction.COMPARE
    why = _overtakes(claimed, "was published") if publishes else ""
    checks = (receipt or {}).get("checks")
    is_micro, has_drift = is_micro_batch(claimed.options), bool((receipt or {}).get("drift"))
    with transaction.atomic() if is_micro or has_drift or checks else nullcontext():
        if has_drift:
            drift.note(claimed, receipt or {})
        moved = None if receipt is None else (receipt.get("rows", 0), receipt.get("bytes", 0))
        _leave(claimed, to, failure, outcome or to.value, lines, receipt=receipt, moved=moved, overtakes=why)
        if is_micro:
            count_micro_batch(claimed.pipeline, to, receipt)
        if checks:
            note_results(claimed, checks)


def retry_later(
    claimed: Claim, failure: Failure, *, delay: timedelta, plans_anew: bool = False, lines: Sequence[Line] = ()
) -> None:
    """Give the run another try after `delay`: the failure was a passing one and nothing was published.

    With `plans_anew`, a run in parts begins again with its plan.
    """
    with transaction.atomic():
        if plans_anew:
            PartLoad.objects.filter(run=claimed.run).delete()
            Run.objects.filter(pk=claimed.run, token=claimed.token).update(step=Step.WHOLE, generation=0)
        _leave_for_retry(claimed, failure, "retrying", lines, delay=delay, failures=1)


def begin_anew(claimed: Claim, failure: Failure, *, lines: Sequence[Line] = ()) -> None:
    """Let the run start over at once as a full refresh: nothing was published, and as a load it cannot be."""
    with transaction.atomic():
        PartLoad.objects.filter(run=claimed.run).delete()
        # Who approved what a load costs was asked about no full refresh; the ledger keeps who did.
        CostApproval.objects.filter(run=claimed.run).update(run=None)
        anew = {"action": RunAction.FULL_REFRESH, "action_options": {**claimed.options, BEGUN_ANEW: True}}
        owned = Run.objects.filter(pk=claimed.run, token=claimed.token)
        owned.update(**anew, step=Step.WHOLE, generation=0)
        _leave_for_retry(claimed, failure, "retrying", lines, delay=timedelta(0))


def hand_back(
    claimed: Claim,
    *,
    failure: Failure | None = None,
    delay: timedelta = timedelta(0),
    outcome: str = "drained",
    lines: Sequence[Line] = (),
) -> None:
    """Let the run start over elsewhere: nothing was published, and it is no fault of the run's own."""
    _leave_for_retry(claimed, failure, outcome, lines, delay=delay)


def resolve_later(
    claimed: Claim, failure: Failure, *, delay: timedelta = timedelta(0), lines: Sequence[Line] = ()
) -> None:
    """Only the destination knows how this attempt ended: the next owner reads it there."""
    _leave(claimed, RunStatus.RESOLVING, failure, "unresolved", lines, delay=delay)


def hold(
    claimed: Claim,
    failure: Failure,
    *,
    keep_for: timedelta,
    staged: tuple[int, int] | None = None,
    lines: Sequence[Line] = (),
) -> None:
    """A person must decide, of staged rows or of a cost; what this pipeline held before is out of date with it.

    What waits because of its cost has nothing to show: it puts only such loads out of date, whatever they became.
    Nothing is left to decide where somebody cancelled the run and its owner had not heard of it.
    """
    why = _overtakes(claimed, "is held instead")
    if claimed.action == RunAction.REPLAY:
        why = ""  # a few rows of then are no reason to read the source again
    if failure.code == OVER_BUDGET and not is_load(claimed.action, claimed.options):
        why = ""  # somebody asked for it: what waits besides is something else
    with transaction.atomic():
        _leave(claimed, RunStatus.HELD, failure, "held", lines, keep_for=keep_for, moved=staged, overtakes=why)
        # Locked by now: a wish comes before this, or finds the run held.
        unheard = Run.objects.select_related("cancelled_by").filter(pk=claimed.run, cancel_requested=True).first()
        if unheard is not None:
            decide(unheard, Decision.DISCARD, by=unheard.cancelled_by)


def _overtakes(claimed: Claim, happened: str) -> str:
    """Why what an older run staged cannot be published any more; nothing if it still may be."""
    if claimed.action == RunAction.BACKFILL:
        return ""
    why = f"A newer run of the pipeline {happened}."
    if not goes_by_values(claimed.definition):
        return why
    if any(naming.is_template(claimed.definition["destination"][name]) for name in NAMES):
        return ""  # it may have written to another table
    return f"{why} Clear this one: it reads its own values again."


def resume(claimed: Claim) -> None:
    """A run whose outcome was unknown was not published: run it on, as the same owner."""
    move_run(claimed.run, RunStatus.RUNNING, token=claimed.token)
    live.push_run(claimed.run)


def _leave_for_retry(
    claimed: Claim, failure: Failure | None, outcome: str, lines: Sequence[Line], *, delay: timedelta, failures: int = 0
) -> None:
    """Nothing was published: try again, or end here if that is what somebody asked for meanwhile."""
    with transaction.atomic():
        asked = Run.objects.select_for_update(no_key=True).values_list("cancel_requested", flat=True)
        if asked.get(pk=claimed.run):
            told = "Cancelled. Nothing was published."
            line = Line("warning", f"{told} A later run takes away what was staged." if claimed.step else told)
            finish(claimed, RunStatus.CANCELLED, failure=failure, lines=[*lines, line])
            return
        _leave(claimed, RunStatus.RETRYING, failure, outcome, lines, delay=delay, failures=failures)
        transaction.on_commit(doorbell.ring)


# All that letting go of a run writes, at once: the run, its attempt, the last lines of its log; and the end of what the
# pipeline held before, whose staged rows can be published no more (nothing of them was).
_LEAVE = Prepared(
    "leave",
    """
WITH left_run AS (
    UPDATE runs_run SET status = %(to)s, lease_until = NULL, task_id = '', phase = '',
        error_code = %(code)s, error_message = %(message)s, error_hint = %(hint)s,
        finished_at = CASE WHEN %(ends)s THEN statement_timestamp() ELSE finished_at END,
        due = coalesce(statement_timestamp() + %(delay)s::interval, due), failures = failures + %(failures)s,
        decision = CASE %(to)s WHEN 'held' THEN '' ELSE decision END,
        held_until = coalesce(statement_timestamp() + %(keep_for)s::interval, held_until),
        receipt = coalesce(%(receipt)s::jsonb, receipt),
        rows = coalesce(%(rows)s, rows), bytes = coalesce(%(bytes)s, bytes), last_seq = last_seq + %(count)s
    WHERE id = %(run)s AND token = %(token)s AND lease_until IS NOT NULL AND status = ANY(%(allowed)s::text[])
    RETURNING id, pipeline_id, last_seq
), ended AS (
    UPDATE runs_attempt a SET ended_at = statement_timestamp(), outcome = %(outcome)s,
        error_code = %(code)s, error_message = %(message)s, error_hint = %(hint)s
    FROM left_run WHERE a.run_id = left_run.id AND a.number = %(attempt)s
), written AS (
    INSERT INTO runs_logline (run_id, seq, at, level, message, attempt)
    SELECT left_run.id, last_seq - %(count)s + l.ord, l.at, l.level, l.message, %(attempt)s
    FROM left_run, unnest(%(at)s::timestamptz[], %(level)s::text[], %(texts)s::text[])
        WITH ORDINALITY l(at, level, message, ord)
), overtaken AS (
    UPDATE runs_run h
    SET status = 'cancelled', finished_at = statement_timestamp(), phase = '', last_seq = h.last_seq + 1
    FROM left_run
    WHERE %(overtakes)s <> '' AND h.pipeline_id = left_run.pipeline_id AND h.status = 'held' AND h.id <> left_run.id
      AND CASE WHEN h.error_code = 'over_budget'
          THEN %(reads)s AND (h.action = 'load' OR h.action = 'full_refresh' AND h.action_options ? 'begun_anew')
          ELSE %(code)s <> 'over_budget' END
    RETURNING h.id, h.last_seq, h.attempt, h.error_code
), told AS (
    INSERT INTO runs_logline (run_id, seq, at, level, message, attempt)
    SELECT id, last_seq, statement_timestamp(), 'warning', %(overtakes)s || CASE error_code
        WHEN 'over_budget' THEN ' Nothing of this one was read.' ELSE ' What was staged here is discarded.' END, attempt
    FROM overtaken
)
SELECT last_seq, ARRAY(SELECT id::text FROM overtaken) FROM left_run
""",
    {
        **{
            "run": "uuid",
            "token": "bigint",
            "attempt": "integer",
            "to": "text",
            "allowed": "text[]",
            "ends": "boolean",
        },
        **dict.fromkeys(("code", "message", "hint", "outcome", "overtakes"), "text"),
        **{"delay": "interval", "failures": "integer", "keep_for": "interval", "receipt": "jsonb", "reads": "boolean"},
        **{"rows": "bigint", "bytes": "bigint"},
        **{"count": "integer", "at": "timestamptz[]", "level": "text[]", "texts": "text[]"},
    },
)


def _leave(
    claimed: Claim,
    to: RunStatus,
    failure: Failure | None,
    outcome: str,
    lines: Sequence[Line],
    *,
    delay: timedelta | None = None,
    failures: int = 0,
    keep_for: timedelta | None = None,
    receipt: dict[str, Any] | None = None,
    moved: tuple[int, int] | None = None,
    overtakes: str = "",
) -> None:
    """Let go of a run exactly once; raises as `move_run` does. `overtakes` says why what was held is of no use now.

    `moved` are its rows and bytes, None for those that its progress told of.
    """
    told = failure or NOTHING_WRONG
    rows, size = moved or (None, None)
    values = {
        "run": claimed.run,
        "token": claimed.token,
        "attempt": claimed.attempt,
        "to": to.value,
        "allowed": [status.value for status in may_become(to)],
        "ends": to in TERMINAL,
        "code": told.code,
        "message": told.message,
        "hint": told.hint,
        "delay": delay,
        "failures": failures,
        "keep_for": keep_for,
        "receipt": None if receipt is None else json.dumps(receipt),
        "rows": rows,
        "bytes": size,
        "outcome": outcome,
        "overtakes": overtakes,
        "reads": claimed.action not in READ_NOTHING and not goes_by_values(claimed.definition),
        "count": len(lines),
        "at": [line.at for line in lines],
        "level": [line.level for line in lines],
        "texts": [line.message for line in lines],
    }
    with connection.cursor() as cursor:
        _LEAVE.execute(cursor, values)
        row = cursor.fetchone()
    if row is None:
        raise _refusal(claimed.run, to, claimed.token)
    last_seq, overtaken = row
    push_later(claimed.run, lines, attempt=claimed.attempt, last_seq=last_seq)
    for run in (claimed.run, *map(UUID, overtaken)):
        transaction.on_commit(partial(live.push_run, run))
    transaction.on_commit(partial(live.push_board, claimed.run, claimed.pipeline, to))
