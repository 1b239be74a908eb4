"""What makes a row bad, as a condition in SQL: true for bad rows; NULL, as false, for those that pass."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import sql

from connectors.checks import Check, CheckKind
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres.names import column_names
from connectors.types import base_type, postgres_type

# Kinds whose condition looks at the row alone.
PLAIN = frozenset({CheckKind.NOT_NULL, CheckKind.ACCEPTED, CheckKind.RANGE, CheckKind.REGEX})
_TEXTS = ("text", "character varying")


def condition(
    check: Check, columns: Sequence[Column], *, alias: str = "s", other: sql.Composable | None = None
) -> sql.Composable:
    """True for the bad rows of a table that was made for `columns` and is called `alias`.

    For kinds of ROW_LEVEL but SQL. NULL passes all but `not_null`. Values are read by the column's own type, times
    in the session's zone. `other` stands for the table that a relation is about, if it is not that as it is now.
    Raises ConnectorError, code check_column, where a column is not there.
    """
    found = [_Place(name, kind, alias) for name, kind in named(check, columns)]
    if check.kind is CheckKind.NOT_NULL:
        return sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(place.value) for place in found)
    if check.kind is CheckKind.RELATION:
        return _relation(check, found, other or sql.Identifier(*table_of(check)))
    (place,) = found
    if check.kind is CheckKind.ACCEPTED:
        values = sql.SQL(", ").join(map(sql.Literal, check.values))
        return sql.SQL("{} <> ALL (ARRAY[{}]::text[]::{}[])").format(place.value, values, sql.SQL(place.type))
    if check.kind is CheckKind.RANGE:
        bounds = [(operator, text) for operator, text in (("<", check.minimum), (">", check.maximum)) if text != ""]
        return sql.SQL(" OR ").join(
            sql.SQL("{} {} {}::{}").format(place.value, sql.SQL(operator), sql.Literal(text), sql.SQL(place.type))
            for operator, text in bounds
        )
    if check.kind is CheckKind.REGEX:
        text = place.value if place.type.startswith(_TEXTS) else sql.SQL("{}::text").format(place.value)
        return sql.SQL("{} !~ {}").format(text, sql.Literal(check.pattern))
    raise ValueError(f"{check.kind} is no condition of a row")


def named(check: Check, columns: Sequence[Column]) -> list[tuple[str, str]]:
    """The check's columns by their names in PostgreSQL, with their types; raises ConnectorError, code check_column."""
    there = {
        # Without lengths: a value that is cut to its column's length would be another one.
        column.name.lower(): (name, base_type(postgres_type(column)))
        for column, name in zip(columns, column_names(columns), strict=True)
    }
    missing = [name for name in check.columns if name.lower() not in there]
    if missing:
        raise ConnectorError(
            f"There is no column {', '.join(missing)} that could be checked.",
            hint="Correct the check's columns: they are called as in the source.",
            code="check_column",
            field="checks",
        )
    return [there[name.lower()] for name in check.columns]


def table_of(check: Check) -> tuple[str, str]:
    """Schema and name of the other table."""
    schema, _, name = check.table.rpartition(".")
    return schema or "public", name


class _Place:
    """A column of the rows that are looked at."""

    def __init__(self, name: str, type_: str, alias: str) -> None:
        self.value = sql.Identifier(alias, name)
        self.type = type_


def _relation(check: Check, found: Sequence[_Place], other: sql.Composable) -> sql.Composable:
    """A row with a NULL among its columns refers to nothing, as with a foreign key."""
    given = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(place.value) for place in found)
    same = sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier("other", name), place.value)
        for name, place in zip(check.table_columns, found, strict=True)
    )
    return sql.SQL("{} AND NOT EXISTS (SELECT FROM {} AS other WHERE {})").format(given, other, same)
