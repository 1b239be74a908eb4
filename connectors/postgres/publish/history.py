"""A history: a row for each version of a key, with the time from when and until when the source had it (SCD type 2).

In order: what the batch has is compared with the versions that hold now; what meets none of those, or is older, with
those of the past; guards are asked; the versions of each key that changes are put in order; all is written in one
statement. Versions follow one another by the cursor; where it does not tell the time, the snapshot does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from psycopg2 import sql

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.modes import WriteMode
from connectors.postgres.client import Session
from connectors.postgres.publish import marks
from connectors.postgres.publish.fragments import one_row, relation
from connectors.postgres.publish.history_sql import History
from connectors.postgres.publish.marks import Seen
from connectors.postgres.publish.merge_rules import inspected
from connectors.postgres.publish.tuning import is_small, tuned
from connectors.writing import Changes, Target


def objection(mode: WriteMode, seen: Seen) -> str:
    """Why a run that reads all rows ends no version for being gone; empty if it does, or could not tell anyway."""
    if mode.sees_all and not mode.anew and not seen.is_complete:
        return "The key of a row that was set aside cannot be read: this run takes no row for gone."
    return ""


def apply(
    session: Session,
    target: Target,
    staging: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    *,
    as_of: datetime,
    duplicates: int | None = None,
    seen: Seen = marks.NOTHING_SEEN,
    allow: Callable[[Changes], None] = lambda changes: None,
) -> Changes:
    """Add what the staging table has to the history, and end what is gone if this run sees all.

    The caller holds a lock of merge.MODE on the target. `duplicates` are the rows beyond one for each key, as
    merge.prepare counts them; with 0 nothing is sorted. `allow` is told how many keys come and go, and may raise what
    forbids it. Raises ConnectorError, code rows_differ, if a trigger kept rows out.
    """
    table = inspected(session, target)
    history = History(target, staging, columns, mode, table, is_unique=duplicates == 0, as_of=as_of)
    ends = mode.sees_all and seen.is_complete and not mode.anew
    with tuned(session, looks_up=not ends and is_small(session, table, staging)):
        removed = _begin_anew(session, history, allow) if mode.anew else 0
        mended = _note(session, history, ends=ends, seen=seen)
        found = one_row(session.one(history.count()))
        opened, opened_keys, back_keys, gone = found
        if gone:
            live = int(one_row(session.one(history.count_live()))[0])
            allow(Changes(opened_keys + back_keys, unchanged=live - gone, deleted=gone))
        session.execute(history.order())
        to_end, to_add = one_row(session.one(history.count_moves()))
        ended, left, added = one_row(session.one(history.write()))
    if (ended, left, added) != (to_end, gone, to_add):
        raise ConnectorError(
            f"{to_add} versions were to be added and {to_end + gone} ended, but of {target} it was"
            f" {added} and {ended + left}.",
            hint="A trigger on the table may drop rows.",
            code="rows_differ",
            field="table",
        )
    staged, distinct = one_row(session.one(history.count_staged()))
    session.execute(sql.SQL("DROP TABLE {}, {}").format(history.noted, history.moves))
    return Changes(
        inserted=added,
        updated=mended,
        unchanged=distinct - added - mended,
        deleted=removed if mode.anew else gone,
        duplicates=staged - distinct,
        revived=back_keys,
        versions=added - opened,
    )


def _begin_anew(session: Session, history: History, allow: Callable[[Changes], None]) -> int:
    """Delete every version there is; returns how many. Readers see them until the commit."""
    live = int(one_row(session.one(history.count_live()))[0])
    keys = int(one_row(session.one(history.count_keys()))[0])
    allow(Changes(keys, deleted=live))
    removed = session.execute(sql.SQL("DELETE FROM {}").format(relation(history.target))).rowcount
    session.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what was put off to the commit speaks now
    left = one_row(session.one(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(relation(history.target))))
    if left[0]:
        raise ConnectorError(
            f"Not all versions in {history.target} could be deleted.",
            hint="A trigger on the table may keep rows.",
            code="rows_differ",
            field="table",
        )
    return int(removed)


def _note(session: Session, history: History, *, ends: bool, seen: Seen) -> int:
    """Write down what is to be done; returns how many versions were mended.

    A version whose values changed without another cursor gets them in its place, before all else: nothing is written
    down of places that are no longer right.
    """
    session.execute(history.make_notes())
    _compare(session, history, ends=ends)
    mended = session.execute(history.mend()).rowcount
    if mended:
        session.execute(sql.SQL("DELETE FROM {}").format(history.noted))
        _compare(session, history, ends=ends)
    if ends and seen.keys is not None:
        session.execute(history.forget_seen(seen.keys))
    return mended


def _compare(session: Session, history: History, *, ends: bool) -> None:
    session.execute(history.note(ends=ends))
    session.execute(sql.SQL("ANALYZE {}").format(history.noted))
    if one_row(session.one(history.has_past()))[0]:
        session.execute(history.look_into_the_past())
