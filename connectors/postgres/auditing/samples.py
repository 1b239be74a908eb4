"""The first bad rows as text, the checked columns first."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import sql

from connectors.checks import LONGEST_TEXT, SHOWN_ROWS, BadRows, Check
from connectors.column import Column
from connectors.postgres.auditing.conditions import named
from connectors.postgres.client import Session
from connectors.postgres.names import column_names
from connectors.writing import Target

MAX_COLUMNS = 30


def where(session: Session, staged: Target, columns: Sequence[Column], check: Check, bad: sql.Composable) -> BadRows:
    """Of the staged rows, called s, those that are `bad`."""
    names = _shown(check, columns)
    query = sql.SQL("SELECT {} FROM {} AS s WHERE {} LIMIT {}").format(
        _texts(names), sql.Identifier(staged.schema, staged.table), bad, sql.Literal(SHOWN_ROWS)
    )
    return _read(session, names, query)


def sharing(
    session: Session,
    coming: sql.Composable,
    columns: Sequence[Column],
    check: Check,
    by: Sequence[str],
    shared: sql.Composable,
) -> BadRows:
    """Of the rows that come, those whose values of `by` are among `shared`; rows that share them side by side."""
    names = _shown(check, columns)
    order = sql.SQL(", ").join(sql.Identifier("s", name) for name in by)
    same = sql.SQL(" AND ").join(sql.SQL("s.{0} = g.{0}").format(sql.Identifier(name)) for name in by)
    query = sql.SQL("SELECT {} FROM ({}) AS s JOIN ({} LIMIT {limit}) AS g ON {} ORDER BY {} LIMIT {limit}").format(
        _texts(names), coming, shared, same, order, limit=sql.Literal(SHOWN_ROWS)
    )
    return _read(session, names, query)


def _shown(check: Check, columns: Sequence[Column]) -> list[str]:
    first = [name for name, _ in named(check, columns)]
    rest = [name for name in column_names(columns) if name not in first]
    return (first + rest)[:MAX_COLUMNS]


def _texts(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("left({}::text, {})").format(sql.Identifier("s", name), sql.Literal(LONGEST_TEXT)) for name in names
    )


def _read(session: Session, names: Sequence[str], query: sql.Composable) -> BadRows:
    return BadRows(tuple(names), tuple(session.execute(query).fetchall()))
