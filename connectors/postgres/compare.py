"""The target as one side of a comparison: counts, checksums and hashes in the same words as the source's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from psycopg2 import sql

from connectors.base import StopSignal
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.masks import is_masked
from connectors.modes import WriteMode
from connectors.postgres import errors, published, quarantined, superseding
from connectors.postgres.client import Session
from connectors.postgres.control import target_key
from connectors.postgres.control_schema import SCHEMA
from connectors.postgres.names import column_names
from connectors.postgres.publish import marks
from connectors.reading import TableInfo
from connectors.sides import (
    HASH_BITS,
    HASH_DIGITS,
    HIDDEN,
    LONGEST_TEXT,
    SUM_MASK,
    VALUE_DIGITS,
    Bucket,
    ColumnDigest,
    Keyed,
    Published,
    PutAside,
    Row,
    TableDigest,
)
from connectors.types import postgres_text
from connectors.writing import Target

# A SELECT may have 1,664 columns; we need two for each of the table's.
COLUMNS_PER_QUERY = 400

# One snapshot for all queries, and texts that do not hang on the role's settings. The transaction is
# idle while the other side answers.
_BEGIN = """
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO, YMD';
SET LOCAL intervalstyle = 'postgres';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex';
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0
"""
_NO_LIMIT = "SET LOCAL transaction_timeout = 0"  # PostgreSQL 17 and later
_FETCHED = 10_000
_PRESENT = """
SELECT has_table_privilege(c.oid, 'SELECT'),
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s
"""


class PostgresSide:
    """A target in one read-only transaction."""

    def __init__(self, session: Session, target: Target, stop: StopSignal, mode: WriteMode | None = None) -> None:
        self._session = session
        self._target = target
        self._rows = marks.rows_that_hold(session, target, mode)
        self._stop = stop

    def published(self) -> Published | None:
        return published.read_published(self._session, self._target)

    def put_aside(self, key: Sequence[Column], run: UUID | None) -> PutAside:
        if not quarantined.exists(self._session):
            return PutAside()
        where = sql.SQL("target = {} AND ({})").format(
            sql.Literal(target_key(self._target)),
            sql.SQL("state IN ('open', 'discarded')")
            if run is None
            else sql.SQL("state = 'open' OR (state = 'discarded' AND run = {})").format(sql.Literal(str(run))),
        )
        table = sql.Identifier(SCHEMA, "quarantine")
        (rows,) = self._session.one(sql.SQL("SELECT count(*) FROM {} WHERE {}").format(table, where)) or (0,)
        if not rows or not key:
            return PutAside(rows)
        keys = superseding.keys(key, [column.name for column in key], where)
        hashed = _hash(_values(_named(key), Keyed(tuple(key), tuple(key))))
        found = self._all(sql.SQL("SELECT {} FROM ({}) AS r").format(hashed, keys))
        return PutAside(rows, frozenset(one for (one,) in found))

    def present(self, columns: Sequence[Column]) -> tuple[Column, ...]:
        """Those of the columns that the target has."""
        found = self._session.one(_PRESENT, (self._target.schema, self._target.table))
        if found is None:
            raise ConnectorError(f"There is no table {self._target}.", code="table_missing", field="table")
        may_read, here = found
        if not may_read:
            table, role = errors.quoted(self._target.schema, self._target.table), self._session.role
            grant = f"GRANT SELECT ON TABLE {table} TO {errors.quoted(role)};"
            raise errors.missing_grant(f"{role} may not read {self._target}.", grant)
        return tuple(c for c, name in zip(columns, column_names(columns), strict=True) if name in here)

    def digest(self, columns: Sequence[Column]) -> TableDigest:
        """Rows, and for each column its NULLs and the sum of the first 8 hex digits of the md5 of its texts."""
        rows = 0
        digests: list[ColumnDigest] = []
        named = list(zip(columns, column_names(columns), strict=True))
        for start in range(0, max(1, len(named)), COLUMNS_PER_QUERY):
            some = named[start : start + COLUMNS_PER_QUERY]
            self._stop.check()
            row = self._session.one(_digest(self._rows, some)) or (0,)
            rows = row[0]
            for i, (column, _) in enumerate(some):
                nulls, checksum = row[1 + 2 * i : 3 + 2 * i]
                digests.append(ColumnDigest(column.name, nulls, None if checksum is None else int(checksum)))
        return TableDigest(rows, tuple(digests))

    def buckets(self, keyed: Keyed) -> Mapping[int, Bucket]:
        found = self._all(
            sql.SQL("SELECT k >> {shift}, count(*), sum(h & {mask})::bigint FROM ({rows}) AS r GROUP BY 1").format(
                shift=sql.Literal(keyed.shift), mask=sql.Literal(SUM_MASK), rows=self._hashed(keyed)
            )
        )
        return {number: Bucket(rows, total) for number, rows, total in found}

    def hashes(self, keyed: Keyed, chosen: Sequence[int]) -> Iterator[tuple[int, int]]:
        # Of the very type that is compared, or PostgreSQL walks the list for every row instead of hashing it.
        only = sql.SQL("WHERE k >> {} = ANY({}::bigint[])").format(sql.Literal(keyed.shift), sql.Literal(list(chosen)))
        query = sql.SQL("SELECT k, h FROM ({}) AS r {}").format(self._hashed(keyed), only if chosen else sql.SQL(""))
        yield from ((key, row) for key, row in self._all(query))

    def rows(self, keyed: Keyed, keys: Sequence[int]) -> Sequence[Row]:
        named = _named(keyed.columns)
        query = sql.SQL(
            "SELECT * FROM (SELECT {k}, {values} AS h, {texts} FROM {table}) AS r WHERE k = ANY({keys}::bigint[])"
        )
        found = self._all(
            query.format(
                k=sql.SQL("{} AS k").format(_hash(_values(_named(keyed.key), keyed))),
                values=_values(named, keyed),
                texts=sql.SQL(", ").join(_shown(column, name) for column, name in named),
                table=self._rows,
                keys=sql.Literal(list(keys)),
            )
        )
        return [Row(key, tuple(values.split(",")), tuple(texts)) for key, values, *texts in found]

    def _hashed(self, keyed: Keyed) -> sql.Composable:
        """Hashes of key and row, k and h, of every row."""
        return sql.SQL("SELECT {} AS k, {} AS h FROM {}").format(
            _hash(_values(_named(keyed.key), keyed)), _hash(_values(_named(keyed.columns), keyed)), self._rows
        )

    def _all(self, query: sql.Composable) -> Iterator[tuple[Any, ...]]:
        self._stop.check()
        cursor = self._session.execute(query)
        while rows := cursor.fetchmany(_FETCHED):
            yield from rows


@contextmanager
def reading(
    session: Session, target: Target, stop: StopSignal, mode: WriteMode | None = None
) -> Iterator[PostgresSide]:
    """A transaction to read `target` in, as it is now; `stop` breaks its statements."""
    forget = stop.on_stop(session.cancel)
    try:
        with session.explained(target):
            session.execute(_BEGIN + (f";{_NO_LIMIT}" if session.server_version >= 170000 else ""))
            yield PostgresSide(session, target, stop, mode)
    except ConnectorError as error:
        if error.code == "query_cancelled":
            stop.check()
        raise
    finally:
        forget()
        session.rollback()


_SIZE = """
SELECT coalesce(sum(greatest(p.reltuples, 0)) FILTER (WHERE p.relkind <> 'p'), 0)::bigint,
       coalesce(sum(pg_table_size(p.oid)), 0)::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) AS tree (oid)
