"""One look at all staged rows: how many there are, and what most checks ask of them.

One statement, which PostgreSQL divides among its processes: each branch of a UNION ALL is one's own, or shared. What
tells rows apart is a sort that two cannot share, so one of them sorts while the others go through the rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2 import sql

from connectors.base import StopSignal
from connectors.checks import Check, CheckKind
from connectors.column import Column
from connectors.errors import ConnectorError, TransientError
from connectors.postgres import errors
from connectors.postgres.auditing.conditions import PLAIN, condition, named
from connectors.postgres.auditing.reading import read_only
from connectors.postgres.client import Session
from connectors.writing import Target

# Kinds that ask something of each staged row by itself.
OF_EACH_ROW = PLAIN | {CheckKind.FRESHNESS}
_CANCELLED = "57014"
# Compiling expressions, in every process, takes longer than it saves.
_NO_JIT = "SET LOCAL jit = off; "


@dataclass(frozen=True)
class Looked:
    """What was found in `rows` staged rows, by the names of checks, in `seconds`; `taken_at` by a monotonic clock.

    Of those of each row it is the number of bad ones, of FRESHNESS the age in seconds of the newest or None, of UNIQUE
    0 where no value comes twice. Where `is_spoilt`, one of the checks is at fault that nothing was found for any.
    """

    rows: int
    found: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    taken_at: float = 0.0
    is_spoilt: bool = False


def take(
    session: Session,
    staged: Target,
    columns: Sequence[Column],
    checks: Sequence[Check],
    rows: int | None = None,
    *,
    stop: StopSignal,
) -> Looked:
    """Looked at the `rows` of `staged`, or count them, for `checks` of OF_EACH_ROW and of UNIQUE among these rows.

    Raises what is no fault of a check: psycopg2.Error, Stopped.
    """
    if checks:
        began = time.monotonic()
        try:
            with read_only(session, limit_s=max(check.time_limit_s for check in checks)):
                counted, *told = _row(session, statement(staged, columns, checks))
        except (psycopg2.Error, ConnectorError) as error:
            refused(session, error, stop)
        else:
            now = time.monotonic()
            found = {check.name: value for check, value in zip(checks, told, strict=True)}
            return Looked(counted if rows is None else rows, found, now - began, now)
    if rows is None:
        (rows,) = _row(session, sql.SQL("SELECT count(*) FROM {}").format(_name(staged)))
    return Looked(rows, is_spoilt=bool(checks))


def refused(
    session: Session, error: psycopg2.Error | ConnectorError, stop: StopSignal, check: Check | None = None
) -> str:
    """What PostgreSQL has against a check; raises what is no fault of the check."""
    if isinstance(error, ConnectorError):
        if error.code != "check_column":
            raise error
        return error.message
    if error.pgcode == _CANCELLED:
        stop.check()
        return f"There was no answer within {check.time_limit_s if check else 0} seconds."
    if isinstance(errors.statement_error(error, session.connection, session.options), TransientError):
        raise error
    return f"PostgreSQL says: {(error.diag.message_primary or 'an error without words').rstrip('.')}."


def statement(staged: Target, columns: Sequence[Column], checks: Sequence[Check]) -> sql.Composable:
    """First the number of rows, and then a value for each check.

    With a check of UNIQUE, the others' branch gives bad rows alone: passing every row on to be counted takes as long as
    looking at it (measured). What is asked of all rows goes with the first sort.
    """
    bad = [condition(check, columns) if check.kind in PLAIN else None for check in checks]
    sorts = [number for number, check in enumerate(checks) if check.kind is CheckKind.UNIQUE]

    def of_all(number: int, sort: int) -> sql.Composable:
        """What the branch that sorts for check `sort` says of another; -1 where there is none."""
        check, where = checks[number], bad[number]
        if number == sort:
            return doubles(check, columns)
        if check.kind is CheckKind.FRESHNESS and sort in (-1, *sorts[:1]):
            return age(named(check, columns)[0][0], "s")
        if where is not None and sort == -1:
            return sql.SQL("count(*) FILTER (WHERE {})").format(where)
        return _nothing(check)

    def branch(rows: str, values: Iterable[sql.Composable]) -> sql.Composed:
        told = sql.SQL(", ").join([sql.SQL(rows), *values])
        return sql.SQL("SELECT {} FROM {} AS s").format(told, _name(staged))

    every = range(len(checks))
    if not sorts:
        return sql.SQL(_NO_JIT) + branch("count(*)", (of_all(number, -1) for number in every))
    branches = [
        branch("count(*)" if sort == sorts[0] else "NULL::bigint", (of_all(number, sort) for number in every))
        for sort in sorts
    ]
    conditions = [sql.SQL("({})").format(where) for where in bad if where is not None]
    if conditions:
        values = (_nothing(check) if where is None else where for check, where in zip(checks, bad, strict=True))
        only = sql.SQL(" OR ").join(conditions)
        branches.append(sql.SQL("{} WHERE {}").format(branch("NULL::bigint", values), only))
    names = [sql.Identifier(f"v{number}") for number in every]
    together = [
        sql.SQL("max({})" if where is None else "count(*) FILTER (WHERE {})").format(name)
        for name, where in zip(names, bad, strict=True)
    ]
    return sql.SQL(_NO_JIT + "SELECT {} FROM ({}) AS looked ({})").format(
        sql.SQL(", ").join([sql.SQL("max(counted)"), *together]),
        sql.SQL(" UNION ALL ").join(branches),
        sql.SQL(", ").join([sql.SQL("counted"), *names]),
    )


def _nothing(check: Check) -> sql.Composable:
    """A branch's NULL where it has nothing to say of a check."""
    types = {CheckKind.UNIQUE: "bigint", CheckKind.FRESHNESS: "float8"}
    return sql.SQL("NULL::" + types.get(check.kind, "boolean"))


def age(name: str, alias: str) -> sql.Composable:
    """How old the newest value of a date or time is, in seconds."""
    return sql.SQL("extract(epoch FROM clock_timestamp() - max({})::timestamptz)::float8").format(
        sql.Identifier(alias, name)
    )


def _name(table: Target) -> sql.Composable:
    return sql.Identifier(table.schema, table.table)


def doubles(check: Check, columns: Sequence[Column]) -> sql.Composable:
    """How many more values than different ones the rows of s have: 0 proves that no two rows share theirs.

    Sorting takes a quarter of what making groups takes (measured); texts are sorted byte by byte, which is faster
    and finds the same ones equal. Of several columns hashes are sorted: those of equal values are equal.
    """
    places = [(sql.Identifier("s", name), type_) for name, type_ in named(check, columns)]
    if len(places) == 1:
        ((value, type_),) = places
        one = sql.SQL('{} COLLATE "C"').format(value) if type_ in ("text", "character varying") else value
        return sql.SQL("count({0}) - count(DISTINCT {0})").format(one)
    # As in an index, a row with a NULL among its values is like no other.
    given = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(value) for value, _ in places)
    row = sql.SQL(", ").join(value for value, _ in places)
    return sql.SQL(
        "count(*) FILTER (WHERE {given}) - count(DISTINCT hash_record_extended(ROW({row}), 0)) FILTER (WHERE {given})"
    ).format(given=given, row=row)


def _row(session: Session, query: sql.Composable) -> tuple[Any, ...]:
    row = session.one(query)
    if row is None:
        raise RuntimeError("an aggregate always gives a row")
    return row
