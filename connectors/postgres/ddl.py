"""Tables made from columns, and the catalog compared with them before every COPY."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg2 import sql

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres.names import column_names
from connectors.types import postgres_type

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor


@dataclass(frozen=True)
class CatalogColumn:
    """A column by its name in PostgreSQL, and its type as `format_type` prints it."""

    name: str
    type: str


def create_table(target: sql.Composable, columns: Sequence[Column], *, unlogged: bool = False) -> sql.Composed:
    """CREATE TABLE for `columns`; NOT NULL is not carried over, so that a relaxed source still loads."""
    lines = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type))
        for column in expected_catalog(columns)
    )
    return sql.SQL("CREATE {}TABLE {} ({})").format(sql.SQL("UNLOGGED " if unlogged else ""), target, lines)


@contextmanager
def without_zones(cursor: Cursor, new: sql.Composable, columns: Sequence[Column]) -> Iterator[None]:
    """Within, a table that this transaction made has timestamps without zone in place of those with one.

    PostgreSQL works out each timestamptz that it receives in the session's zone, to see whether it could be
    printed: 20 ns a value, 6 to 8 % of a COPY (measured). The other type is the same eight bytes, and one becomes
    the other in the catalog alone, without a look at the rows, while the session's zone is UTC.
    """
    zoned = [column.name for column in expected_catalog(columns) if column.type == "timestamp with time zone"]

    def make(type_: str) -> None:
        changes = sql.SQL(", ").join(
            sql.SQL("ALTER {} TYPE {}").format(sql.Identifier(name), sql.SQL(type_)) for name in zoned
        )
        cursor.execute(
            sql.SQL("SET LOCAL timezone = 'UTC'; ALTER TABLE {} {}; SET LOCAL timezone TO DEFAULT").format(new, changes)
        )

    if zoned:
        make("timestamp")
    yield
    if zoned:
        make("timestamptz")


def expected_catalog(columns: Sequence[Column]) -> tuple[CatalogColumn, ...]:
    """What the target's catalog must say for `columns`, in their order."""
    names = column_names(columns)
    return tuple(CatalogColumn(name, postgres_type(column)) for name, column in zip(names, columns, strict=True))


def refuse_unknown_types(cursor: Cursor, columns: Sequence[Column]) -> Iterator[ConnectorError]:
    """Types that rules chose and the database does not have, as those of an extension."""
    cursor.execute(
        "SELECT asked FROM unnest(%s::text[]) AS asked WHERE to_regtype(asked) IS NULL",
        ([column.target_type for column in columns if column.target_type],),
    )
    unknown = {name for (name,) in cursor.fetchall()}
    for column in columns:
        if column.target_type in unknown:
            yield ConnectorError(
                f"Column {column.name} is to be stored as {column.target_type}, which this database does not know.",
                hint="Create the extension postgis in a schema of the role's search_path, or choose another type.",
                code="type_missing",
                field="column_rules",
            )


_CATALOG = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated::text,
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""


def compare_catalog(
    cursor: Cursor, schema: str, table: str, columns: Sequence[Column], *, besides: Collection[str] = ()
) -> list[ConnectorError]:
    """What stands against a COPY of `columns` into the table as it is now; `besides` are names that will be mended.

    Types must be exactly those expected, typmod included: binary COPY would take some wrong ones silently.
    Columns of the target that the source lacks may stay if they can be NULL or have a default.
    """
    cursor.execute(_CATALOG, (schema, table))
    found = {name: (type_, generated, must_have) for name, type_, generated, must_have in cursor.fetchall()}
    errors = []
    for column, expected in zip(columns, expected_catalog(columns), strict=True):
        here = found.pop(expected.name, None)
        if expected.name in besides:
            continue
        if here is None:
            errors.append(
                ConnectorError(
                    f"{schema}.{table} has no column {expected.name}, the source has ({column.type}).",
                    hint=f"Add it as {expected.type}, or load into another table.",
                    code="target_column_missing",
                    field=column.name,
                )
            )
        elif here[1]:
            errors.append(
                ConnectorError(
                    f"Column {expected.name} of {schema}.{table} is generated and cannot be written.",
                    hint="Make it a plain column, or leave it out of the source with a query.",
                    code="target_column_mismatch",
                    field=column.name,
                )
            )
        elif here[0] != expected.type:
            errors.append(
                ConnectorError(
                    f"Column {expected.name} of {schema}.{table} is {here[0]}, the source needs {expected.type}.",
                    hint="Change its type, or load into another table.",
                    code="target_column_mismatch",
                    field=column.name,
                )
            )
    for name, (_, _, must_have) in found.items():
        if must_have:
            errors.append(
                ConnectorError(
                    f"Column {name} of {schema}.{table} must not be NULL and has no default, and the source lacks it.",
                    hint="Give it a default, or drop NOT NULL.",
                    code="target_extra_column",
                    field=name,
                )
            )
    return errors
