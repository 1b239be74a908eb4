"""The lock on the target: asked for briefly and again, so that readers never queue behind us for long."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import psycopg2
from psycopg2 import errorcodes

from connectors.base import Reporter, StopSignal
from connectors.errors import TransientError
from connectors.postgres import errors
from connectors.postgres.client import Session
from connectors.writing import Target

T = TypeVar("T")

TRY_MS = 1000
# PostgreSQL ends an autovacuum that is in the way, but looks for one only after its deadlock_timeout.
AUTOVACUUM_TRY_MS = 5000
LIMIT_S = 60.0
REPEAT_HOLDERS_S = 10.0


def with_lock(
    session: Session,
    target: Target,
    mode: str,
    then: Callable[[str], T],
    *,
    reporter: Reporter,
    stop: StopSignal,
) -> T:
    """Run `then(sql)`, whose message begins with `sql`, until the lock it asks for is granted.

    A waiting exclusive lock holds up every reader that comes after it: hence a second at most, then
    a pause with jitter. Only the lock is tried again, under a savepoint. Raises TransientError with
    code target_locked when the limit is over.
    """
    name = errors.quoted(target.schema, target.table)
    try_ms = TRY_MS
    deadline = time.monotonic() + LIMIT_S
    told_at = -REPEAT_HOLDERS_S
    while True:
        stop.check()
        try:
            return then(f"SAVEPOINT lock_target; SET LOCAL lock_timeout = {try_ms}; LOCK TABLE {name} IN {mode} MODE; ")
        except psycopg2.Error as error:
            if error.pgcode != errorcodes.LOCK_NOT_AVAILABLE:
                raise
            found = _holders(session, target)
            holders = ", ".join(map(str, found)) or "a session that has just ended"
            try_ms = _next_try_ms(session, found)
            if time.monotonic() > deadline:
                raise TransientError(
                    f"{target} stayed locked for {LIMIT_S:.0f} s by {holders}.",
                    hint="End those sessions, or run at a quieter time.",
                    code="target_locked",
                ) from error
        if time.monotonic() - told_at >= REPEAT_HOLDERS_S:
            told_at = time.monotonic()
            reporter.log("warning", f"Waiting for the lock on {target}, held by {holders}.")
        # As long a pause as the wait, so that the readers who queued behind us get their turn.
        time.sleep(random.uniform(0.2, 1.0))  # noqa: S311 jitter


@dataclass(frozen=True)
class _Holder:
    """A session with a lock on the target; an autovacuum worker is one without a user."""

    pid: int
    user: str | None
    application: str
    state: str
    age_s: int | None

    def __str__(self) -> str:
        if self.user is None:
            return f"process {self.pid} (autovacuum)"
        doing = "idle in its transaction" if self.state.startswith("idle in transaction") else "busy with a query"
        since = "" if self.age_s is None else f", {doing} for {self.age_s} s"
        return f"process {self.pid} (user {self.user}, application {self.application or 'unknown'}{since})"


def _next_try_ms(session: Session, holders: list[_Holder]) -> int:
    """A little longer than deadlock_timeout if autovacuum is in the way, as it would not yield before."""
    if all(holder.user is not None for holder in holders):
        return TRY_MS
    row = session.one("SELECT setting::int FROM pg_settings WHERE name = 'deadlock_timeout'")
    return min(AUTOVACUUM_TRY_MS, row[0] + 200) if row else TRY_MS


def _holders(session: Session, target: Target) -> list[_Holder]:
    """Who holds locks on the target; takes the transaction back to where it was before asking."""
    rows = session.execute(
        """
        ROLLBACK TO SAVEPOINT lock_target;
        SELECT DISTINCT a.pid, a.usename, coalesce(a.application_name, ''), coalesce(a.state, ''),
               extract(epoch FROM clock_timestamp() - a.query_start)::bigint
        FROM pg_locks l
        JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND n.nspname = %s AND c.relname = %s
        ORDER BY 1 LIMIT 10
        """,
        (target.schema, target.table),
    ).fetchall()
    return [_Holder(*row) for row in rows]
