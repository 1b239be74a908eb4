"""Keys and indexes that a pipeline asks for: made after the load, and before any exclusive lock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import errorcodes, sql

from connectors.base import Reporter, StopSignal
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres.client import Session
from connectors.postgres.names import free_name, names_by_source, shorten
from connectors.postgres.publish.lock import with_lock
from connectors.target_options import TargetOptions
from connectors.writing import Target

# The comment of what a run made: it goes with a table that is replaced, and is made anew. Who writes
# another comment takes the object for their own, and it then keeps the table where it is.
MARK = "Made by DataMantri, and made anew when it replaces the table."

EXAMPLES = 3
EXAMPLE_LENGTH = 100


@dataclass(frozen=True)
class Wanted:
    """A key or an index, its columns by their names in PostgreSQL; `field` is where a person asked for it."""

    columns: tuple[str, ...]
    field: str
    is_unique: bool = False
    is_primary: bool = False

    @property
    def ending(self) -> str:
        """What follows the table's name in its own, as PostgreSQL itself would call it."""
        return "pkey" if self.is_primary else "_".join((*self.columns, "key" if self.is_unique else "idx"))

    @property
    def what(self) -> str:
        kind = "primary key" if self.is_primary else "unique index" if self.is_unique else "index"
        return f"{kind} on {', '.join(self.columns)}"


@dataclass(frozen=True)
class Found:
    """An index of a table as it stands: a plain one, that serves what a `Wanted` of its columns would."""

    name: str
    columns: tuple[str, ...]
    is_unique: bool
    is_primary: bool
    is_ours: bool

    def serves(self, wanted: Wanted) -> bool:
        if self.columns != wanted.columns:
            return False
        return self.is_primary if wanted.is_primary else self.is_unique or not wanted.is_unique


def wanted(options: TargetOptions, columns: Sequence[Column]) -> list[Wanted]:
    """What `options` ask for; raises ConnectorError, code option_column_missing, if the source lacks a column."""
    names = {source.lower(): name for source, name in names_by_source(columns).items()}

    def named(sources: Sequence[str], field: str) -> tuple[str, ...]:
        for source in sources:
            if source.lower() not in names:
                raise missing_column(source, columns, field)
        return tuple(names[source.lower()] for source in sources)

    key = named(options.primary_key, "primary_key")
    asked = [Wanted(key, "primary_key", is_unique=True, is_primary=True)] if key else []
    return asked + [
        Wanted(named(index.columns, "indexes"), "indexes", is_unique=index.unique) for index in options.indexes
    ]


def missing_column(source: str, columns: Sequence[Column], field: str) -> ConnectorError:
    where = {"primary_key": "the primary key", "indexes": "an index"}.get(field, "what the table is partitioned by")
    return ConnectorError(
        f"The source has no column {source}, which is in {where}.",
        hint=f"It has: {', '.join(column.name for column in columns)}.",
        code="option_column_missing",
        field=field,
    )


def make_on_new(session: Session, new: Target, asked: Sequence[Wanted], *, stop: StopSignal) -> None:
    """Make all of `asked` on a table that nobody sees yet, under names that say its own and a number.

    Rows that were held for a person have them already.
    """
    there = {index.name for index in found(session, new)}
    for number, one in enumerate(asked):
        stop.check()
        name = temporary_name(new, number)
        if name not in there:
            _make(session, new, one, name)


def make(session: Session, target: Target, one: Wanted) -> None:
    """Make `one` on a table that nobody waits for."""
    _make(session, target, one, free_name(session, target.schema, f"{target.table}_{one.ending}"))


def temporary_name(new: Target, number: int) -> str:
    return shorten(f"{new.table}_{number}")


_FOUND = """
SELECT x.relname, names.columns, i.indisunique, i.indisprimary,
       obj_description(x.oid, 'pg_class') IS NOT DISTINCT FROM %(mark)s
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am am ON am.oid = x.relam
CROSS JOIN LATERAL (
  SELECT array_agg(a.attname::text ORDER BY k.place) AS columns,
         bool_and(i.indcollation[k.place - 1] = a.attcollation AND o.opcdefault) AS is_plain
  FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
  JOIN pg_opclass o ON o.oid = i.indclass[k.place - 1]
  WHERE k.place <= i.indnkeyatts
) AS names
WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND i.indisvalid AND i.indisready AND am.amname = 'btree'
  AND i.indpred IS NULL AND i.indexprs IS NULL AND names.is_plain
ORDER BY 1
"""


