"""Counts and sums over a table, in the same words as the source's, to prove that both sides agree."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import sql

from connectors.base import Column, ColumnDigest, TableDigest, Target
from connectors.postgres.client import Session
from connectors.postgres.names import column_names
from connectors.types import postgres_text

# A SELECT may have 1,664 columns; we need two for each of the table's.
COLUMNS_PER_QUERY = 400

# One snapshot for all queries, and texts that do not hang on the role's settings.
_BEGIN = """
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO, YMD';
SET LOCAL intervalstyle = 'postgres';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex';
SET LOCAL statement_timeout = 0
"""


def digest(session: Session, target: Target, columns: Sequence[Column]) -> TableDigest:
    """Rows, and for each column its NULLs and the sum of the first 8 hex digits of the md5 of its texts."""
    session.execute(_BEGIN)
    try:
        rows = 0
        digests: list[ColumnDigest] = []
        named = list(zip(columns, column_names(columns), strict=True))
        for start in range(0, max(1, len(named)), COLUMNS_PER_QUERY):
            some = named[start : start + COLUMNS_PER_QUERY]
            row = session.one(_query(target, some)) or (0,)
            rows = row[0]
            for i, (column, _) in enumerate(some):
                nulls, checksum = row[1 + 2 * i : 3 + 2 * i]
                digests.append(ColumnDigest(column.name, nulls, None if checksum is None else int(checksum)))
        return TableDigest(rows, tuple(digests))
    finally:
        session.rollback()


def _query(target: Target, columns: Sequence[tuple[Column, str]]) -> sql.Composed:
    results: list[sql.Composable] = [sql.SQL("count(*)")]
    for column, name in columns:
        results.append(sql.SQL("count(*) FILTER (WHERE {} IS NULL)").format(sql.Identifier(name)))
        results.append(_checksum(column, name))
    table = sql.Identifier(target.schema, target.table)
    return sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(results), table)


def _checksum(column: Column, name: str) -> sql.Composable:
    text = postgres_text(column, "{x}")
    if text is None:
        return sql.SQL("NULL")
    # bit(32) to bigint keeps all 32 bits above zero; to integer it would not.
    # Some texts are not NULL for a NULL, as a range's: only values count.
    summed = "coalesce(sum(('x' || substr(md5({}), 1, 8))::bit(32)::bigint) FILTER (WHERE {} IS NOT NULL), 0)"
    return sql.SQL(summed).format(sql.SQL(text).format(x=sql.Identifier(name)), sql.Identifier(name))
