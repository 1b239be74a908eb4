"""Columns that runs keep in a target beside those of the source: when a row was gone, when a version held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2 import sql

from connectors.base import Reporter, StopSignal
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.modes import Deletes, WriteDisposition, WriteMode
from connectors.postgres import errors
from connectors.postgres.client import Session
from connectors.postgres.names import names_by_source
from connectors.postgres.publish.existing import Existing
from connectors.postgres.publish.lock import with_lock
from connectors.writing import Target

DELETED_AT = "_deleted_at"
VALID_FROM, VALID_TO, IS_CURRENT = "_valid_from", "_valid_to", "_is_current"
HISTORY = (VALID_FROM, VALID_TO, IS_CURRENT)
NAMES = frozenset((DELETED_AT, *HISTORY))

_TIME = "timestamp with time zone"
_TYPES = {DELETED_AT: _TIME, VALID_FROM: _TIME, VALID_TO: _TIME, IS_CURRENT: "boolean"}
# What tells our column from one that a person called the same: by it alone we touch a column that is not asked for.
_COMMENTS = {
    DELETED_AT: "Kept by DataMantri: as of when the row was first gone from the source; NULL while it is there.",
    VALID_FROM: "Kept by DataMantri: from when on the row was like this.",
    VALID_TO: "Kept by DataMantri: until when, without that moment itself; NULL if it still is.",
    IS_CURRENT: "Kept by DataMantri: whether the row is like this now.",
}
# Rows that were there before their history began have been so for as long as anybody knows.
_BEFORE = {VALID_FROM: "'-infinity'", IS_CURRENT: "true"}


@dataclass(frozen=True)
class Seen:
    """Keys that the source has besides those of the staged rows, as those of rows that were diverted.

    `keys` is a subquery with the key's columns under the target's names and types. Not `is_complete` where a row has
    no legible key: then nobody can say which rows are gone.
    """

    keys: sql.Composable | None = None
    is_complete: bool = True


NOTHING_SEEN = Seen()


def of_mode(mode: WriteMode) -> tuple[str, ...]:
    """The columns that runs of this mode keep."""
    if mode.disposition is WriteDisposition.HISTORY:
        return HISTORY
    return (DELETED_AT,) if mode.deletes is Deletes.SOFT else ()


def refuse_names(columns: Sequence[Column], mode: WriteMode) -> ConnectorError | None:
    """Why these columns cannot stand beside those that runs keep."""
    ours = of_mode(mode)
    for source, name in names_by_source(columns).items() if ours else ():
        if name.lower() in ours:
            what = "a history" if mode.disposition is WriteDisposition.HISTORY else "marking rows as deleted"
            return ConnectorError(
                f"Column {source} would be called {name} in PostgreSQL, which {what} needs for itself.",
                hint="Give the column another name, or skip it.",
                code="reserved_column",
                field=source,
            )
    return None


_FOUND = """
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), coalesce(col_description(a.attrelid, a.attnum), '')
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND a.attname = ANY(%s) AND NOT a.attisdropped
"""


def ours(session: Session, target: Target) -> frozenset[str]:
    """Those of our columns that the target has from a run, whatever the mode is by now."""
    rows = session.execute(_FOUND, (target.schema, target.table, list(_TYPES))).fetchall()
    return frozenset(name for name, type_, comment in rows if type_ == _TYPES[name] and comment == _COMMENTS[name])


def lacking(session: Session, target: Target, names: Sequence[str]) -> list[str]:
    """Which of `names` the target has not; raises ConnectorError if it has one of another type."""
    found = {n: type_ for n, type_, _ in session.execute(_FOUND, (target.schema, target.table, list(names))).fetchall()}
    for name, type_ in found.items():
        if type_ != _TYPES[name]:
            raise ConnectorError(
                f"Column {name} of {target} is {type_}, and runs would keep it as {_TYPES[name]}.",
                hint="Rename or drop it, or load into another table.",
                code="target_column_mismatch",
                field="table",
            )
    return [name for name in names if name not in found]


def refuse_staying(session: Session, target: Target, here: Existing, mode: WriteMode) -> ConnectorError | None:
    """Why a table that is there cannot be given the columns that this mode keeps."""
    names = of_mode(mode)
    if not names:
        return None
    try:
        missing = lacking(session, target, names)
    except ConnectorError as refusal:
        return refusal
    if not missing or here.is_ours:
        return None
    table = errors.quoted(target.schema, target.table)
    return errors.missing_grant(
        f"{session.role} may not add {', '.join(missing)} to {target}: only its owner, {here.owner}, may.",
        "; ".join(f"ALTER TABLE {table} ADD COLUMN {errors.quoted(name)} {_TYPES[name]}" for name in missing) + ";",
        field="table",
    )


def ensure(session: Session, target: Target, mode: WriteMode, *, reporter: Reporter, stop: StopSignal) -> None:
    """Give a locked table that stays the columns that this mode keeps; others wait from then on until the commit."""
    names = of_mode(mode)
    missing = lacking(session, target, names) if names else []
    if missing:
        with_lock(session, target, "ACCESS EXCLUSIVE", session.execute, reporter=reporter, stop=stop)
        add(session, target, missing)
        if IS_CURRENT in missing and DELETED_AT in ours(session, target):
            _end_marked(session, target)
        reporter.log("info", f"Added {', '.join(missing)} to {target}; no row of it was written anew for that.")


def _end_marked(session: Session, target: Target) -> None:
    """Rows that were marked as deleted are versions that no longer hold."""
    statement = "UPDATE {table} SET {to} = {mark}, {current} = false WHERE {mark} IS NOT NULL"
    names = {"to": VALID_TO, "current": IS_CURRENT, "mark": DELETED_AT}
    parts = {place: sql.Identifier(name) for place, name in names.items()}
    session.execute(sql.SQL(statement).format(table=sql.Identifier(target.schema, target.table), **parts))


def clear(session: Session, target: Target) -> int:
    """Take the marks from rows that are all there; returns how many had one."""
    if DELETED_AT not in ours(session, target):
        return 0
    statement = sql.SQL("UPDATE {} SET {name} = NULL WHERE {name} IS NOT NULL")
    table = sql.Identifier(target.schema, target.table)
    return session.execute(statement.format(table, name=sql.Identifier(DELETED_AT))).rowcount


def rows_that_hold(session: Session, target: Target, mode: WriteMode | None) -> sql.Composable:
    """The target as something to select from, without what runs of `mode` keep of rows that are gone or were otherwise.

    Marks from before rows were kept count as well: who made them could tell.
    """
    table = sql.Identifier(target.schema, target.table)
    condition = None if mode is None else holding(session, target, mode)
    return table if condition is None else sql.SQL("(SELECT * FROM {} WHERE {}) AS held").format(table, condition)


def holding(session: Session, target: Target, mode: WriteMode) -> sql.Composable | None:
    """What is true of the target's rows that hold; None where all do."""
    is_history = mode.disposition is WriteDisposition.HISTORY
    name, holds = (IS_CURRENT, "{}") if is_history else (DELETED_AT, "{} IS NULL")
    is_there = name not in lacking(session, target, [name]) if of_mode(mode) else name in ours(session, target)
    return sql.SQL(holds).format(sql.Identifier(name)) if is_there else None


def add(session: Session, target: Target, names: Sequence[str]) -> None:
    """Give a table columns that it lacks, in the catalog alone; the caller has locked a table that others see.

    Rows that are there have no deletion, and are current versions without a known beginning.
    """
    table = sql.Identifier(target.schema, target.table)
    statements: list[sql.Composable] = []
    for name in names:
        default = sql.SQL(f" DEFAULT {_BEFORE[name]}" if name in _BEFORE else "")
        parts = {"table": table, "name": sql.Identifier(name), "type": sql.SQL(_TYPES[name]), "default": default}
        statements.append(sql.SQL("ALTER TABLE {table} ADD COLUMN {name} {type}{default}").format(**parts))
        if name in _BEFORE:
            statements.append(sql.SQL("ALTER TABLE {table} ALTER COLUMN {name} DROP DEFAULT").format(**parts))
        comment = sql.SQL("COMMENT ON COLUMN {}.{} IS {}")
        statements.append(comment.format(table, parts["name"], sql.Literal(_COMMENTS[name])))
    if statements:
        session.execute(sql.SQL("; ").join(statements))
