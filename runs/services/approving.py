"""What becomes of a run that waits because of what it would cost."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now

from runs import doorbell, live
from runs.models import OVER_BUDGET, CostApproval, Run, RunAction
from runs.services.errors import RunRefused
from runs.services.journal import Line, storable, write_lines
from runs.services.revising import catch_up
from runs.services.undecided import refuse_beside_held
from runs.states import RunStatus

_GOES_ON: dict[str, Any] = {
    "status": RunStatus.RETRYING,
    "decision": "",
    "held_until": None,
    "error_code": "",
    "error_message": "",
    "error_hint": "",
}
_LOOKS_AGAIN = "The pipeline is defined otherwise since this run's dry run: it looks again."


def not_held() -> RunRefused:
    message = "This run is not held (any more), or for another reason by now."
    return RunRefused("not_held", message, "Reload the page to see how it stands.")


def is_over_budget(run: Run) -> bool:
    return run.status == RunStatus.HELD and run.error_code == OVER_BUDGET


def approve_cost(run: Run, *, by: Any, note: str = "", attempt: int | None = None) -> Run:
    """Let a run go on and read that its budget holds back: this run, and as much as its dry run says.

    `attempt` is the one whose dry run somebody has seen; not given, that of `run`. Raises RunRefused if it does not
    wait for that, or by another dry run, or another run of its pipeline is under way; for a slice of a backfill, also
    where one is held whose rows it would put out of date. So it does where the definition is another since its dry
    run, and a load then looks again by that one.
    """
    note = storable(note.strip())
    try:
        with transaction.atomic():
            now = Run.objects.select_for_update(no_key=True).get(pk=run.pk)
            if not is_over_budget(now):
                message = "This run does not wait for its cost to be approved (any more)."
                raise RunRefused("not_over_budget", message, "Reload the page to see how it stands.")
            if now.attempt != (run.attempt if attempt is None else attempt):
                raise not_held()
            if now.action == RunAction.BACKFILL:
                refuse_beside_held(now.pipeline_id)  # once it goes on, nothing stops it
            if is_behind := catch_up(now):
                text = _LOOKS_AGAIN
            else:
                told = (now.estimated_query_bytes, now.estimated_storage_bytes)
                allowed = None if None in told else sum(part or 0 for part in told)
                CostApproval.objects.create(pipeline_id=now.pipeline_id, run=now, by=by, note=note, bytes=allowed)
                text = f"{by.get_username()} approved what this run costs: it goes on, and reads."
                text = f"{text} Because: {note}" if note else text
            Run.objects.filter(pk=run.pk).update(**_GOES_ON, due=Now())
            _go_on(now, text)
    except IntegrityError as error:
        message = "Another run of this pipeline is under way."
        raise RunRefused("pipeline_busy", message, "Approve it when that has ended.") from error
    if is_behind:
        raise RunRefused("dry_run_outdated", _LOOKS_AGAIN, "Wait for what it says now, and approve that.")
    run.refresh_from_db()
    return run


def _go_on(run: Run, text: str) -> None:
    write_lines(run.pk, [Line("warning", text)], attempt=run.attempt)
    transaction.on_commit(doorbell.ring)
    transaction.on_commit(partial(live.push_run, run.pk))
    transaction.on_commit(partial(live.push_board, run.pk, run.pipeline_id, RunStatus.RETRYING))


def discard_cost(run: Run, text: str, attempt: int | None, **decided: Any) -> None:
    """End a run of which nothing was read: no worker has anything to take away."""
    ended = {"status": RunStatus.CANCELLED, "finished_at": Now(), "phase": ""}
    seen = {"attempt": run.attempt if attempt is None else attempt, "error_code": OVER_BUDGET}
    if not Run.objects.filter(pk=run.pk, status=RunStatus.HELD, **seen).update(**ended, **decided):
        raise not_held()
    write_lines(run.pk, [Line("warning", text)], attempt=run.attempt)
    transaction.on_commit(partial(live.push_run, run.pk))
    transaction.on_commit(partial(live.push_board, run.pk, run.pipeline_id, RunStatus.CANCELLED))


# A run that waits fits into the budget by now: the month is another, or the budget was raised. Its own dry run will say
# whether it does. `bytes` is what it was told to bill in all, a part of which it has been billed already. A load may
# catch up with its pipeline's revision; those that need not come first, as some cannot.
_AFFORDABLE = """
SELECT DISTINCT ON (r.pipeline_id) r.id FROM runs_run r JOIN pipelines_pipeline p ON p.id = r.pipeline_id
JOIN pipelines_revision mine ON mine.id = r.revision_id JOIN pipelines_revision now ON now.id = p.revision_id
CROSS JOIN LATERAL (
    SELECT coalesce(r.estimated_query_bytes, r.query_bytes) + coalesce(r.estimated_storage_bytes, r.storage_bytes)
        AS bytes, r.query_bytes + r.storage_bytes AS billed) told
CROSS JOIN LATERAL (
    SELECT coalesce(sum(l.query_bytes + l.storage_bytes), 0) AS bytes FROM runs_ledger l
    WHERE l.pipeline_id = p.id AND l.day >= date_trunc('month', statement_timestamp() AT TIME ZONE 'UTC')) spent
WHERE r.status = 'held' AND r.error_code = %s AND p.state = 'active'
  AND (r.action = 'load' OR mine.fingerprint = now.fingerprint)
  AND (p.run_budget_bytes IS NULL OR told.bytes <= p.run_budget_bytes)
  AND (p.month_budget_bytes IS NULL OR spent.bytes < p.month_budget_bytes
       AND spent.bytes + told.bytes - told.billed <= p.month_budget_bytes)
  AND NOT EXISTS (SELECT FROM runs_run a
                  WHERE a.pipeline_id = r.pipeline_id AND a.status IN ('running', 'retrying', 'resolving'))
  AND NOT (r.action = 'backfill' AND EXISTS (
      SELECT FROM runs_run h WHERE h.pipeline_id = r.pipeline_id AND h.status = 'held' AND h.error_code <> %s))
ORDER BY r.pipeline_id, r.revision_id <> p.revision_id, r.created_at
"""


def release_affordable() -> int:
    """Let runs look again that would fit into their budgets now; says how many, at most one a pipeline."""
    with connection.cursor() as cursor:
        cursor.execute(_AFFORDABLE, [OVER_BUDGET, OVER_BUDGET])
        found: list[UUID] = [row[0] for row in cursor.fetchall()]
    return sum(map(_release, found))


def _release(pk: UUID) -> bool:
    try:
        with transaction.atomic():
            waiting = Run.objects.select_for_update(no_key=True, skip_locked=True)
            run = waiting.filter(pk=pk, status=RunStatus.HELD, error_code=OVER_BUDGET).first()
            if run is None:
                return False
            catch_up(run)
            Run.objects.filter(pk=pk).update(**_GOES_ON, due=Now())
            _go_on(run, "The budget has room for this run by now: it looks again.")
            return True
    except IntegrityError:
        return False  # another run of the pipeline has begun: the next look is soon
    except RunRefused:
        return False  # it cannot go by the definition as it is now: a person discards it
