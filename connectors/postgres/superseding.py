"""Which rows of a quarantine a publish makes old: all of them, those of a range, or those whose key comes anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg2
from psycopg2 import sql

from connectors.column import Column
from connectors.modes import WriteDisposition, WriteMode
from connectors.postgres.client import Session
from connectors.postgres.control import target_key
from connectors.postgres.control_schema import SCHEMA
from connectors.postgres.names import column_names
from connectors.types import postgres_type
from connectors.writing import Fence, Target

_TABLE = sql.Identifier(SCHEMA, "quarantine")


def supersede(
    session: Session,
    fence: Fence,
    columns: Sequence[Column],
    mode: WriteMode,
    staging: Target | None,
) -> bool:
    """Close open rows of earlier runs: what this run publishes is no older.

    Comes before the staging table goes, and where a publish that is held takes it back. False, and nothing is closed,
    where keys or cursors of then cannot be read as the types of now.
    """
    run = sql.Literal(str(fence.owner.run))
    close = sql.SQL(
        "UPDATE {table} AS q SET state = 'superseded', decided_run = {run}, decided_at = clock_timestamp()"
        " WHERE q.target = {target} AND q.state = 'open' AND q.run <> {run} AND {which}"
    )
    session.execute("SAVEPOINT superseding")
    try:
        for which in _which(run, columns, mode, staging):
            target = sql.Literal(target_key(fence.target))
            session.execute(close.format(table=_TABLE, run=run, target=target, which=which))
    except psycopg2.DataError:
        session.execute("ROLLBACK TO SAVEPOINT superseding")
        return False
    session.execute("RELEASE SAVEPOINT superseding")
    return True


def _which(
    run: sql.Composable, columns: Sequence[Column], mode: WriteMode, staging: Target | None
) -> Iterator[sql.Composable]:
    """Which rows are old by now; several conditions, for with OR between them each row would be looked up alone."""
    if mode.disposition is WriteDisposition.REPLACE or (
        mode.sees_all and mode.disposition is not WriteDisposition.APPEND
    ):
        yield sql.SQL("true")
    elif mode.span is not None:
        # An append's range that is loaded again: its rows come anew, all of them.
        yield sql.SQL("q.cursor::{type} >= {low} AND q.cursor::{type} < {high}").format(
            type=sql.SQL(postgres_type(_named(columns, mode.span.column))),
            low=sql.Literal(mode.span.low),
            high=sql.Literal(mode.span.high),
        )
    elif mode.disposition is not WriteDisposition.APPEND and staging is not None:
        yield from _comes_anew(run, columns, mode, staging)


def _comes_anew(
    run: sql.Composable, columns: Sequence[Column], mode: WriteMode, staging: Target
) -> Iterator[sql.Composable]:
    """A row's key is among those that this run brings or puts aside, in a version that is not older."""
    names = dict(zip((column.name for column in columns), column_names(columns), strict=True))
    same = sql.SQL(" AND ").join(
        sql.SQL("s.{} = {}").format(sql.Identifier(names[column.name]), of_key(column))
        for column in (_named(columns, name) for name in mode.key)
    )
    staged: sql.Composable = sql.SQL("true")
    aside: sql.Composable = sql.SQL("true")
    if mode.cursor:
        cursor = _named(columns, mode.cursor)
        type_ = sql.SQL(postgres_type(cursor))
        staged = sql.SQL("(q.cursor IS NULL OR s.{} >= q.cursor::{})").format(sql.Identifier(names[cursor.name]), type_)
        aside = sql.SQL("(q.cursor IS NULL OR n.cursor::{0} >= q.cursor::{0})").format(type_)
    yield sql.SQL("q.key IS NOT NULL AND EXISTS (SELECT FROM {} AS s WHERE {} AND {})").format(
        sql.Identifier(staging.schema, staging.table), same, staged
    )
    yield sql.SQL(
        "q.key IS NOT NULL AND EXISTS (SELECT FROM {} AS n WHERE n.run = {} AND n.state = 'staged'"
        " AND n.key = q.key AND {})"
    ).format(_TABLE, run, aside)


def keys(columns: Sequence[Column], key: Sequence[str], where: sql.Composable) -> sql.Composed:
    """The legible keys of quarantined rows, as the target would have them and under its names."""
    names = dict(zip((column.name for column in columns), column_names(columns), strict=True))
    chosen = [_named(columns, name) for name in key]
    values = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(of_key(column), sql.Identifier(names[column.name])) for column in chosen
    )
    return sql.SQL("SELECT {} FROM {} AS q WHERE q.key IS NOT NULL AND {}").format(values, _TABLE, where)


def of_key(column: Column) -> sql.Composed:
    """A column of a quarantined row's key, as the target has it."""
    return sql.SQL("(q.key->>{})::{}").format(sql.Literal(column.name), sql.SQL(postgres_type(column)))


def _named(columns: Sequence[Column], name: str) -> Column:
    return next(column for column in columns if column.name.lower() == name.lower())