JOIN pg_class p ON p.oid = tree.oid
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p') HAVING count(*) > 0
"""


def size(session: Session, target: Target) -> TableInfo | None:
    """Rows by the last ANALYZE, and bytes; None if there is no such table."""
    found = session.one(_SIZE, (target.schema, target.table))
    return None if found is None else TableInfo(target.schema, target.table, rows=found[0], bytes=found[1])


def _named(columns: Sequence[Column]) -> list[tuple[Column, str]]:
    return list(zip(columns, column_names(columns), strict=True))


def _digest(rows: sql.Composable, columns: Sequence[tuple[Column, str]]) -> sql.Composed:
    results: list[sql.Composable] = [sql.SQL("count(*)")]
    for column, name in columns:
        results.append(sql.SQL("count(*) FILTER (WHERE {} IS NULL)").format(sql.Identifier(name)))
        results.append(_checksum(column, name))
    return sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(results), rows)


def _checksum(column: Column, name: str) -> sql.Composable:
    text = postgres_text(column, "{x}")
    if text is None:
        return sql.SQL("NULL")
    # bit(32) to bigint keeps all 32 bits above zero; to integer it would not.
    # Some texts are not NULL for a NULL, as a range's: only values count.
    summed = "coalesce(sum(('x' || substr(md5({}), 1, 8))::bit(32)::bigint) FILTER (WHERE {} IS NOT NULL), 0)"
    return sql.SQL(summed).format(sql.SQL(text).format(x=sql.Identifier(name)), sql.Identifier(name))


def _hash(values: sql.Composable) -> sql.Composable:
    return sql.SQL("('x' || substr(md5({}), 1, {}))::bit({})::bigint").format(
        values, sql.Literal(HASH_DIGITS), sql.Literal(HASH_BITS)
    )


def _values(columns: Sequence[tuple[Column, str]], keyed: Keyed) -> sql.Composable:
    # An array and not concat(), which takes 100 arguments only.
    return sql.SQL("array_to_string(ARRAY[{}], ',')").format(
        sql.SQL(", ").join(_value(column, name, keyed) for column, name in columns)
    )


def _value(column: Column, name: str, keyed: Keyed) -> sql.Composable:
    text = None if column.name in keyed.counted else postgres_text(column, "{x}")
    here: sql.Composable = sql.SQL("'+'")
    if text is not None:
        here = sql.SQL("substr(md5({}), 1, {})").format(
            sql.SQL(text).format(x=sql.Identifier(name)), sql.Literal(VALUE_DIGITS)
        )
    return sql.SQL("CASE WHEN {} IS NULL THEN '-' ELSE {} END").format(sql.Identifier(name), here)


def _shown(column: Column, name: str) -> sql.Composable:
    if is_masked(column):
        return sql.SQL("CASE WHEN {} IS NOT NULL THEN {} END").format(sql.Identifier(name), sql.Literal(HIDDEN))
    return sql.SQL("left({}::text, {})").format(sql.Identifier(name), sql.Literal(LONGEST_TEXT))
