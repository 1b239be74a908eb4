"""A merge that knows which rows are gone: it deletes them or marks them, and takes the mark from those that are back.

What is to be done is found out first and written down, so that a guard can refuse it before a row is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg2
from psycopg2 import errorcodes, sql

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.modes import Deletes, WriteMode
from connectors.postgres.client import Session
from connectors.postgres.names import names_by_source, shorten
from connectors.postgres.publish import marks
from connectors.postgres.publish.fragments import comma, differs, fill, newest, one_row, relation, same_key
from connectors.postgres.publish.marks import DELETED_AT, Seen
from connectors.postgres.publish.merge_index import has_index
from connectors.postgres.publish.merge_rules import Table, named
from connectors.postgres.publish.tuning import is_small, tuned
from connectors.writing import Changes, Target

_TIED = (errorcodes.FOREIGN_KEY_VIOLATION, errorcodes.RESTRICT_VIOLATION)


def concerns(session: Session, target: Target, mode: WriteMode, table: Table) -> bool:
    """Whether this merge has to do with deletions: its own, or marks that runs left before it was told to keep rows."""
    if mode.deletes is not Deletes.KEEP:
        return True
    return DELETED_AT in table.columns and DELETED_AT in marks.ours(session, target)


def objection(mode: WriteMode, seen: Seen) -> str:
    """Why a run that is to delete does not; empty if it does, or is not to."""
    if mode.deletes is Deletes.KEEP:
        return ""
    if not mode.sees_all:
        return "This run does not read all rows of the source: it cannot tell which are gone, and deletes none."
    if not seen.is_complete:
        return "The key of a row that was set aside cannot be read: this run deletes no rows."
    return ""


def apply(
    session: Session,
    target: Target,
    staging: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    table: Table,
    *,
    as_of: datetime,
    duplicates: int | None = None,
    seen: Seen = marks.NOTHING_SEEN,
    allow: Callable[[Changes], None] = lambda changes: None,
) -> Changes:
    """Make the target's rows those of the staging table, and count what became of each; gone ones if this run sees all.

    The caller holds a lock of merge.MODE on the target. `as_of` is what a mark says; `allow` is told what will be done,
    by rows that are not marked, and may raise what forbids it. Raises ConnectorError, codes rows_differ and
    rows_referenced.
    """
    found = _Merge(target, staging, columns, mode, table, is_unique=duplicates == 0)
    deletes = mode.deletes is not Deletes.KEEP and not objection(mode, seen)
    looks_up = not deletes and is_small(session, table, staging) and has_index(session, table, named(columns, mode.key))
    with tuned(session, looks_up=looks_up):
        counts = one_row(session.one(found.note(deletes=deletes)))
        inserted, updated, unchanged, stale, revived, staged = counts
        session.execute(sql.SQL("ANALYZE {}").format(found.noted))
        if deletes and seen.keys is not None:
            session.execute(found.forget_seen(seen.keys))
        back = session.execute(found.note_seen(seen.keys)).rowcount if found.marks and seen.keys is not None else 0
        revived += back
        gone = int(
            one_row(session.one(sql.SQL("SELECT count(*) FROM {} WHERE verdict = 'gone'").format(found.noted)))[0]
        )
        allow(Changes(inserted + revived, updated + stale, unchanged, gone))
        done = _write(session, target, found, as_of)
        if back:  # in a statement of its own: nothing else has touched these rows
            done = (done[0], done[1] + session.execute(found.unmark_seen()).rowcount, done[2])
    session.execute(sql.SQL("DROP TABLE {}").format(found.noted))
    if done != (gone, updated + revived, inserted):
        raise ConnectorError(
            f"{inserted} rows were to be inserted, {updated + revived} updated and {gone} deleted or marked,"
            f" but of {target} it was {done[2]}, {done[1]} and {done[0]}.",
            hint="A trigger on the table may drop rows.",
            code="rows_differ",
            field="table",
        )
    doubled = staged - inserted - updated - unchanged - stale - (revived - back)
    marked = gone if mode.deletes is Deletes.SOFT else 0
    return Changes(inserted, updated, unchanged, gone, doubled, stale, revived, marked=marked)


def _write(session: Session, target: Target, found: _Merge, as_of: datetime) -> tuple[int, ...]:
    """Carry out what is noted; returns how many rows were removed, updated and inserted."""
    try:
        done = one_row(session.one(found.statement(), {"as_of": as_of}))
        session.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what was put off to the commit speaks now
    except psycopg2.Error as error:
        if error.pgcode in _TIED and found.mode.deletes is Deletes.HARD and error.diag.table_name != target.table:
            raise _referenced(target, error) from error
        raise
    return tuple(map(int, done))


def _referenced(target: Target, error: psycopg2.Error) -> ConnectorError:
    by = f"{error.diag.schema_name}.{error.diag.table_name}"
    return ConnectorError(
        f"{by} still refers to rows of {target} that the source no longer has"
        f" (constraint {error.diag.constraint_name}).",
        hint=f"Remove or change those rows of {by} first, or let the pipeline mark rows as deleted instead.",
        code="rows_referenced",
        field="table",
    )


# Each row of either side meets its partner once. What stays as it is is only counted.
_NOTE = """
CREATE UNLOGGED TABLE {noted} (staged_at tid, part oid, place tid, verdict text);
WITH met AS MATERIALIZED (
  SELECT s.ctid AS staged_at, t.tableoid AS part, t.ctid AS place,
         CASE WHEN t.ctid IS NULL THEN 'insert' WHEN s.ctid IS NULL THEN 'gone' WHEN {is_marked} THEN 'revive'
              WHEN {is_older} THEN 'stale' WHEN {differs} THEN 'update' ELSE 'keep' END AS verdict
  FROM {batch} AS s {join} JOIN {table} AS t ON {same_key} {where}
), written_down AS (
  INSERT INTO {noted} SELECT * FROM met WHERE verdict NOT IN ('keep', 'stale')
)
SELECT count(*) FILTER (WHERE verdict = 'insert'), count(*) FILTER (WHERE verdict = 'update'),
       count(*) FILTER (WHERE verdict = 'keep'), count(*) FILTER (WHERE verdict = 'stale'),
       count(*) FILTER (WHERE verdict = 'revive'), (SELECT count(*) FROM {staging}) FROM met
