"""Guards: a publish that would leave nothing, or make too much vanish, waits for a person."""

from __future__ import annotations

from psycopg2 import sql

from connectors.errors import Held
from connectors.modes import Guard
from connectors.postgres.client import Session
from connectors.writing import Changes, Target

HINT = "Look at the source. Approve the run to publish its rows as they are, or discard it."
# The statistics of a table that we analyse at every publish are good to a few percent.
_SURE = 1.2


def check_rename(session: Session, target: Target, rows: int, guard: Guard) -> None:
    """Raise Held if a new table of `rows` rows must not take the target's place by itself; before any lock."""
    name = sql.Identifier(target.schema, target.table)
    if rows == 0:
        if not guard.zero_rows:
            return
        found = session.one(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(name))
        if found is not None and found[0]:
            raise _emptied(target)
        return
    if guard.shrink_percent is None or _is_surely_enough(session, target, rows, guard.shrink_percent):
        return
    found = session.one(sql.SQL("SELECT count(*) FROM {}").format(name))
    before = found[0] if found else 0
    if before and before - rows > before * guard.shrink_percent / 100:
        raise _shrunk(target, before - rows, before, guard.shrink_percent)


def check_changes(target: Target | str, changes: Changes, guard: Guard) -> None:
    """Raise Held if these changes of the target's rows, or of some of them in words, must not happen by themselves."""
    before = changes.deleted + changes.updated + changes.unchanged
    if not before or not changes.deleted:
        return
    if not before - changes.deleted + changes.inserted:
        if guard.zero_rows:
            raise _emptied(target)
        return
    # Without a key a row that changed is deleted and another inserted: only what is fewer in the end has vanished.
    vanished = max(0, changes.deleted - changes.inserted)
    if guard.shrink_percent is not None and vanished > before * guard.shrink_percent / 100:
        raise _shrunk(target, vanished, before, guard.shrink_percent)


def _is_surely_enough(session: Session, target: Target, rows: int, percent: int) -> bool:
    """Whether the table's own statistics spare us counting it."""
    found = session.one(
        """
        SELECT c.reltuples FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relname = %s
        """,
        (target.schema, target.table),
    )
    return found is not None and found[0] > 0 and rows >= found[0] * (1 - percent / 100) * _SURE


def _emptied(target: Target | str) -> Held:
    return Held(
        f"The source has no rows: publishing would empty {target}.",
        hint=HINT,
        code="guard_zero_rows",
        field="table",
    )


def _shrunk(target: Target | str, vanished: int, before: int, allowed: int) -> Held:
    share = 100 * vanished / before
    return Held(
        f"Publishing would take {vanished:,} of {before:,} rows ({share:.0f} %) out of {target};"
        f" the pipeline allows {allowed} %.",
        hint=HINT,
        code="guard_shrink",
        field="table",
    )
