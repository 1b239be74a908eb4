"""Who owns a part of a run: a lease of its own, while the run has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from connectors.billing import NOTHING_BILLED, Bill
from runs.services import slots
from runs.services.errors import StaleToken
from runs.services.journal import LINE_TYPES, WRITES_LINES, Line, Progress, push_later
from runs.services.ownership import Renewal, from_json
from runs.services.prepared import Prepared


@dataclass(frozen=True)
class PartClaim:
    """A part that this worker owns until its lease ends; `token` outlaws all former owners of the part.

    `fence_token` is the fence that its rows are committed under, `seconds_left` the run's time.
    """

    part: int
    number: int
    of: int
    token: int
    name: str
    losses: int
    failures: int
    run: UUID
    attempt: int
    generation: int
    fence_token: int
    seconds_left: float
    started_at: Any
    pipeline: UUID
    action: str
    revision: int
    fingerprint: str
    options: dict[str, Any]
    definition: dict[str, Any]
    # A worker slot is idle, for what else may wait.
    others_wait: bool = False
    # What former attempts at the part were billed.
    billed: Bill = NOTHING_BILLED

    @property
    def title(self) -> str:
        """The part as the log names it."""
        return f"Part {self.number + 1} of {self.of}" + (f" ({self.name})" if self.name else "")

    def renew(self, *, process: str) -> Renewal:
        return _ask(_RENEW, self, process)

    def read_flags(self, *, process: str) -> Renewal:
        return _ask(_READ_FLAGS, self, process)

    def write_lines(self, lines: Sequence[Line], progress: Progress) -> list[dict[str, Any]]:
        return write_part_lines(self, lines, progress)


_CLAIM = Prepared(
    "claim_part",
    f"""
WITH {slots.ROOM}, parts AS MATERIALIZED ({slots.best_parts("FOR NO KEY UPDATE OF p SKIP LOCKED")}
      AND NOT {slots.IS_DRAINING}
), picked AS (
    SELECT id FROM parts ORDER BY priority, held, due, number LIMIT 1
), claimed AS (
    UPDATE runs_partload p SET
        status = 'running', token = p.token + 1, worker = %(worker)s, task_id = %(task_id)s,
        lease_until = statement_timestamp() + %(ttl)s, started_at = coalesce(p.started_at, statement_timestamp())
    FROM picked WHERE p.id = picked.id
    RETURNING p.*
)
SELECT c.id, c.number, (SELECT count(*) FROM runs_partload o WHERE o.run_id = c.run_id), c.token, c.name, c.losses,
       c.failures, r.id, r.attempt, r.generation, r.fence_token,
       extract(epoch FROM r.parts_until - statement_timestamp())::float8, r.started_at, r.pipeline_id, r.action,
       v.number, v.fingerprint, r.action_options, v.definition, {slots.ONE_IS_IDLE}, c.query_bytes, c.storage_bytes
FROM claimed c JOIN runs_run r ON r.id = c.run_id JOIN pipelines_revision v ON v.id = r.revision_id
""",
    {**slots.TYPES, "process": "text", "worker": "text", "task_id": "text"},
    before=slots.ONE_BY_ONE,
)


def claim_part(*, process: str, worker: str, task_id: str) -> PartClaim | None:
    """Take the best part that waits and has a slot, or None; of equal runs, one that has the fewest slots already."""
    values = {**slots.values(), "process": process, "worker": worker, "task_id": task_id}
    with connection.cursor() as cursor:
        _CLAIM.execute(cursor, values)
        row = cursor.fetchone()
    if row is None:
        return None
    *rest, options, definition, others_wait, query_bytes, storage_bytes = row
    billed = Bill(query_bytes, storage_bytes)
    return PartClaim(*rest, from_json(options), from_json(definition), others_wait, billed)


# A part whose run does not wait for parts any more has no owner, whatever its lease says.
_OWNED = """
    p.id = %(part)s AND p.token = %(token)s AND p.lease_until IS NOT NULL
    AND r.id = p.run_id AND r.step = 'parts' AND r.status = 'running'
"""
_FLAGS = "r.cancel_requested, EXISTS (SELECT FROM runs_process o WHERE o.name = %(process)s AND o.draining)"
_RENEW = f"""
UPDATE runs_partload p SET lease_until = statement_timestamp() + %(ttl)s FROM runs_run r WHERE {_OWNED}
RETURNING {_FLAGS}
"""
_READ_FLAGS = f"SELECT {_FLAGS} FROM runs_partload p, runs_run r WHERE {_OWNED}"


def _ask(statement: str, claimed: PartClaim, process: str) -> Renewal:
    with connection.cursor() as cursor:
        values = {"part": claimed.part, "token": claimed.token, "process": process, "ttl": settings.LEASE_TTL}
        cursor.execute(statement, values)
        row = cursor.fetchone()
    return Renewal(True, *row) if row else Renewal(False)


_WRITE = Prepared(
    "write_part_lines",
    f"""
WITH owned AS (
    SELECT p.id, p.rows, p.bytes FROM runs_partload p
    WHERE p.id = %(part)s AND p.token = %(token)s AND p.lease_until IS NOT NULL
), counted AS (
    UPDATE runs_run r SET last_seq = r.last_seq + %(count)s, phase = 'loading',
        rows = r.rows + coalesce(%(rows)s - owned.rows, 0), bytes = r.bytes + coalesce(%(bytes)s - owned.bytes, 0)
    FROM owned WHERE r.id = %(run)s AND r.step = 'parts'
    RETURNING r.last_seq
), progressed AS (
    UPDATE runs_partload p SET rows = coalesce(%(rows)s, p.rows), bytes = coalesce(%(bytes)s, p.bytes)
    FROM counted WHERE p.id = %(part)s
){WRITES_LINES}
""",
    {**LINE_TYPES, "part": "bigint"},
)


def write_part_lines(claimed: PartClaim, lines: Sequence[Line], progress: Progress) -> list[dict[str, Any]]:
    """Append log lines of a part to its run's log, and save its progress; raises StaleToken as `write_lines` does.

    Only the part's owner writes its rows, and they count for the run by what they changed.
    """
    if not lines and progress == Progress():
        return []
    with connection.cursor() as cursor:
        _WRITE.execute(
            cursor,
            {
                "run": claimed.run,
                "part": claimed.part,
                "token": claimed.token,
                "attempt": claimed.attempt,
                "count": len(lines),
                "at": [line.at for line in lines],
                "level": [line.level for line in lines],
                "message": [line.message for line in lines],
                "rows": progress.rows,
                "bytes": progress.bytes,
            },
        )
        row = cursor.fetchone()
    if row is None:
        raise StaleToken(claimed.run, claimed.token)
    return push_later(claimed.run, lines, attempt=claimed.attempt, last_seq=row[0])
