"""Pieces of SQL that publishes by key share: t is the target, s what is staged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2 import sql

from connectors.postgres.publish.difference import comma, relation
from connectors.postgres.publish.merge_rules import Table, TableColumn
from connectors.writing import Target

__all__ = ["comma", "differs", "fill", "key_value", "newest", "one_row", "relation", "same_key"]

# Types without equality, or whose equality hides a difference: 30 days for 1 month, an area for a box.
_COMPARED_AS_TEXT = frozenset({"json", "xml", "interval", "point", "line", "lseg", "box", "path", "polygon", "circle"})


def newest(staging: Target, keys: Sequence[str], cursor: str | None, table: Table) -> sql.Composed:
    """One row for each key: the newest, and of equally new ones the last in the staging table."""
    by = comma([key_value("{0}", name, table) for name in keys])
    first = fill("{0} DESC NULLS LAST, ", cursor) if cursor else sql.SQL("")
    return sql.SQL("(SELECT DISTINCT ON ({by}) *, ctid FROM {staging} ORDER BY {by}, {newest}ctid DESC)").format(
        by=by, staging=relation(staging), newest=first
    )


def same_key(keys: Sequence[str], table: Table, *, of: str = "s", to: str = "t") -> sql.Composed:
    """Whether `of` and `to` have the same key, as the target's collations see it."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(to, name), key_value(f"{of}.{{0}}", name, table)) for name in keys
    )


def key_value(template: str, name: str, table: Table) -> sql.Composed:
    """A key as the target compares it: its collation decides which texts are the same."""
    collation = table.columns[name].collation
    value = fill(template, name)
    return sql.SQL("{} COLLATE {}").format(value, sql.Identifier(*collation)) if collation else value


def differs(name: str, column: TableColumn) -> sql.Composed:
    """Whether a column of t and s differs."""
    if column.type in _COMPARED_AS_TEXT:
        return fill("t.{0}::text IS DISTINCT FROM s.{0}::text", name)
    if column.collation:  # byte for byte, whatever the column takes for the same
        return fill('t.{0} COLLATE "C" IS DISTINCT FROM s.{0} COLLATE "C"', name)
    return fill("t.{0} IS DISTINCT FROM s.{0}", name)


def one_row(row: tuple[Any, ...] | None) -> tuple[Any, ...]:
    if row is None:
        raise RuntimeError("an aggregate always gives a row")
    return row


def fill(template: str, name: str, *others: sql.Composable) -> sql.Composed:
    return sql.SQL(template).format(sql.Identifier(name), *others)
