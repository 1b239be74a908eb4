"""An append's past range, loaded again: the target's rows of the range go, those of the staging table come.

Both in the publishing transaction, so readers see the range as it was or as it is. Rows outside of it are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import psycopg2
from psycopg2 import errorcodes, sql

from connectors.column import Column
from connectors.cursor import Span
from connectors.errors import ConnectorError
from connectors.postgres.client import Session
from connectors.postgres.publish import append, in_place_rules, merge_rules
from connectors.writing import Changes, Target

# Shuts out other writers, who could add rows to the range between its two statements; readers pass.
MODE = "SHARE ROW EXCLUSIVE"


def refuse(
    session: Session, target: Target, columns: Sequence[Column], *, exists: bool, besides: Collection[str] = ()
) -> ConnectorError | None:
    """What stands against removing rows of the target, and putting others in their place."""
    if not exists:
        return ConnectorError(
            f"There is no table {target} in which a past range could be filled in.",
            hint="Run the pipeline first.",
            code="backfill_no_target",
            field="table",
        )
    return in_place_rules.refuse(session, target, columns, (), besides=besides)


def replace(
    session: Session,
    target: Target,
    staging: Target,
    columns: Sequence[Column],
    span: Span,
    rows: int,
    *,
    allow: Callable[[Changes], None],
) -> Changes:
    """Put the `rows` of `staging` in the place of the target's rows of `span`.

    The caller holds a lock of MODE. `allow` sees what was deleted and will come before it does, and may raise what
    forbids it. Raises ConnectorError, codes rows_differ and rows_referenced.
    """
    cursor = sql.Identifier(*merge_rules.named(columns, [span.column]))
    statement = sql.SQL("DELETE FROM {} WHERE {cursor} >= %s AND {cursor} < %s").format(
        sql.Identifier(target.schema, target.table), cursor=cursor
    )
    try:
        deleted = session.execute(statement, (span.low, span.high)).rowcount
    except psycopg2.Error as error:
        if error.pgcode == errorcodes.FOREIGN_KEY_VIOLATION:
            raise _referenced(target, error) from error
        raise
    allow(Changes(inserted=rows, deleted=deleted))
    brought = append.bring_over(session, target, staging, columns, rows)
    return Changes(inserted=brought.inserted, deleted=deleted)


def _referenced(target: Target, error: psycopg2.Error) -> ConnectorError:
    by = f"{error.diag.schema_name}.{error.diag.table_name}"
    return ConnectorError(
        f"{by} refers to rows of {target} that would be loaded again (constraint {error.diag.constraint_name}).",
        hint="Make the pipeline a merge, which keeps rows that stay the same, or drop the foreign key.",
        code="rows_referenced",
        field="table",
    )
