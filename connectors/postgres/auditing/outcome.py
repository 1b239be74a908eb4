"""What a target will hold when the staged rows are published: those that come, and those of it that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2 import sql

from connectors.base import Column, Target, WriteMode
from connectors.postgres.client import Session
from connectors.postgres.names import column_names
from connectors.postgres.publish.merge_rules import Table, inspected, named


@dataclass(frozen=True)
class Outcome:
    """Two queries over the target's loaded columns; `staying` is None where none of its rows stays.

    `collations` are those of the target's columns, by name: it is they that say which texts are the same.
    """

    coming: sql.Composable
    staying: sql.Composable | None = None
    collations: tuple[tuple[str, tuple[str, str]], ...] = ()

    def collated(self, name: str, value: sql.Composable) -> sql.Composable:
        found = dict(self.collations).get(name)
        return sql.SQL("{} COLLATE {}").format(value, sql.Identifier(*found)) if found else value


def outcome(
    session: Session, method: str, staged: Target, target: Target, columns: Sequence[Column], mode: WriteMode
) -> Outcome:
    """What `method` (append, merge, or one that leaves only the staged rows) makes of the target."""
    names = column_names(columns)
    coming = _select(names, "s", staged)
    if method not in ("append", "merge"):
        return Outcome(coming)
    table = inspected(session, target)
    collations = tuple((name, table.columns[name].collation or ("", "")) for name in names if name in table.columns)
    told = tuple((name, collation) for name, collation in collations if collation[1])
    if method == "append":
        return Outcome(coming, _outside_of_span(names, target, columns, mode), told)
    merged = _Merged(staged, target, names, named(columns, mode.key), _cursor(columns, mode), table)
    return Outcome(merged.coming(), merged.staying(), told)


def _cursor(columns: Sequence[Column], mode: WriteMode) -> str:
    return named(columns, [mode.cursor])[0] if mode.cursor else ""


def _outside_of_span(names: Sequence[str], target: Target, columns: Sequence[Column], mode: WriteMode) -> sql.Composed:
    """All of an append's target, but for a range that is loaded again."""
    every = _select(names, "t", target)
    if mode.span is None:
        return every
    cursor = sql.Identifier("t", named(columns, [mode.span.column])[0])
    return sql.SQL("{} WHERE {c} < {} OR {c} >= {} OR {c} IS NULL").format(
        every, sql.Literal(mode.span.low), sql.Literal(mode.span.high), c=cursor
    )


@dataclass(frozen=True)
class _Merged:
    """A merge, as merge.py makes it: of one key the newest row comes, unless the target has a newer one."""

    staged: Target
    target: Target
    names: Sequence[str]
    keys: Sequence[str]
    cursor: str
    table: Table

    def coming(self) -> sql.Composed:
        by = sql.SQL(", ").join(self._key("s", name) for name in self.keys)
        newest = (
            sql.SQL("{} DESC NULLS LAST, ").format(sql.Identifier("s", self.cursor)) if self.cursor else sql.SQL("")
        )
        one_each = sql.SQL(
            "SELECT DISTINCT ON ({by}) {names} FROM {staged} AS s ORDER BY {by}, {newest}s.ctid DESC"
        ).format(by=by, names=_columns("s", self.names), staged=_table(self.staged), newest=newest)
        if not self.cursor:
            return one_each
        older = sql.SQL("(s.{c} < t.{c} OR (s.{c} IS NULL AND t.{c} IS NOT NULL))").format(
            c=sql.Identifier(self.cursor)
        )
        return sql.SQL("SELECT {} FROM ({}) AS s WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {} AND {})").format(
            _columns("s", self.names), one_each, self._one_table(), self._same("t", "s"), older
        )

    def staying(self) -> sql.Composed:
        return sql.SQL("SELECT {} FROM {} AS t WHERE NOT EXISTS (SELECT FROM ({}) AS s WHERE {})").format(
            _columns("t", self.names), self._one_table(), self.coming(), self._same("t", "s")
        )

    def _one_table(self) -> sql.Composed:
        # Rows of a child that merely inherits are not the table's.
        return sql.SQL("{}{}").format(sql.SQL("" if self.table.kind == "p" else "ONLY "), _table(self.target))

    def _same(self, target: str, staged: str) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(target, name), self._key(staged, name)) for name in self.keys
        )

    def _key(self, alias: str, name: str) -> sql.Composable:
        value, collation = sql.Identifier(alias, name), self.table.columns[name].collation
        return sql.SQL("{} COLLATE {}").format(value, sql.Identifier(*collation)) if collation else value


def _select(names: Sequence[str], alias: str, table: Target) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} AS {}").format(_columns(alias, names), _table(table), sql.Identifier(alias))


def _columns(alias: str, names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(alias, name) for name in names)


def _table(table: Target) -> sql.Identifier:
    return sql.Identifier(table.schema, table.table)
