"""Who works on a run: claims, and leases that are renewed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, connection

from connectors.billing import NOTHING_BILLED, Bill
from runs.models import Installation
from runs.services import slots
from runs.services.journal import Line, Progress, write_lines
from runs.services.prepared import Prepared
from runs.states import RunStatus

CLAIM_TRIES = 5


@dataclass(frozen=True)
class Renewal:
    """What the control database answered to a heartbeat."""

    owned: bool
    cancel_requested: bool = False
    draining: bool = False


@dataclass(frozen=True)
class Claim:
    """A run that this worker owns until its lease ends; `token` outlaws all former owners.

    `step` says what of a run in parts is to be done; empty: plan it, or do all of it.
    """

    run: UUID
    token: int
    attempt: int
    status: RunStatus
    losses: int
    failures: int
    cancel_requested: bool
    started_at: datetime
    pipeline: UUID
    is_archived: bool
    action: str
    decision: str
    revision: int
    fingerprint: str
    options: dict[str, Any]
    definition: dict[str, Any]
    step: str = ""
    # Something of other connections or another pool could start as well, and a worker slot is idle.
    others_wait: bool = False
    # What attempts before this one were billed, and the pipeline's budgets as they are set now.
    billed: Bill = NOTHING_BILLED
    run_budget: int | None = None
    month_budget: int | None = None
    # What a person approved of it, by the code that it was held for.
    approved: str = ""

    def renew(self, *, process: str) -> Renewal:
        return renew(self.run, self.token, process=process)

    def read_flags(self, *, process: str) -> Renewal:
        return read_flags(self.run, self.token, process=process)

    def write_lines(self, lines: list[Line], progress: Progress) -> list[dict[str, Any]]:
        return write_lines(self.run, lines, attempt=self.attempt, token=self.token, progress=progress)


def installation_id() -> UUID:
    installation, _ = Installation.objects.get_or_create(only=True)
    return installation.id


@dataclass(frozen=True)
class Waiting:
    """Whether any run, and any part of one, is without an owner and due: a slot for it is another question."""

    runs: bool
    parts: bool


_WAITING = Prepared(
    "waiting",
    f"""
SELECT EXISTS (
        SELECT FROM runs_run r WHERE {slots.CLAIMABLE_ONES} AND r.lease_until IS NULL AND r.step <> 'parts'
          AND r.due <= statement_timestamp()),
    EXISTS (SELECT FROM runs_run r WHERE {slots.DIVIDED})
""",
    {},
)


def waiting() -> Waiting:
    """What a claim could find. Most bells ring for what others have taken: this tells at a tenth of a claim's price."""
    with connection.cursor() as cursor:
        _WAITING.execute(cursor, {})
        return Waiting(*cursor.fetchone())


