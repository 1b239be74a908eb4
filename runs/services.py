"""Every write to a run: request, claim, renew, move, log, cancel, sweep."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import F, Q, Value
from django.db.models.functions import Now
from django.utils import timezone

from pipelines.models import Pipeline, PipelineState
from runs import doorbell, live
from runs.models import Attempt, Installation, LogLine, Process, Run, Trigger
from runs.states import CLAIMABLE, TERMINAL, RunStatus, may_become

log = logging.getLogger(__name__)

PEOPLE_FIRST = 10  # a person waits for it
SCHEDULED = 20
CLAIM_TRIES = 5


class RunRefused(Exception):
    """A run that cannot be started; `code`, `message` and `hint` as in every error."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


class KeyReused(RunRefused):
    """The idempotency key was used before, with another request."""


class StaleToken(Exception):
    """The run has a newer owner: this one must not write any more."""


class InvalidTransition(Exception):
    """The run is in a state that cannot become the one asked for."""


@dataclass(frozen=True)
class Claim:
    """A run that this worker owns until its lease ends; `token` outlaws all former owners."""

    run: UUID
    token: int
    attempt: int
    status: RunStatus
    losses: int
    failures: int
    cancel_requested: bool
    started_at: datetime
    pipeline: UUID
    pipeline_name: str
    revision: int
    fingerprint: str
    definition: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """What went wrong, in the form it is stored and shown."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Line:
    level: str
    message: str
    at: datetime = field(default_factory=timezone.now)


def installation_id() -> UUID:
    installation, _ = Installation.objects.get_or_create(only=True)
    return installation.id


# Requests -------------------------------------------------------------------------------------


def request_run(
    pipeline: Pipeline,
    *,
    trigger: str,
    by: Any,
    idempotency_key: str | None = None,
    request_digest: str = "",
) -> tuple[Run, bool]:
    """Queue a run of the pipeline's current revision; says whether it is new.

    A repeated `idempotency_key` gives the run it made the first time. Raises RunRefused, or KeyReused
    when the key came with another request.
    """
    if pipeline.state == PipelineState.ARCHIVED:
        raise RunRefused("pipeline_archived", f"{pipeline.name} is archived.", "Restore it before you run it.")
    if pipeline.revision_id is None:
        raise RunRefused("no_revision", f"{pipeline.name} was never saved as a whole.", "Open it and save it once.")
    if idempotency_key and (run := _requested_before(by, idempotency_key, request_digest)):
        return run, False
    try:
        with transaction.atomic():
            run = Run.objects.create(
                pipeline=pipeline,
                revision_id=pipeline.revision_id,
                trigger=trigger,
                requested_by=by,
                priority=PEOPLE_FIRST,
                idempotency_key=idempotency_key,
                request_digest=request_digest,
            )
            transaction.on_commit(doorbell.ring)
    except IntegrityError:
        # The same key came twice at once and the other one was first.
        if idempotency_key and (earlier := _requested_before(by, idempotency_key, request_digest)):
            return earlier, False
        raise
    live.push_board(run.id, pipeline.id, RunStatus.QUEUED)
    return run, True


def _requested_before(by: Any, key: str, digest: str) -> Run | None:
    run = Run.objects.filter(requested_by=by, idempotency_key=key).select_related("pipeline").first()
    if run and run.request_digest != digest:
        raise KeyReused(
            "idempotency_key_reused",
            "This Idempotency-Key was used before, for another request.",
            "Use a new key for a new request.",
        )
    return run


def run_again(run: Run, *, by: Any) -> Run:
    """Queue a new run of the same pipeline, with the definition as it is now."""
    again, _ = request_run(run.pipeline, trigger=Trigger.MANUAL, by=by)
    return again


def cancel_run(run: Run, *, by: Any) -> Run:
    """Cancel what waits at once; ask the owner of what runs to stop. Cancelling twice changes nothing."""
    who = getattr(by, "get_username", lambda: "someone")()
    with transaction.atomic():
        unowned = Run.objects.filter(pk=run.pk, status__in=[RunStatus.QUEUED, RunStatus.RETRYING, RunStatus.HELD])
        if unowned.update(
            status=RunStatus.CANCELLED, finished_at=Now(), cancel_requested=True, cancelled_by=by, phase=""
        ):
            write_lines(run.pk, [Line("warning", f"Cancelled by {who} before it ran again.")])
            transaction.on_commit(doorbell.ring)  # the pipeline's next run may be free now
        elif (
            Run.objects.filter(pk=run.pk, cancel_requested=False)
            .exclude(status__in=TERMINAL)
            .update(cancel_requested=True, cancelled_by=by)
        ):
            write_lines(run.pk, [Line("warning", f"{who} asked to cancel this run.")])
    run.refresh_from_db()
    live.push_run(run.pk)
    return run


# Ownership ------------------------------------------------------------------------------------

_CLAIM = """
WITH picked AS (
    SELECT r.id FROM runs_run r
    WHERE r.status IN %(claimable)s AND r.due <= now() AND r.lease_until IS NULL
      AND (r.status <> 'queued' OR NOT EXISTS (
            SELECT FROM runs_run a
            WHERE a.pipeline_id = r.pipeline_id AND a.status IN ('running', 'retrying', 'resolving')))
      AND NOT EXISTS (SELECT FROM runs_process p WHERE p.name = %(process)s AND p.draining)
    ORDER BY r.priority, r.due, r.id
    LIMIT 1 FOR UPDATE OF r SKIP LOCKED
), claimed AS (
    UPDATE runs_run r SET
        status = CASE r.status WHEN 'resolving' THEN r.status ELSE 'running' END,
        token = r.token + 1, attempt = r.attempt + 1, worker = %(worker)s, task_id = %(task_id)s,
        lease_until = now() + %(ttl)s, heartbeat_at = now(), started_at = coalesce(r.started_at, now()),
        rows = 0, bytes = 0, phase = 'starting'
    FROM picked WHERE r.id = picked.id
    RETURNING r.*
), tried AS (
    INSERT INTO runs_attempt (run_id, number, token, worker, outcome, error_code, error_message, error_hint)
    SELECT id, attempt, token, worker, '', '', '', '' FROM claimed
)
SELECT c.id, c.token, c.attempt, c.status, c.losses, c.failures, c.cancel_requested, c.started_at,
       c.pipeline_id, p.name, v.number, v.fingerprint, v.definition
