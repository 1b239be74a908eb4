"""The form of a table that holds a history: what stands against it, and the indexes that keep it in order."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import psycopg2
from psycopg2 import errorcodes, sql

from connectors.base import Reporter, StopSignal
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.modes import WriteMode
from connectors.postgres import errors
from connectors.postgres.client import Session
from connectors.postgres.names import free_name
from connectors.postgres.publish import in_place_rules, indexes, marks, merge_rules
from connectors.postgres.publish.existing import Look
from connectors.postgres.publish.indexes import Found
from connectors.postgres.publish.lock import with_lock
from connectors.postgres.publish.merge_rules import named
from connectors.writing import Target

_TIMES = ("DATE", "DATETIME", "TIMESTAMP")
# A key has one version that holds now, and PostgreSQL sees to that; its past is found by the other index.
_CURRENT, _PAST = "_is_current", "NOT _is_current"

_FOUND = """
SELECT pg_get_expr(i.indpred, i.indrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND i.indisvalid AND i.indpred IS NOT NULL
  AND (i.indisunique OR pg_get_expr(i.indpred, i.indrelid) <> '_is_current')
  AND i.indnkeyatts = cardinality(%(names)s::text[])
  AND (SELECT bool_and(a.attname = ANY(%(names)s)) FROM unnest(i.indkey::int2[]) AS number
       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = number)
"""


def refuse_target(
    session: Session,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    seen: Look,
    *,
    besides: Collection[str] = (),
) -> ConnectorError | None:
    """Why no history can be kept in what stands at the target's name, or in a table made there."""
    refusal = merge_rules.refuse_target(session, target, columns, mode, seen) or _refuse_cursor(columns, mode.cursor)
    if refusal is not None or target.table not in seen.relations:
        return refusal
    if mode.anew:
        refusal = in_place_rules.refuse(session, target, columns, (), besides=besides)
    unique = [index for index in _in_the_way(session, target) if index.is_primary or not index.is_ours]
    if refusal is None and unique:
        first = unique[0]
        return ConnectorError(
            f"{first.name} on {target} allows one row for each {', '.join(first.columns)}; a history has several.",
            hint="Drop it, or keep the history in another table.",
            code="history_unique",
            field="table",
        )
    return refusal


def _refuse_cursor(columns: Sequence[Column], cursor: str) -> ConnectorError | None:
    column = next((column for column in columns if column.name.lower() == cursor.lower()), None)
    if column is None or column.type in _TIMES:
        return None
    return ConnectorError(
        f"Column {column.name} ({column.type}) cannot be the cursor of a history: it does not say when a row changed.",
        hint=f"Choose a column of one of the types {', '.join(_TIMES)}, or none: then the time of the run counts.",
        code="cursor_type",
        field=merge_rules.CURSOR_FIELD,
    )


def prepare(
    session: Session,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    *,
    reporter: Reporter,
    stop: StopSignal,
) -> None:
    """Make what a history lacks before its rows come; a table that is yet to become one gets it with the lock."""
    if not marks.lacking(session, target, marks.HISTORY):
        make(session, target, columns, mode, reporter=reporter, stop=stop)


def make(
    session: Session,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    *,
    reporter: Reporter,
    stop: StopSignal,
) -> None:
    """Give a target that has the columns of a history its indexes, and take from it those that stand in its way.

    Raises ConnectorError if keys of rows that hold now are not unique, or if the role may not make an index.
    """
    going = [index for index in _in_the_way(session, target) if index.is_ours and not index.is_primary]
    if going:
        with_lock(session, target, "ACCESS EXCLUSIVE", session.execute, reporter=reporter, stop=stop)
    for index in going:
        session.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(target.schema, index.name)))
        reporter.log("info", f"Dropped {index.name} on {target}: a history has several rows with one key.")
    keys = named(columns, mode.key)
    there = indexed(session, target, keys)
    for predicate, kind, ending in ((_CURRENT, "UNIQUE INDEX", "current"), (_PAST, "INDEX", "past")):
        if predicate not in there:
            name = free_name(session, target.schema, "_".join((target.table, *keys, ending)))
            _make_index(session, target, keys, name, kind, predicate)
            reporter.log("info", f"Made the {kind.lower()} {name} on {target} ({', '.join(keys)}) WHERE {predicate}.")


def indexed(session: Session, target: Target, keys: Sequence[str]) -> set[str]:
    """Which versions of these keys have the index that they need, as conditions."""
    rows = session.execute(_FOUND, {"schema": target.schema, "table": target.table, "names": list(keys)}).fetchall()
    return {predicate.strip("()") for (predicate,) in rows}


def _make_index(session: Session, target: Target, keys: Sequence[str], name: str, kind: str, predicate: str) -> None:
    table, columns = errors.quoted(target.schema, target.table), ", ".join(errors.quoted(key) for key in keys)
    create = f"CREATE {kind} {errors.quoted(name)} ON {table} ({columns}) WHERE {predicate}"
    session.execute("SAVEPOINT make_index")
    try:
        session.execute(f"{create}; COMMENT ON INDEX {errors.quoted(target.schema, name)} IS '{indexes.MARK}'")
    except psycopg2.Error as error:
        refusal = _refusal(session, target, keys, create, error.pgcode)
        if refusal is None:
            raise
        raise refusal from error
    session.execute("RELEASE SAVEPOINT make_index")


def _refusal(
    session: Session, target: Target, keys: Sequence[str], create: str, state: str | None
) -> ConnectorError | None:
    if state == errorcodes.INSUFFICIENT_PRIVILEGE:
        return ConnectorError(
            f"A history in {target} needs an index on {', '.join(keys)}, which {session.role} may not make.",
            hint=f"Let the owner of the table run: {create};",
            code="missing_grant",
            field="table",
        )
    if state == errorcodes.PROGRAM_LIMIT_EXCEEDED:
        return ConnectorError(
            f"A key in {target} is too long for an index, which takes about 2,700 bytes.",
            hint="Choose a shorter key, such as a hash of it made in a query.",
            code="key_too_long",
            field=merge_rules.KEY_FIELD,
        )
    if state == errorcodes.UNIQUE_VIOLATION:
        session.execute("ROLLBACK TO SAVEPOINT make_index")
        return indexes.not_unique(session, target, keys, "The key", str(target), merge_rules.KEY_FIELD)
    return None


def _in_the_way(session: Session, target: Target) -> list[Found]:
    """Unique indexes that do not tell versions apart."""
    found = indexes.found(session, target)
    return [index for index in found if index.is_unique and not set(index.columns) & set(marks.HISTORY)]
