"""Append: rows go straight into the target, and are seen when the transaction commits.

Where runs make the target's partitions, rows are staged first: they tell which partitions they need.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from psycopg2 import sql

from connectors.base import Reporter, StopSignal
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres.client import Session
from connectors.postgres.ddl import compare_catalog
from connectors.postgres.names import column_names
from connectors.postgres.publish.lock import with_lock
from connectors.writing import Changes, Target

# What INSERT takes: readers and writers pass, changes of the table's form wait until we are done.
MODE = "ROW EXCLUSIVE"
LOCK_TIMEOUT_MS = 30_000


def hold_target(
    session: Session, target: Target, columns: Sequence[Column], *, reporter: Reporter, stop: StopSignal
) -> None:
    """Keep the table's form as it is until the transaction ends, then compare it with `columns`.

    Raises the first thing that stands against them.
    """
    after = f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"  # for rows that triggers and keys look up
    with_lock(session, target, MODE, lambda lock: session.execute(lock + after), reporter=reporter, stop=stop)
    refuse_other_form(session, target, columns)


def bring_over(session: Session, target: Target, staging: Target, columns: Sequence[Column], rows: int) -> Changes:
    """Add the `rows` of `staging` to the target, whose partitions they need were not known before."""
    names = sql.SQL(", ").join(map(sql.Identifier, column_names(columns)))
    into, source = (sql.Identifier(table.schema, table.table) for table in (target, staging))
    statement = sql.SQL("INSERT INTO {} ({names}) SELECT {names} FROM {}").format(into, source, names=names)
    taken = session.execute(statement).rowcount
    if taken != rows:
        raise ConnectorError(
            f"{rows} rows were read, but {target} took {taken}.",
            hint="A trigger on the table may drop rows.",
            code="rows_differ",
            field="table",
        )
    return Changes(taken)


def refuse_other_form(
    session: Session, target: Target, columns: Sequence[Column], *, besides: Collection[str] = ()
) -> None:
    """Raise what of the target's columns stands against a COPY, `besides` those that will be mended."""
    cursor = session.connection.cursor()
    refuse_mismatch(compare_catalog(cursor, target.schema, target.table, columns, besides=besides))


def refuse_mismatch(found: list[ConnectorError]) -> None:
    """Raise what stands against a COPY: all of it in one message, as one visit should mend it."""
    if len(found) > 1:
        first = found[0]
        raise ConnectorError(
            " ".join(error.message for error in found), hint=first.hint, code=first.code, field=first.field
        )
    if found:
        raise found[0]