FROM claimed c JOIN pipelines_pipeline p ON p.id = c.pipeline_id JOIN pipelines_revision v ON v.id = c.revision_id
"""


def claim(*, process: str, worker: str, task_id: str) -> Claim | None:
    """Take the best eligible run, or None when nothing waits that may run now.

    One statement: whoever locks the row first has it, others pass by. Two queued runs of one pipeline
    that are picked at once meet at the unique constraint, and the loser looks again.
    """
    values = {
        "claimable": tuple(status.value for status in CLAIMABLE),
        "process": process,
        "worker": worker,
        "task_id": task_id,
        "ttl": settings.LEASE_TTL,
    }
    for _ in range(CLAIM_TRIES):
        try:
            with connection.cursor() as cursor:
                cursor.execute(_CLAIM, values)
                row = cursor.fetchone()
        except IntegrityError:
            continue
        if row is None:
            return None
        run, token, attempt, status, *rest, definition = row
        # A raw cursor hands out jsonb as text.
        definition = json.loads(definition) if isinstance(definition, str) else definition
        return Claim(run, token, attempt, RunStatus(status), *rest, definition)
    return None


@dataclass(frozen=True)
class Renewal:
    """What the control database answered to a heartbeat."""

    owned: bool
    cancel_requested: bool = False
    draining: bool = False


def renew(run_id: UUID, token: int, *, process: str) -> Renewal:
    """Extend the lease of a run, and read what its owner is asked to do."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE runs_run SET lease_until = now() + %s, heartbeat_at = now()
            WHERE id = %s AND token = %s AND lease_until IS NOT NULL
            RETURNING cancel_requested,
                      EXISTS (SELECT FROM runs_process p WHERE p.name = %s AND p.draining)
            """,
            [settings.LEASE_TTL, run_id, token, process],
        )
        row = cursor.fetchone()
    return Renewal(True, *row) if row else Renewal(False)


def read_flags(run_id: UUID, token: int, *, process: str) -> Renewal:
    """Read what the owner is asked to do, without renewing."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT cancel_requested, EXISTS (SELECT FROM runs_process p WHERE p.name = %s AND p.draining)
            FROM runs_run WHERE id = %s AND token = %s AND lease_until IS NOT NULL
            """,
            [process, run_id, token],
        )
        row = cursor.fetchone()
    return Renewal(True, *row) if row else Renewal(False)


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
    _leave(claimed, to, changes, failure, outcome or to.value, lines)


def retry_later(claimed: Claim, failure: Failure, *, delay: timedelta, lines: Sequence[Line] = ()) -> None:
    """Give the run another try after `delay`: the failure was a passing one and nothing was published."""
    changes = {"due": Now() + Value(delay), "failures": F("failures") + 1, **_released(failure)}
    _leave(claimed, RunStatus.RETRYING, changes, failure, "retrying", lines)


def hand_back(claimed: Claim, *, lines: Sequence[Line] = ()) -> None:
    """Let another worker start the run over at once: this one is asked to end, nothing was published."""
    _leave(claimed, RunStatus.RETRYING, {"due": Now(), **_released(None)}, None, "drained", lines)


def resolve_later(
    claimed: Claim, failure: Failure, *, delay: timedelta = timedelta(0), lines: Sequence[Line] = ()
) -> None:
    """Only the destination knows how this attempt ended: the next owner reads it there."""
    changes = {"due": Now() + Value(delay), **_released(failure)}
    if claimed.status == RunStatus.RESOLVING:
        with transaction.atomic():
            owned = Run.objects.filter(pk=claimed.run, token=claimed.token, lease_until__isnull=False)
            if not owned.update(**changes):
                raise StaleToken(claimed.run, claimed.token)
            _end_attempt(claimed, failure, "unresolved")
            write_lines(claimed.run, lines, attempt=claimed.attempt)
        live.push_run(claimed.run)
        return
    _leave(claimed, RunStatus.RESOLVING, changes, failure, "unresolved", lines)


def resume(claimed: Claim) -> None:
    """A run whose outcome was unknown was not published: run it on, as the same owner."""
    move_run(claimed.run, RunStatus.RUNNING, token=claimed.token)


def _released(failure: Failure | None) -> dict[str, Any]:
    told = failure or Failure("", "", "")
    return {
        "lease_until": None,
        "task_id": "",
        "phase": "",
        "error_code": told.code,
        "error_message": told.message,
        "error_hint": told.hint,
    }


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
    live.push_run(claimed.run)
    live.push_board(claimed.run, claimed.pipeline, to)


def _end_attempt(claimed: Claim, failure: Failure | None, outcome: str) -> None:
    told = failure or Failure("", "", "")
    Attempt.objects.filter(run_id=claimed.run, number=claimed.attempt).update(
        ended_at=Now(), outcome=outcome, error_code=told.code, error_message=told.message, error_hint=told.hint
    )


# Lost owners ----------------------------------------------------------------------------------


def sweep() -> int:
    """Give runs whose lease ran out to whoever reads the destination next; says how many."""
    return _give_up_leases(Q(lease_until__lt=Now()), "stopped answering; its lease ran out")


def give_back_lease(task_id: str) -> int:
    """The worker child of this Celery task died: no need to wait for its lease to end."""
    return _give_up_leases(Q(task_id=task_id, lease_until__isnull=False), "died")


def _give_up_leases(lost: Q, what_happened: str) -> int:
    with transaction.atomic():
        runs = list(
            Run.objects.select_for_update(skip_locked=True).filter(
                lost, status__in=[RunStatus.RUNNING, RunStatus.RESOLVING]
            )[:500]
        )
        for run in runs:
            message = f"Worker {run.worker} {what_happened}. Looking at the destination to see what was published."
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


# Log and progress -----------------------------------------------------------------------------

_WRITE = """
WITH counted AS (
    UPDATE runs_run SET last_seq = last_seq + %(count)s, rows = coalesce(%(rows)s, rows),
        bytes = coalesce(%(bytes)s, bytes), phase = coalesce(%(phase)s, phase),
        estimated_rows = coalesce(%(estimated_rows)s, estimated_rows),
        estimated_bytes = coalesce(%(estimated_bytes)s, estimated_bytes)
    WHERE id = %(run)s AND (%(token)s::bigint IS NULL OR token = %(token)s)
    RETURNING last_seq
), written AS (
    INSERT INTO runs_logline (run_id, seq, at, level, message, attempt)
    SELECT %(run)s, last_seq - %(count)s + l.ord, l.at, l.level, l.message, %(attempt)s
    FROM counted, unnest(%(at)s::timestamptz[], %(level)s::text[], %(message)s::text[])
        WITH ORDINALITY l(at, level, message, ord)
)
SELECT last_seq FROM counted
"""


@dataclass
class Progress:
    """What changed since the last write; None leaves a value as it is."""

    rows: int | None = None
    bytes: int | None = None
    phase: str | None = None
    estimated_rows: int | None = None
    estimated_bytes: int | None = None


def write_lines(
    run_id: UUID,
    lines: Iterable[Line],
    *,
    attempt: int = 0,
    token: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Append log lines and save progress in one statement; returns the lines as they are pushed.

    `seq` comes from the run's counter under its row lock, so commit order is `seq` order without
    gaps. With a `token`, only the owner writes: raises StaleToken.
    """
    lines = list(lines)
    progress = progress or Progress()
    if not lines and progress == Progress():
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            _WRITE,
            {
                "run": run_id,
                "token": token,
                "attempt": attempt,
                "count": len(lines),
                "at": [line.at for line in lines],
                "level": [line.level for line in lines],
                # PostgreSQL's text holds no NUL.
                "message": [line.message.replace("\x00", "\N{REPLACEMENT CHARACTER}") for line in lines],
                **vars(progress),
            },
        )
        row = cursor.fetchone()
    if row is None:
        raise StaleToken(run_id, token)
    first = row[0] - len(lines) + 1
    written = [
        {
            "seq": first + i,
            "at": line.at.isoformat(),
            "level": line.level,
            "message": line.message,
            "attempt": attempt,
        }
        for i, line in enumerate(lines)
    ]
    if written:
        transaction.on_commit(lambda: live.push_lines(run_id, written))
    return written


