"""Staged rows as the text that `connectors.columns.raw` writes and reads, made in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg2 import sql

from connectors.column import Column
from connectors.types import base_type, element_of, postgres_type

# A row constructor, and a function, take at most some hundred arguments.
_AT_ONCE = 40
_INTERVAL = (
    "((extract(year FROM {0}) * 12 + extract(month FROM {0}))::bigint || ' months ' || extract(day FROM {0})::bigint ||"
    " ' days ' || (((extract(hour FROM {0}) * 60 + extract(minute FROM {0})) * 60000000"
    " + extract(microseconds FROM {0}))::bigint * 1000) || ' ns')"
)


def raw(columns: Sequence[Column], names: Mapping[str, str], alias: str = "s") -> sql.Composable:
    """The JSON text of a whole row."""
    pieces = []
    for start in range(0, len(columns), _AT_ONCE):
        some = columns[start : start + _AT_ONCE]
        values = sql.SQL(", ").join(
            sql.SQL("{}, {}").format(sql.Literal(column.name), _json(column, _place(column, names, alias)))
            for column in some
        )
        pieces.append(sql.SQL("jsonb_build_object({})").format(values))
    return sql.SQL("({})::text").format(sql.SQL(" || ").join(pieces))


def key(columns: Sequence[Column], names: Mapping[str, str], alias: str = "s") -> sql.Composable:
    """A row's key as jsonb, NULL where a column of it is: the texts that the target's types read."""
    if not columns:
        return sql.SQL("NULL::jsonb")
    values = sql.SQL(", ").join(
        sql.SQL("{}, {}::text").format(sql.Literal(column.name), _place(column, names, alias)) for column in columns
    )
    given = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(_place(column, names, alias)) for column in columns)
    return sql.SQL("CASE WHEN {} THEN jsonb_build_object({}) END").format(given, values)


def text(column: Column, names: Mapping[str, str], alias: str = "s") -> sql.Composable:
    return sql.SQL("{}::text").format(_place(column, names, alias))


def _place(column: Column, names: Mapping[str, str], alias: str) -> sql.Composable:
    return sql.SQL("{}.{}").format(sql.Identifier(alias), sql.Identifier(names[column.name]))


def _json(column: Column, value: sql.Composable) -> sql.Composable:
    """What stands for a value: a text, or for what has an inner form the JSON of that."""
    stored = base_type(postgres_type(column))
    if column.repeated and stored.endswith("[]"):
        element = element_of(column)
        return sql.SQL(
            "(SELECT coalesce(jsonb_agg({} ORDER BY o), '[]') FROM unnest({}) WITH ORDINALITY AS u (e, o))"
        ).format(_json(element, sql.SQL("u.e")), value)
    if column.repeated or column.type == "STRUCT":
        return sql.SQL("{}::text").format(value)
    if column.type == "RANGE" and not column.target_type:
        bound = Column(column.name, column.element)
        return sql.SQL("CASE WHEN {0} IS NOT NULL THEN jsonb_build_object('start', {1}, 'end', {2}) END").format(
            value, _json(bound, sql.SQL("lower({})").format(value)), _json(bound, sql.SQL("upper({})").format(value))
        )
    if stored == "bytea":
        return sql.SQL("translate(encode({}, 'base64'), E'\\n', '')").format(value)
    if stored == "interval":
        return sql.SQL(_INTERVAL).format(value)
    if stored in ("date", "timestamp without time zone", "timestamp with time zone"):
        # Whatever DateStyle says.
        return sql.SQL("to_jsonb({})").format(value)
    return sql.SQL("{}::text").format(value)