def found(session: Session, target: Target) -> list[Found]:
    """The plain, whole, valid indexes of `target`."""
    parameters = {"schema": target.schema, "table": target.table, "mark": MARK}
    rows = session.execute(_FOUND, parameters).fetchall()
    return [Found(name, tuple(columns), *facts) for name, columns, *facts in rows]


def missing(target: Target, asked: Sequence[Wanted], there: Sequence[Found]) -> list[Wanted]:
    """What of `asked` the table lacks; raises ConnectorError if it has another primary key."""
    lacking = [one for one in asked if not any(index.serves(one) for index in there)]
    primary = next((index for index in there if index.is_primary), None)
    if primary is not None and any(one.is_primary for one in lacking):
        raise ConnectorError(
            f"{target} has another primary key, {primary.name} on {', '.join(primary.columns)}.",
            hint="Ask for that one, or let the table's owner drop it first.",
            code="primary_key_differs",
            field="primary_key",
        )
    return lacking


def surplus(asked: Sequence[Wanted], there: Sequence[Found], merge_key: Sequence[str]) -> list[Found]:
    """Indexes that runs made for options which have changed since."""
    return [
        index
        for index in there
        if index.is_ours
        and not any(index.columns == one.columns for one in asked)
        and not (index.is_unique and set(index.columns) == set(merge_key))
    ]


def make_on_existing(
    session: Session,
    target: Target,
    lacking: Sequence[Wanted],
    *,
    is_partitioned: bool,
    is_seen: bool,
    reporter: Reporter,
    stop: StopSignal,
) -> None:
    """Make what a table lacks that others use: writers wait from the first index on, until the commit.

    Readers wait for a primary key only: it comes last, over an index that is there by then. Nobody
    waits for a table that is new, and not `is_seen`.
    """
    for one in sorted(lacking, key=lambda one: one.is_primary):
        began = time.monotonic()
        name = free_name(session, target.schema, f"{target.table}_{one.ending}")
        if one.is_primary and is_partitioned:  # no index of a partitioned table can become its key
            _exclusively(session, target, reporter, stop)
            _make(session, target, one, name)
        else:
            with_lock(session, target, "SHARE", session.execute, reporter=reporter, stop=stop)
            _make(session, target, one, name, as_constraint=False)
        if one.is_primary and not is_partitioned:
            _refuse_nulls(session, target, one)
            _exclusively(session, target, reporter, stop)
            session.execute(
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY USING INDEX {}").format(
                    _relation(target), sql.Identifier(name), sql.Identifier(name)
                )
            )
        who = "readers and writers wait" if one.is_primary else "writers wait, readers do not,"
        wait = f"; {who} until the commit" if is_seen else ""
        took = time.monotonic() - began
        reporter.log("info", f"Made {name} on {target}, the {one.what}, in {took:.1f} s{wait}.")


def _exclusively(session: Session, target: Target, reporter: Reporter, stop: StopSignal) -> None:
    with_lock(session, target, "ACCESS EXCLUSIVE", session.execute, reporter=reporter, stop=stop)


def _make(session: Session, table: Target, one: Wanted, name: str, *, as_constraint: bool = True) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, one.columns))
    if one.is_primary and as_constraint:
        form = "ALTER TABLE {table} ADD CONSTRAINT {name} PRIMARY KEY ({columns})"
    else:
        form = f"CREATE {'UNIQUE ' if one.is_unique else ''}INDEX {{name}} ON {{table}} ({{columns}})"
    statement = sql.SQL(form + "; COMMENT ON INDEX {full} IS {mark}").format(
        table=_relation(table),
        name=sql.Identifier(name),
        columns=columns,
        full=sql.Identifier(table.schema, name),
        mark=sql.Literal(MARK),
    )
    session.execute("SAVEPOINT make_index")
    try:
        session.execute(statement)
    except psycopg2.Error as error:
        state = error.pgcode
        if state not in (
            errorcodes.UNIQUE_VIOLATION,
            errorcodes.NOT_NULL_VIOLATION,
            errorcodes.PROGRAM_LIMIT_EXCEEDED,
            errorcodes.INSUFFICIENT_PRIVILEGE,
        ):
            raise
        session.execute("ROLLBACK TO SAVEPOINT make_index")
        raise _refusal(session, table, one, state) from error
    session.execute("RELEASE SAVEPOINT make_index")