# Processes ------------------------------------------------------------------------------------


def seen(name: str, kind: str, *, slots: int = 0) -> None:
    """A worker or beat process says that it lives."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO runs_process (name, kind, slots, draining) VALUES (%s, %s, %s, false)
            ON CONFLICT (name) DO UPDATE SET seen_at = now(), slots = excluded.slots
            """,
            [name, kind, slots],
        )


def start_process(name: str, kind: str, *, slots: int = 0) -> None:
    """A process begins: whatever an earlier one of this name left behind does not count."""
    Process.objects.filter(pk=name).delete()
    seen(name, kind, slots=slots)


def drain_process(name: str) -> None:
    """Ask the children of a worker to claim nothing more and to hand back what they hold."""
    Process.objects.filter(pk=name).update(draining=True)


def end_process(name: str) -> None:
    Process.objects.filter(pk=name).delete()


def forget_processes() -> None:
    """Drop processes that have not been seen for an hour."""
    Process.objects.filter(seen_at__lt=Now() - Value(timedelta(hours=1))).delete()


# Retention ------------------------------------------------------------------------------------


def trim(*, batch: int = 500) -> int:
    """Delete one batch of log lines and finished runs past their retention; says how many rows went."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            DELETE FROM runs_logline WHERE (run_id, seq) IN (
                SELECT l.run_id, l.seq FROM runs_logline l JOIN runs_run r ON r.id = l.run_id
                WHERE l.at < now() - %s AND r.finished_at IS NOT NULL ORDER BY l.at LIMIT %s)
            """,
            [settings.LOG_RETENTION, batch * 10],
        )
        trimmed = cursor.rowcount
    old = Run.objects.filter(status__in=TERMINAL, finished_at__lt=Now() - Value(settings.RETENTION))
    ids = list(old.order_by("finished_at").values_list("pk", flat=True)[:batch])
    if ids:
        LogLine.objects.filter(run__in=ids).delete()
        trimmed += Run.objects.filter(pk__in=ids).delete()[0]
    return trimmed