"""

# One statement, as foreign keys are checked when a statement ends. Each write counts what the one before it returned
# before its own first row: a value of another unique column may move from a row that goes to one that comes.
_WRITE = """
WITH gone AS ({remove}), changed AS (
  UPDATE {table} AS t SET {assignments} FROM {noted} AS d JOIN {staging} AS s ON s.ctid = d.staged_at
  WHERE d.verdict IN ('update', 'revive') AND {at_its_place} AND (SELECT count(*) FROM gone) >= 0 RETURNING 1
), added AS (
  INSERT INTO {into} ({names}) {overriding}
  SELECT {values} FROM {noted} AS d JOIN {staging} AS s ON s.ctid = d.staged_at
  WHERE d.verdict = 'insert' AND (SELECT count(*) FROM changed) >= 0 RETURNING 1
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM changed), (SELECT count(*) FROM added)
"""


@dataclass(frozen=True)
class _Merge:
    """The statements of one merge."""

    target: Target
    staging: Target
    columns: Sequence[Column]
    mode: WriteMode
    table: Table
    is_unique: bool

    @property
    def noted(self) -> sql.Composable:
        """The table that says what is to be done, a row each."""
        return sql.Identifier(self.staging.schema, shorten(f"{self.staging.table}_noted"))

    @property
    def keys(self) -> list[str]:
        return named(self.columns, self.mode.key)

    @property
    def rest(self) -> list[str]:
        return [name for name in names_by_source(self.columns).values() if name not in self.keys]

    @property
    def one_table(self) -> sql.Composable:
        # Rows of a child that merely inherits are not the table's: its unique index does not know them.
        return sql.SQL("{}" if self.table.kind == "p" else "ONLY {}").format(relation(self.target))

    @property
    def marks(self) -> bool:
        """Whether the target has our mark."""
        return DELETED_AT in self.table.columns

    def note(self, *, deletes: bool) -> sql.Composable:
        """Compare both sides and write down what is to be done; gives the counts."""
        newest_by = named(self.columns, [self.mode.cursor])[0] if self.mode.cursor else None
        older: sql.Composable = sql.SQL("false")
        changed: sql.Composable = sql.SQL("false")
        is_marked: sql.Composable = sql.SQL("false")
        if newest_by:
            older = fill("s.{0} < t.{0} OR (s.{0} IS NULL AND t.{0} IS NOT NULL)", newest_by)
        if self.rest:
            changed = sql.SQL(" OR ").join(differs(name, self.table.columns[name]) for name in self.rest)
        if self.marks:
            is_marked = fill("t.{0} IS NOT NULL", DELETED_AT)
        may_collide = any(not self.table.columns[name].is_deterministic for name in self.keys)
        is_plain = self.is_unique and not may_collide
        once = self.mode.deletes is Deletes.SOFT  # what is marked already is not gone again
        return sql.SQL(_NOTE).format(
            noted=self.noted,
            is_marked=is_marked,
            is_older=older,
            differs=changed,
            batch=relation(self.staging) if is_plain else newest(self.staging, self.keys, newest_by, self.table),
            join=sql.SQL("FULL" if deletes else "LEFT"),
            table=self.one_table,
            same_key=same_key(self.keys, self.table),
            where=sql.SQL("WHERE s.ctid IS NOT NULL OR NOT ({})").format(is_marked)
            if deletes and once
            else sql.SQL(""),
            staging=relation(self.staging),
        )

    def forget_seen(self, keys: sql.Composable) -> sql.Composable:
        """Take back what is not gone: the source has its key in a row that is not staged."""
        return sql.SQL(
            "DELETE FROM {noted} AS d USING {target} AS t, ({seen}) AS s"
            " WHERE d.verdict = 'gone' AND {at_its_place} AND {same_key}"
        ).format(
            noted=self.noted,
            target=self.one_table,
            seen=keys,
            at_its_place=self._at_its_place,
            same_key=same_key(self.keys, self.table),
        )

    def note_seen(self, keys: sql.Composable) -> sql.Composable:
        """Write down which marked rows are back, though only in a row that is not staged: they keep their values."""
        return sql.SQL(
            "INSERT INTO {noted} (part, place, verdict) SELECT DISTINCT t.tableoid, t.ctid, 'seen'"
            " FROM {target} AS t JOIN ({seen}) AS s ON {same_key}"
            " WHERE t.{mark} IS NOT NULL AND NOT EXISTS (SELECT FROM {noted} AS d WHERE {at_its_place})"
        ).format(
            noted=self.noted,
            target=self.one_table,
            seen=keys,
            same_key=same_key(self.keys, self.table),
            mark=sql.Identifier(DELETED_AT),
            at_its_place=self._at_its_place,
        )

    def unmark_seen(self) -> sql.Composable:
        return sql.SQL(
            "UPDATE {table} AS t SET {mark} = NULL FROM {noted} AS d WHERE d.verdict = 'seen' AND {at_its_place}"
        ).format(
            table=self.one_table,
            mark=sql.Identifier(DELETED_AT),
            noted=self.noted,
            at_its_place=self._at_its_place,
        )

    def statement(self) -> sql.Composable:
        """Do what is written down; `as_of` is a parameter."""
        names = list(names_by_source(self.columns).values())
        assignments = [fill("{0} = s.{0}", name) for name in self.rest]
        assignments += [fill("{0} = NULL", DELETED_AT)] if self.marks else []
        remove = "DELETE FROM {table} AS t USING {noted} AS d WHERE d.verdict = 'gone' AND {at_its_place} RETURNING 1"
        if self.mode.deletes is Deletes.SOFT:
            remove = (
                "UPDATE {table} AS t SET {mark} = %(as_of)s FROM {noted} AS d"
                " WHERE d.verdict = 'gone' AND {at_its_place} RETURNING 1"
            )
        is_always = any(self.table.columns[name].is_identity_always for name in self.keys)
        places = {"table": self.one_table, "noted": self.noted, "at_its_place": self._at_its_place}
        return sql.SQL(_WRITE).format(
            remove=sql.SQL(remove).format(mark=sql.Identifier(DELETED_AT), **places),
            # A table of keys alone has nothing to update.
            assignments=comma(assignments or [fill("{0} = s.{0}", self.keys[0])]),
            into=relation(self.target),
            staging=relation(self.staging),
            names=comma([sql.Identifier(name) for name in names]),
            overriding=sql.SQL("OVERRIDING SYSTEM VALUE" if is_always else ""),
            values=comma([fill("s.{0}", name) for name in names]),
            **places,
        )

    @property
    def _at_its_place(self) -> sql.Composable:
        return sql.SQL("t.tableoid = d.part AND t.ctid = d.place" if self.table.kind == "p" else "t.ctid = d.place")
