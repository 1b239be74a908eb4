"""Rows of a staging table become those of a table that stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from connectors.base import Reporter
from connectors.column import Column
from connectors.counts import counted
from connectors.modes import Deletes, Guard, WriteMode
from connectors.postgres.client import Session
from connectors.postgres.publish import append, full_merge, history, in_place, marks, merge, span
from connectors.postgres.publish.guard import check_changes
from connectors.postgres.publish.merge_rules import inspected
from connectors.writing import Changes, Target


def bring_over(
    session: Session,
    target: Target,
    staging: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    method: str,
    *,
    rows: int,
    duplicates: int,
    as_of: datetime,
    seen: marks.Seen,
    guard: Guard,
    reporter: Reporter,
    before_change: Callable[[Changes], None],
) -> Changes:
    """Change the target's rows by the `rows` of `staging`; the caller holds the lock that the method takes.

    `before_change` is told of what a replace in place, or a history that begins anew, is about to do. Raises Held
    where a guard wants a person to decide, and ConnectorError.
    """

    def replaces(changes: Changes) -> None:
        check_changes(target, changes, guard=guard)
        before_change(changes)

    if method == "append" and mode.span is not None:
        told = f"{target} from {mode.span.low} to {mode.span.high}"
        allow = partial(check_changes, told, guard=guard)
        return span.replace(session, target, staging, columns, mode.span, rows, allow=allow)
    if method == "append":
        return append.bring_over(session, target, staging, columns, rows)
    if method == "in_place":
        # What leans on the table, and how, may have changed since it was looked at.
        refusal = in_place.refuse(session, target, columns, mode.key)
        if refusal is not None:
            raise refusal
        changes = in_place.apply(session, target, staging, columns, mode.key, allow=replaces)
        return replace(changes, revived=marks.clear(session, target))
    allow = partial(check_changes, target, guard=guard)
    told = history.objection(mode, seen) if method == "history" else full_merge.objection(mode, seen)
    if told:
        reporter.log("warning", told)
    if method == "history":
        return history.apply(
            *(session, target, staging, columns, mode),
            as_of=as_of,
            duplicates=duplicates,
            seen=seen,
            allow=replaces if mode.anew else allow,
        )
    table = inspected(session, target)
    if not full_merge.concerns(session, target, mode, table):
        return merge.apply(session, target, staging, columns, mode.key, mode.cursor, duplicates=duplicates, table=table)
    changes = full_merge.apply(
        *(session, target, staging, columns, mode, table),
        as_of=as_of,
        duplicates=duplicates,
        seen=seen,
        allow=allow,
    )
    if changes.deleted:
        done = "marked as deleted" if mode.deletes is Deletes.SOFT else "deleted"
        reporter.log("info", f"Gone from the source, and {done}: {counted(changes.deleted)}.")
    return changes
