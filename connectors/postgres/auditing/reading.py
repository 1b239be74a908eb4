"""Reading inside the transaction that publishes: what is read can write, set or commit nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg2 import sql

from connectors.checks import LONGEST_TEXT, SHOWN_ROWS, BadRows
from connectors.postgres.client import Session
from connectors.writing import Target

STAGED = "{staged}"
_CURSOR = "datamantri_check"

# Of a subtransaction `transaction_read_only` is undone with it, and within it nothing can be switched back; the same
# goes for whatever a function that is read sets. Texts and times are read in one way, whatever the role's settings.
_BEGIN = """
SAVEPOINT reading;
SET LOCAL transaction_read_only = on;
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO, YMD';
SET LOCAL intervalstyle = 'postgres';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex';
SET LOCAL statement_timeout = {limit_ms};
"""
# Grouping a million keys goes through the disk with PostgreSQL's own 4 MB.
_MEMORY = """
SELECT set_config('work_mem', '64MB', true) WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('64MB')
"""


# A lock of the session is all that a subtransaction does not give back, however it ended.
_END = "ROLLBACK TO SAVEPOINT reading; RELEASE SAVEPOINT reading; SELECT pg_advisory_unlock_all()"


@contextmanager
def read_only(session: Session, *, limit_s: float) -> Iterator[None]:
    """Within, statements of the open transaction write nothing and end after `limit_s` each; leaves no trace."""
    session.execute(_BEGIN.format(limit_ms=max(1, round(limit_s * 1000))) + _MEMORY)
    try:
        yield
    finally:
        if not session.connection.closed:
            session.execute(_END)


def bad_rows_of(session: Session, query: str, staged: Target) -> tuple[int, BadRows]:
    """How many rows a person's query gives, and the first of them; inside `read_only`."""
    _open(session, "q.*", query, staged)
    shown = session.execute(f"FETCH {SHOWN_ROWS} FROM {_CURSOR}")
    columns = tuple(column.name for column in shown.description or ())
    rows = tuple(tuple(map(as_text, row)) for row in shown.fetchall())
    rest = session.execute(f"MOVE FORWARD ALL FROM {_CURSOR}").statusmessage or "MOVE 0"
    session.execute(f"CLOSE {_CURSOR}")
    return len(rows) + int(rest.split()[1]), BadRows(columns, rows)


def places_of(session: Session, query: str, staged: Target, *, most: int) -> list[str]:
    """The ctids of at most `most` bad rows, of a query that gives them as a column ctid; inside `read_only`."""
    _open(session, "DISTINCT q.ctid::text", query, staged)
    return [place for (place,) in session.execute(f"FETCH {int(most)} FROM {_CURSOR}").fetchall()]


def _open(session: Session, wanted: str, query: str, staged: Target) -> None:
    """Open a cursor for a person's query.

    As it stands in OPEN ... FOR EXECUTE, PostgreSQL takes one SELECT and nothing else: no second statement, no
    COMMIT, no INSERT, and no WITH that changes anything, whatever the text closes or comments out.
    """
    name = sql.Identifier(staged.schema, staged.table).as_string(session.connection)
    # Lines of its own, or a comment at the end would take the bracket with it.
    text = f"SELECT {wanted} FROM (\n{query.strip().rstrip(';').replace(STAGED, name)}\n) AS q"
    body = sql.SQL("DECLARE c refcursor := {}; BEGIN OPEN c FOR EXECUTE {}; END").format(
        sql.Literal(_CURSOR), sql.Literal(text)
    )
    session.execute(sql.SQL("DO {}").format(sql.Literal(body.as_string(session.connection))))


def as_text(value: Any) -> str | None:
    """A value as a page shows it; None is NULL."""
    if value is None:
        return None
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    elif isinstance(value, memoryview):
        value = "\\x" + value[:LONGEST_TEXT].hex()
    return str(value)[:LONGEST_TEXT]