# The best of each lane that has a slot left, unless a part of a run comes before it: what waits behind it or in other
# lanes costs nothing, however much it is. Rows that somebody else is changing are passed by. They are locked less than
# FOR UPDATE would: whoever only refers to one (a skip that names the run) neither waits nor makes it look taken.
_CLAIM = Prepared(
    "claim",
    f"""
WITH {slots.ROOM}, parts AS MATERIALIZED ({slots.best_parts()}
), candidates AS MATERIALIZED (
    SELECT best.*, {slots.HELD.format("best")} AS held
    FROM open_lanes l CROSS JOIN LATERAL (
        SELECT r.id, r.pipeline_id, r.lane_id, r.priority, r.due FROM runs_run r
        WHERE r.lane_id = l.id AND {slots.READY}
        ORDER BY r.priority, r.due, r.id
        LIMIT 1 FOR NO KEY UPDATE OF r SKIP LOCKED) best
    WHERE NOT {slots.IS_DRAINING}
), picked AS (
    SELECT id, lane_id FROM candidates c
    WHERE NOT EXISTS (SELECT FROM parts p WHERE (p.priority, p.held, p.due) < (c.priority, c.held, c.due))
    ORDER BY priority, held, due, id LIMIT 1
), claimed AS (
    UPDATE runs_run r SET
        status = CASE r.status WHEN 'resolving' THEN r.status ELSE 'running' END,
        token = r.token + 1, attempt = r.attempt + 1, worker = %(worker)s, task_id = %(task_id)s,
        lease_until = statement_timestamp() + %(ttl)s, heartbeat_at = statement_timestamp(),
        started_at = coalesce(r.started_at, statement_timestamp()),
        rows = CASE r.step WHEN '' THEN 0 ELSE r.rows END, bytes = CASE r.step WHEN '' THEN 0 ELSE r.bytes END,
        phase = 'starting'
    FROM picked WHERE r.id = picked.id
    RETURNING r.*
), tried AS (
    INSERT INTO runs_attempt (run_id, number, token, worker, outcome, error_code, error_message, error_hint)
    SELECT id, attempt, token, worker, '', '', '', '' FROM claimed
)
SELECT c.id, c.token, c.attempt, c.status, c.losses, c.failures, c.cancel_requested, c.started_at,
       c.pipeline_id, p.state = 'archived', c.action, c.decision, v.number, v.fingerprint,
       c.action_options, v.definition, c.step,
       {slots.ONE_IS_IDLE} AND EXISTS (
           SELECT FROM picked, (SELECT lane_id FROM candidates UNION ALL SELECT lane_id FROM parts) o
           WHERE o.lane_id <> picked.lane_id),
       c.query_bytes, c.storage_bytes, p.run_budget_bytes, p.month_budget_bytes,
       c.approved_code
FROM claimed c JOIN pipelines_pipeline p ON p.id = c.pipeline_id JOIN pipelines_revision v ON v.id = c.revision_id
""",
    {**slots.TYPES, "process": "text", "worker": "text", "task_id": "text"},
    before=slots.ONE_BY_ONE,
)


def claim(*, process: str, worker: str, task_id: str) -> Claim | None:
    """Take the best eligible run, or None when nothing waits that may run now.

    Should two runs of one pipeline become active at once after all (somebody decides on a held one), they meet at the
    unique constraint, and the loser looks again.
    """
    values = {**slots.values(), "process": process, "worker": worker, "task_id": task_id}
    for _ in range(CLAIM_TRIES):
        try:
            with connection.cursor() as cursor:
                _CLAIM.execute(cursor, values)
                row = cursor.fetchone()
        except IntegrityError:
            continue
        if row is None:
            return None
        *row, query_bytes, storage_bytes, run_budget, month_budget, approved = row
        run, token, attempt, status, *rest, options, definition, step, others_wait = row
        documents = from_json(options), from_json(definition)
        billed = Bill(query_bytes, storage_bytes)
        return Claim(
            run,
            token,
            attempt,
            RunStatus(status),
            *rest,
            *documents,
            step,
            others_wait,
            billed,
            run_budget,
            month_budget,
            approved,
        )
    return None


def from_json(value: Any) -> Any:
    """A raw cursor hands out jsonb as text."""
    return json.loads(value) if isinstance(value, str) else value


def renew(run_id: UUID, token: int, *, process: str) -> Renewal:
    """Extend the lease of a run, and read what its owner is asked to do."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE runs_run SET lease_until = statement_timestamp() + %s, heartbeat_at = statement_timestamp()
            WHERE id = %s AND token = %s AND lease_until IS NOT NULL
            RETURNING cancel_requested,
                      EXISTS (SELECT FROM runs_process p WHERE p.name = %s AND p.draining)
            """,
            [settings.LEASE_TTL, run_id, token, process],
        )
        row = cursor.fetchone()
    return Renewal(True, *row) if row else Renewal(False)


_READ_FLAGS = Prepared(
    "read_flags",
    """
SELECT cancel_requested, EXISTS (SELECT FROM runs_process p WHERE p.name = %(process)s AND p.draining)
FROM runs_run WHERE id = %(run)s AND token = %(token)s AND lease_until IS NOT NULL
""",
    {"run": "uuid", "token": "bigint", "process": "text"},
)


def read_flags(run_id: UUID, token: int, *, process: str) -> Renewal:
    """Read what the owner is asked to do, without renewing."""
    with connection.cursor() as cursor:
        _READ_FLAGS.execute(cursor, {"run": run_id, "token": token, "process": process})
        row = cursor.fetchone()
    return Renewal(True, *row) if row else Renewal(False)
