"""The lock on the target: asked for briefly and again, so that readers never queue behind us for long."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg2
from psycopg2 import errorcodes

from connectors.base import Reporter, StopSignal, Target
from connectors.errors import TransientError
from connectors.postgres import errors
from connectors.postgres.client import Session

T = TypeVar("T")

TRY_MS = 1000
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
    ask = f"SAVEPOINT lock_target; SET LOCAL lock_timeout = {TRY_MS}; LOCK TABLE {name} IN {mode} MODE; "
    deadline = time.monotonic() + LIMIT_S
    told_at = -REPEAT_HOLDERS_S
    while True:
        stop.check()
        try:
            return then(ask)
        except psycopg2.Error as error:
            if error.pgcode != errorcodes.LOCK_NOT_AVAILABLE:
                raise
            holders = _holders(session, target)
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


def _holders(session: Session, target: Target) -> str:
    """Who holds locks on the target; takes the transaction back to where it was before asking."""
    rows = session.execute(
        """
        ROLLBACK TO SAVEPOINT lock_target;
        SELECT DISTINCT a.pid, coalesce(a.usename, '?'), coalesce(nullif(a.application_name, ''), '?'),
               coalesce(a.state, ''), extract(epoch FROM clock_timestamp() - a.query_start)::bigint
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
    return ", ".join(_words(*row) for row in rows) or "a session that has just ended"


def _words(pid: int, user: str, application: str, state: str, age_s: int | None) -> str:
    doing = "idle in its transaction" if state.startswith("idle in transaction") else "busy with a query"
    since = "" if age_s is None else f", {doing} for {age_s} s"
    return f"process {pid} (user {user}, application {application}{since})"
