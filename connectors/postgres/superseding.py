"""Which rows of a quarantine a publish makes old: all of them, those of a range, or those whose key comes anew."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import sql

from connectors.base import Column, Fence, Target, WriteDisposition, WriteMode
from connectors.postgres.client import Session
from connectors.postgres.control import target_key
from connectors.postgres.control_schema import SCHEMA
from connectors.postgres.names import column_names
from connectors.types import postgres_type

_TABLE = sql.Identifier(SCHEMA, "quarantine")


def supersede(
    session: Session,
    fence: Fence,
    columns: Sequence[Column],
    mode: WriteMode,
    staging: Target | None,
) -> None:
    """Close open rows of earlier runs: what this run publishes is no older.

    Comes before the staging table goes, and where a publish that is held takes it back.
    """
    run = sql.Literal(str(fence.owner.run))
    if mode.disposition is WriteDisposition.REPLACE or (
        mode.sees_all and mode.disposition is not WriteDisposition.APPEND
    ):
        which: sql.Composable = sql.SQL("true")
    elif mode.span is not None:
        # An append's range that is loaded again: its rows come anew, all of them.
        which = sql.SQL("q.cursor::{type} >= {low} AND q.cursor::{type} < {high}").format(
            type=sql.SQL(postgres_type(_named(columns, mode.span.column))),
            low=sql.Literal(mode.span.low),
            high=sql.Literal(mode.span.high),
        )
    elif mode.disposition is WriteDisposition.APPEND or staging is None:
        return
    else:
        which = _comes_anew(run, columns, mode, staging)
    session.execute(
        sql.SQL(
            "UPDATE {table} AS q SET state = 'superseded', decided_run = {run}, decided_at = clock_timestamp()"
            " WHERE q.target = {target} AND q.state = 'open' AND q.run <> {run} AND ({which})"
        ).format(table=_TABLE, run=run, target=sql.Literal(target_key(fence.target)), which=which)
    )


def _comes_anew(run: sql.Composable, columns: Sequence[Column], mode: WriteMode, staging: Target) -> sql.Composed:
    """Whether a row's key is among those that this run brings, in a version that is not older."""
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
    return sql.SQL(
        "q.key IS NOT NULL AND (EXISTS (SELECT FROM {staging} AS s WHERE {same} AND {staged})"
        " OR EXISTS (SELECT FROM {table} AS n WHERE n.run = {run} AND n.state = 'staged'"
        " AND n.key = q.key AND {aside}))"
    ).format(
        staging=sql.Identifier(staging.schema, staging.table),
        same=same,
        staged=staged,
        table=_TABLE,
        run=run,
        aside=aside,
    )


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
