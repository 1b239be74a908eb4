"""Readers whose snapshot is older than rows that were committed before a rename.

Renaming is not subject to snapshots, rows are: such a reader would find the new table under the old name,
but not all of its rows. So they are given time to end.
"""

from __future__ import annotations

import time

from connectors.base import Reporter, StopSignal
from connectors.postgres.client import Session
from connectors.writing import Target

LIMIT_S = 30.0
POLL_S = 0.1
TELL_AFTER_S = 1.0

Held = frozenset[tuple[int, str, str]]
"""Snapshots by process, transaction and the oldest transaction that was running when they were taken."""

# Autovacuum and replication see no rows through these snapshots that anybody reads.
_HELD = """
SELECT a.pid, l.virtualtransaction, a.backend_xmin::text FROM pg_stat_activity a
JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'virtualxid' AND l.granted
WHERE a.datname = current_database() AND a.backend_xmin IS NOT NULL AND a.pid <> pg_backend_pid()
  AND a.backend_type IN ('client backend', 'background worker')
"""


def now_held(session: Session) -> Held:
    """The snapshots of this database that others hold now."""
    return frozenset((pid, transaction, oldest) for pid, transaction, oldest in session.execute(_HELD).fetchall())


def wait_out(session: Session, older: Held, target: Target, *, reporter: Reporter, stop: StopSignal) -> None:
    """Wait until none of `older` is held any more, at most LIMIT_S; says what it waits for."""
    began = time.monotonic()
    has_told = False
    while older := older & now_held(session) if older else older:
        waited = time.monotonic() - began
        named = ", ".join(str(pid) for pid in sorted({pid for pid, _, _ in older}))
        if waited > LIMIT_S:
            reporter.log(
                "warning",
                f"Transactions that began before the last rows were staged still run (process {named}): should they"
                f" read {target} after this, they see only a part of it.",
            )
            return
        if not has_told and waited > TELL_AFTER_S:
            has_told = True
            reporter.log("info", f"Waiting for transactions older than the staged rows to end: process {named}.")
        stop.check()
        time.sleep(POLL_S)
