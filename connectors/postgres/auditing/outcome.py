"""What a target will hold when the staged rows are published: those that come, and those of it that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2 import sql

from connectors.column import Column
from connectors.modes import Deletes, WriteMode
from connectors.postgres.client import Session
from connectors.postgres.names import column_names
from connectors.postgres.publish import marks
from connectors.postgres.publish.fragments import relation
from connectors.postgres.publish.marks import NOTHING_SEEN, Seen
from connectors.postgres.publish.merge_rules import Table, inspected, named
from connectors.types import base_type, postgres_type
from connectors.writing import Target


@dataclass(frozen=True)
class Outcome:
    """Two queries over the target's loaded columns; `staying` is None where none of its rows stays.

    `are_all_coming` says that each staged row is one that comes.
    `collations` are those of the target's columns, by name: it is they that say which texts are the same.
    """

    coming: sql.Composable
    staying: sql.Composable | None = None
    collations: tuple[tuple[str, tuple[str, str]], ...] = ()
    are_all_coming: bool = True

    def collated(self, name: str, value: sql.Composable) -> sql.Composable:
        found = dict(self.collations).get(name)
        return sql.SQL("{} COLLATE {}").format(value, sql.Identifier(*found)) if found else value


def outcome(
    session: Session,
    method: str,
    staged: Target,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    seen: Seen = NOTHING_SEEN,
) -> Outcome:
    """What `method` (append, merge, history, or one that leaves only the staged rows) makes of the target.

    Of a history only what is current counts. Where rows go that the source lacks, those whose keys were `seen` stay.
    """
    names = column_names(columns)
    coming = sql.SQL("SELECT {} FROM {} AS s").format(_columns("s", names), relation(staged))
    if method not in ("append", "merge", "history"):
        return Outcome(coming)
    table = inspected(session, target)
    there = _There(target, columns, table)
    if method == "append":
        return Outcome(coming, there.outside_of_span(mode), there.collations)
    key, cursor = named(columns, mode.key), named(columns, [mode.cursor])[0] if mode.cursor else ""
    merged = _Merged(staged, there, names, key, cursor if cursor in table.columns else "", method == "history")
    takes_away = mode.sees_all and seen.is_complete and (merged.is_history or mode.deletes is Deletes.HARD)
    staying: sql.Composed | None = merged.staying()
    if mode.anew or takes_away:
        staying = None if mode.anew or seen.keys is None else merged.staying(besides=seen.keys)
    return Outcome(merged.coming(), staying, there.collations, are_all_coming=False)


class _There:
    """The target's rows under the names of what is loaded; what it has yet to get is NULL in all of them."""

    def __init__(self, target: Target, columns: Sequence[Column], table: Table) -> None:
        self.target, self.table = target, table
        self._columns = columns
        self._types = {
            name: base_type(postgres_type(column)) for name, column in zip(column_names(columns), columns, strict=True)
        }

    @property
    def collations(self) -> tuple[tuple[str, tuple[str, str]], ...]:
        found = ((name, self.table.columns[name].collation) for name in self._types if name in self.table.columns)
        return tuple((name, collation) for name, collation in found if collation)

    def select(self) -> sql.Composed:
        # Rows of a child that merely inherits are not the table's.
        only = sql.SQL("" if self.table.kind == "p" else "ONLY ")
        values = sql.SQL(", ").join(self._value(name, type_) for name, type_ in self._types.items())
        return sql.SQL("SELECT {} FROM {}{} AS t").format(values, only, relation(self.target))

    def _value(self, name: str, type_: str) -> sql.Composable:
        if name in self.table.columns:
            return sql.Identifier("t", name)
        return sql.SQL("NULL::{} AS {}").format(sql.SQL(type_), sql.Identifier(name))

    def outside_of_span(self, mode: WriteMode) -> sql.Composed:
        """All of an append's target, but for a range that is loaded again."""
        if mode.span is None:
            return self.select()
        cursor = sql.Identifier("t", named(self._columns, [mode.span.column])[0])
        return sql.SQL("{} WHERE {c} < {} OR {c} >= {} OR {c} IS NULL").format(
            self.select(), sql.Literal(mode.span.low), sql.Literal(mode.span.high), c=cursor
        )


@dataclass(frozen=True)
class _Merged:
    """A merge, as merge.py makes it: of one key the newest row comes, unless the target has a newer one."""

    staged: Target
    there: _There
    names: Sequence[str]
    keys: Sequence[str]
    cursor: str
    is_history: bool

    def coming(self) -> sql.Composed:
        by = sql.SQL(", ").join(self._key("s", name) for name in self.keys)
        newest = (
            sql.SQL("{} DESC NULLS LAST, ").format(sql.Identifier("s", self.cursor)) if self.cursor else sql.SQL("")
        )
        one_each = sql.SQL(
            "SELECT DISTINCT ON ({by}) {names} FROM {staged} AS s ORDER BY {by}, {newest}s.ctid DESC"
        ).format(by=by, names=_columns("s", self.names), staged=relation(self.staged), newest=newest)
        if not self.cursor:
            return one_each
        older = sql.SQL("(s.{c} < t.{c} OR (s.{c} IS NULL AND t.{c} IS NOT NULL))").format(
            c=sql.Identifier(self.cursor)
        )
        return sql.SQL("SELECT {} FROM ({}) AS s WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {} AND {} AND {})").format(
            _columns("s", self.names),
            *(one_each, relation(self.there.target), self._same("t", "s"), older, self._is_current()),
        )

    def staying(self, besides: sql.Composable | None = None) -> sql.Composed:
        """Rows of other keys; with `besides`, a query, only those of the keys that it gives."""
        if besides is not None:
            return sql.SQL("{} AND EXISTS (SELECT FROM ({}) AS seen WHERE {})").format(
                self.staying(), besides, self._same("t", "seen")
            )
        return sql.SQL("{} WHERE {} AND NOT EXISTS (SELECT FROM ({}) AS s WHERE {})").format(
            self.there.select(), self._is_current(), self.coming(), self._same("t", "s")
        )

    def _is_current(self) -> sql.Composable:
        if not self.is_history or marks.IS_CURRENT not in self.there.table.columns:
            return sql.SQL("true")
        return sql.Identifier("t", marks.IS_CURRENT)

    def _same(self, target: str, staged: str) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(target, name), self._key(staged, name)) for name in self.keys
        )

    def _key(self, alias: str, name: str) -> sql.Composable:
        value, collation = sql.Identifier(alias, name), self.there.table.columns[name].collation
        return sql.SQL("{} COLLATE {}").format(value, sql.Identifier(*collation)) if collation else value


def _columns(alias: str, names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(alias, name) for name in names)
