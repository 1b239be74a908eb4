"""The log of a run, and its progress."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from runs import live
from runs.models import LogLine
from runs.services.errors import StaleToken
from runs.services.prepared import Prepared

LONGEST_TEXT = 20_000


def storable(text: str) -> str:
    """`text` as PostgreSQL can hold it: without NUL, halves of surrogate pairs, or megabytes of somebody's data."""
    text = text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… ({len(text):,} characters)"


@dataclass(frozen=True)
class Line:
    """A log line before it has its place in the log."""

    level: str
    message: str
    at: datetime = field(default_factory=timezone.now)

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", storable(self.message))


@dataclass
class Progress:
    """What changed since the last write; None leaves a value as it is."""

    rows: int | None = None
    bytes: int | None = None
    phase: str | None = None
    estimated_rows: int | None = None
    estimated_bytes: int | None = None

    def under(self, newer: Progress) -> Progress:
        """This one, as far as `newer` says nothing else."""
        return Progress(**{k: v if v is not None else vars(self)[k] for k, v in vars(newer).items()})


# Lines take the numbers that `counted` has made room for.
WRITES_LINES = """, written AS (
    INSERT INTO runs_logline (run_id, seq, at, level, message, attempt)
    SELECT %(run)s, last_seq - %(count)s + l.ord, l.at, l.level, l.message, %(attempt)s
    FROM counted, unnest(%(at)s::timestamptz[], %(level)s::text[], %(message)s::text[])
        WITH ORDINALITY l(at, level, message, ord)
)
SELECT last_seq FROM counted"""
LINE_TYPES = {
    **{"run": "uuid", "token": "bigint", "attempt": "integer", "count": "integer"},
    **{"at": "timestamptz[]", "level": "text[]", "message": "text[]", "rows": "bigint", "bytes": "bigint"},
}
_WRITE = Prepared(
    "write_lines",
    f"""
WITH counted AS (
    UPDATE runs_run SET last_seq = last_seq + %(count)s, rows = coalesce(%(rows)s, rows),
        bytes = coalesce(%(bytes)s, bytes), phase = coalesce(%(phase)s, phase),
        estimated_rows = coalesce(%(estimated_rows)s, estimated_rows),
        estimated_bytes = coalesce(%(estimated_bytes)s, estimated_bytes)
    WHERE id = %(run)s AND (%(token)s::bigint IS NULL OR (token = %(token)s AND lease_until IS NOT NULL))
    RETURNING last_seq
){WRITES_LINES}
""",
    {**LINE_TYPES, "phase": "text", "estimated_rows": "bigint", "estimated_bytes": "bigint"},
)


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
        _WRITE.execute(
            cursor,
            {
                "run": run_id,
                "token": token,
                "attempt": attempt,
                "count": len(lines),
                "at": [line.at for line in lines],
                "level": [line.level for line in lines],
                "message": [line.message for line in lines],
                **vars(progress),
            },
        )
        row = cursor.fetchone()
    if row is None:
        raise StaleToken(run_id, token)
    return push_later(run_id, lines, attempt=attempt, last_seq=row[0])


def push_later(run_id: UUID, lines: Sequence[Line], *, attempt: int, last_seq: int) -> list[dict[str, Any]]:
    """Push lines that were just written, the last of them as `last_seq`, once that is committed; returns them so."""
    first = last_seq - len(lines) + 1
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


def is_written(run_id: UUID, line: Line, *, attempt: int, after: int) -> bool:
    """Whether `line` arrived, after a connection broke while it was being written; looks behind seq `after`."""
    found = LogLine.objects.filter(run_id=run_id, seq__gt=after, attempt=attempt)
    return found.filter(at=line.at, level=line.level, message=line.message).exists()