def _refusal(session: Session, table: Target, one: Wanted, state: str) -> ConnectorError:
    if state == errorcodes.UNIQUE_VIOLATION:
        return not_unique(session, table, one.columns, f"The {one.what}", "these rows", one.field)
    if state == errorcodes.NOT_NULL_VIOLATION:
        _refuse_nulls(session, table, one)
    if state == errorcodes.PROGRAM_LIMIT_EXCEEDED:
        return ConnectorError(
            f"A value is too long for the {one.what}: an index takes about 2,700 bytes.",
            hint="Index a shorter column, such as a hash of it made in a query.",
            code="key_too_long",
            field=one.field,
        )
    return ConnectorError(
        f"{session.role} may not make the {one.what} of {table}: only the table's owner may.",
        hint="Let the owner make it, or take it out of the pipeline.",
        code="missing_grant",
        field=one.field,
    )


def _refuse_nulls(session: Session, table: Target, one: Wanted) -> None:
    """Raise ConnectorError, code null_key, if a primary key would hold NULL."""
    nulls = [sql.SQL("count(*) FILTER (WHERE {} IS NULL)").format(sql.Identifier(name)) for name in one.columns]
    any_null = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(sql.Identifier(name)) for name in one.columns)
    row = session.one(
        sql.SQL("SELECT count(*), {} FROM {} WHERE {}").format(sql.SQL(", ").join(nulls), _relation(table), any_null)
    )
    rows, *counts = row or (0,)
    if rows:
        where = ", ".join(name for name, count in zip(one.columns, counts, strict=True) if count)
        raise ConnectorError(
            f"{rows} {'row has' if rows == 1 else 'rows have'} NULL in the primary key: {where}.",
            hint="Choose a key that every row has, or leave these rows out with a query.",
            code="null_key",
            field=one.field,
        )


_TWICE = """
WITH twice ({given}, n) AS (
  SELECT {keys}, count(*) FROM {only} {table} WHERE {not_null} GROUP BY {keys} HAVING count(*) > 1
)
SELECT count(*) OVER (), sum(n) OVER (), n, {texts} FROM twice ORDER BY n DESC, {given} LIMIT {limit}
"""


def not_unique(
    session: Session, table: Target, keys: Sequence[str], what: str, where: str, field: str, *, only: bool = False
) -> ConnectorError:
    """That `keys` do not tell the rows of `table` apart, with the worst examples; `only` leaves out who inherits."""
    names = [sql.Identifier(name) for name in keys]
    given = [sql.Identifier(f"k{i}") for i in range(len(keys))]
    comma = sql.SQL(", ")
    rows: list[tuple[Any, ...]] = session.execute(
        sql.SQL(_TWICE).format(
            given=comma.join(given),
            keys=comma.join(names),
            only=sql.SQL("ONLY" if only else ""),
            table=_relation(table),
            not_null=sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(name) for name in names),
            texts=comma.join(sql.SQL("left({}::text, {})").format(name, sql.Literal(EXAMPLE_LENGTH)) for name in given),
            limit=sql.Literal(EXAMPLES),
        )
    ).fetchall()
    many, total = rows[0][:2]
    examples = "; ".join(
        ", ".join(f"{name} = {value}" for name, value in zip(keys, values, strict=True)) + f" ({n} rows)"
        for _, _, n, *values in rows
    )
    return ConnectorError(
        f"{what} is not unique in {where}: {many} {'key has' if many == 1 else 'keys have'} {total} rows,"
        f" such as {examples}.",
        hint="Choose a key that tells rows apart, or clean the table; a run with replace loads it anew.",
        code="key_not_unique",
        field=field,
    )


def _relation(table: Target) -> sql.Composable:
    return sql.Identifier(table.schema, table.table)
