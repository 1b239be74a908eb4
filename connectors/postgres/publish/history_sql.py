"""The statements that a history is kept with; times are of `timestamptz`, whatever type the cursor has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg2 import sql

from connectors.column import Column
from connectors.modes import WriteMode
from connectors.postgres.names import names_by_source, shorten
from connectors.postgres.publish.fragments import comma, differs, fill, key_value, relation, same_key
from connectors.postgres.publish.merge_rules import Table, named
from connectors.writing import Target

# What a DATE or DATETIME means, which have no zone.
_TIMES = {
    "DATE": "({0}::timestamp AT TIME ZONE 'UTC')",
    "DATETIME": "({0} AT TIME ZONE 'UTC')",
    "TIMESTAMP": "{0}",
}

_MAKE_NOTES = """
CREATE UNLOGGED TABLE {noted}
  (staged_at tid, part oid, place tid, verdict text, placed timestamptz, is_latest boolean)
"""
# open: the key has no version that holds now. next: newer than the one that does. late: older. mend: of the same
# cursor, and not the newest in the batch. What is the same is not written down.
_NOTE = """
INSERT INTO {noted}
SELECT * FROM (
  SELECT s.staged_at, t.part, t.place,
         CASE WHEN s.staged_at IS NULL THEN 'gone' WHEN t.place IS NULL THEN 'open' WHEN NOT ({differs}) THEN 'keep'
              WHEN {is_newer} THEN 'next' WHEN {same_cursor} THEN CASE WHEN s.is_latest THEN 'next' ELSE 'mend' END
              WHEN t._valid_from = '-infinity' THEN 'keep' ELSE 'late' END AS verdict,
         {placed}, s.is_latest
  FROM {batch} AS s {join} JOIN
    (SELECT *, ctid AS place, tableoid AS part FROM {table} WHERE _is_current) AS t ON {same_key}
) AS met WHERE verdict <> 'keep'
"""
_BATCH = "(SELECT *, ctid AS staged_at, true AS is_latest FROM {staging})"
# One row for each key and cursor: of several the same one each time, whatever order they came in. Where a key has rows
# with a cursor, those without one do not count: they are older, as in a merge, and nobody knows since when.
_SORTED_BATCH = """
(SELECT *, row_number() OVER (PARTITION BY {by_key} ORDER BY {newest}staged_at) = 1 AS is_latest
 FROM (SELECT DISTINCT ON ({by}) *, ctid AS staged_at FROM {staging} AS s
       ORDER BY {by}, ROW({all}) USING OPERATOR(pg_catalog.*>)) AS s)
"""
_OF_CURSORS = """
(SELECT * FROM (SELECT *, bool_or({cursor} IS NOT NULL) OVER (PARTITION BY {by_key}) AS has_cursor
                FROM {batch} AS s) AS s
 WHERE {cursor} IS NOT NULL OR NOT has_cursor)
"""
# Of keys that have a past: what is known is forgotten, what is back said, what has the cursor of an old version mended.
_LOOK_BACK = """
WITH found AS (
  SELECT d.staged_at, d.verdict, d.is_latest, d.placed, max({placed_then}) AS last,
         bool_or({same_cursor} AND NOT ({differs})) AS is_known,
         bool_or(t._valid_from = '-infinity' AND {placed_then} > d.placed) AS is_before,
         (array_agg(t.tableoid ORDER BY t._valid_from DESC) FILTER (WHERE {same_cursor}))[1] AS part,
         (array_agg(t.ctid ORDER BY t._valid_from DESC) FILTER (WHERE {same_cursor}))[1] AS place
  FROM {noted} AS d JOIN {staging} AS s ON s.ctid = d.staged_at
  JOIN {table} AS t ON NOT t._is_current AND {same_key}
  WHERE d.verdict IN ('open', 'late') GROUP BY 1, 2, 3, 4
), judged AS (
  SELECT staged_at, part, place,
         CASE WHEN verdict = 'open' AND ({is_back}) THEN 'back' WHEN is_known OR is_before THEN 'keep'
              WHEN place IS NOT NULL THEN 'mend' ELSE 'late' END AS verdict
  FROM found
), kept AS (
  DELETE FROM {noted} AS d USING judged WHERE judged.verdict = 'keep' AND d.staged_at = judged.staged_at
)
UPDATE {noted} AS d SET verdict = judged.verdict, part = judged.part, place = judged.place
FROM judged WHERE judged.verdict <> 'keep' AND d.staged_at = judged.staged_at
"""
_MEND = """
UPDATE {table} AS t SET {assignments} FROM {noted} AS d JOIN {staging} AS s ON s.ctid = d.staged_at
WHERE d.verdict = 'mend' AND {at_its_place}
"""
# The versions of each key that changes, those that are there and those that come, in their order.
#   starts: where the cursor of a version that comes is later than all that is known, then; else, as of the snapshot.
#           One that comes late starts at its cursor. None starts before the one before it.
#   gap:    where a version ended because the row was gone, and not because another one followed.
_ORDER = """
CREATE UNLOGGED TABLE {moves} AS
WITH touched AS (
  SELECT DISTINCT {key_values} FROM {noted} AS d JOIN {staging} AS s ON s.ctid = d.staged_at
  WHERE d.verdict IN ('next', 'back', 'late')
), there AS (
  SELECT {k}, part, place, _valid_from, _valid_to,
         max(placed) OVER (by_time ROWS UNBOUNDED PRECEDING) AS placed,
         CASE WHEN _valid_to IS DISTINCT FROM lead(_valid_from) OVER by_time THEN _valid_to END AS gap
  FROM (SELECT touched.*, t.tableoid AS part, t.ctid AS place, {placed_then} AS placed, t._valid_from, t._valid_to
        FROM touched JOIN {table} AS t ON t._is_current AND {touches}
        UNION ALL
        SELECT touched.*, t.tableoid, t.ctid, {placed_then}, t._valid_from, t._valid_to
        FROM touched JOIN {table} AS t ON NOT t._is_current AND {touches}) AS versions
  WINDOW by_time AS (PARTITION BY {k} ORDER BY _valid_from, _valid_to)
), items AS (
  SELECT {k}, NULL::tid AS staged_at, part, place, false AS is_next, placed, NULL::timestamptz AS at,
         _valid_from, _valid_to, gap FROM there
  UNION ALL
  SELECT {key_values}, d.staged_at, NULL, NULL, d.verdict <> 'late', d.placed, {at}, NULL, NULL, NULL
  FROM {noted} AS d JOIN {staging} AS s ON s.ctid = d.staged_at
  WHERE d.verdict IN ('next', 'back', 'late') {and_open}
), reached AS (
  SELECT *, max(greatest(_valid_from, _valid_to)) OVER (PARTITION BY {k}) AS known FROM items
), started AS (
  SELECT *, max(CASE WHEN staged_at IS NULL THEN _valid_from WHEN NOT is_next THEN placed
                     WHEN at > known OR known IS NULL THEN placed ELSE greatest({as_of}, known) END)
              OVER (in_order ROWS UNBOUNDED PRECEDING) AS reached,
         count(place) OVER (in_order ROWS UNBOUNDED PRECEDING) AS after
  FROM reached WINDOW in_order AS (PARTITION BY {k} ORDER BY is_next, placed, _valid_from, _valid_to, staged_at)
), following AS (
  SELECT *, CASE WHEN staged_at IS NULL THEN _valid_from ELSE reached END AS starts,
         first_value(gap) OVER (PARTITION BY {k}, after ORDER BY is_next, placed, _valid_from, _valid_to, staged_at)
           AS left_at
  FROM started
), ends AS (
  SELECT *, lead(starts) OVER (PARTITION BY {k} ORDER BY is_next, placed, _valid_from, _valid_to, staged_at) AS follows
  FROM following
), timeline AS (
  SELECT staged_at, part, place, starts, _valid_to AS ended,
         least(follows, CASE WHEN staged_at IS NULL OR left_at > starts THEN left_at END) AS ends FROM ends
)
SELECT staged_at, part, place, starts, ends FROM timeline WHERE staged_at IS NOT NULL OR ends IS DISTINCT FROM ended
{plain_open};
ANALYZE {moves}
"""
_PLAIN_OPEN = """
UNION ALL SELECT d.staged_at, NULL, NULL, d.placed, NULL FROM {noted} AS d WHERE d.verdict = 'open'
"""
# What holds no more makes room for what does: each write counts what the one before it returned.
_WRITE = """
WITH ended AS (
  UPDATE {table} AS t SET _valid_to = d.ends, _is_current = d.ends IS NULL FROM {moves} AS d
  WHERE d.place IS NOT NULL AND {at_its_place} RETURNING 1
), gone AS (
  UPDATE {table} AS t SET _valid_to = greatest({as_of}, t._valid_from), _is_current = false FROM {noted} AS d
  WHERE d.verdict = 'gone' AND {at_its_place} RETURNING 1
), added AS (
  INSERT INTO {into} ({names}, _valid_from, _valid_to, _is_current) {overriding}
  SELECT {values}, d.starts, d.ends, d.ends IS NULL FROM {moves} AS d JOIN {staging} AS s ON s.ctid = d.staged_at
  WHERE (SELECT count(*) FROM ended) >= 0 RETURNING 1
)
SELECT (SELECT count(*) FROM ended), (SELECT count(*) FROM gone), (SELECT count(*) FROM added)
"""
_FORGET_SEEN = """
DELETE FROM {noted} AS d USING {table} AS t, ({seen}) AS s WHERE d.verdict = 'gone' AND {at_its_place} AND {same_key}
"""
_COUNT = """
SELECT count(*) FILTER (WHERE verdict = 'open'), count(*) FILTER (WHERE verdict = 'open' AND is_latest),
       count(*) FILTER (WHERE verdict = 'back' AND is_latest), count(*) FILTER (WHERE verdict = 'gone') FROM {noted}
"""


@dataclass(frozen=True)
class History:
    """The statements of one run; `as_of` is its snapshot."""

    target: Target
    staging: Target
    columns: Sequence[Column]
    mode: WriteMode
    table: Table
    is_unique: bool
    as_of: datetime

    @property
    def noted(self) -> sql.Composable:
        """What is found out of each staged row that is not known, and of each version that is gone."""
        return self._own("noted")

    @property
    def moves(self) -> sql.Composable:
        """Versions to be added, and those to be ended, with their times."""
        return self._own("moves")

    def make_notes(self) -> sql.Composable:
        return sql.SQL(_MAKE_NOTES).format(noted=self.noted)

    def note(self, *, ends: bool) -> sql.Composable:
        """Compare the batch with the versions that hold now."""
        newer = sql.SQL("{} > {}").format(self._placed("s"), self._placed("t"))
        return self._filled(
            _NOTE,
            batch=self._batch(),
            join=sql.SQL("FULL" if ends else "LEFT"),
            is_newer=newer if self.cursor else sql.SQL("true"),
            placed=self._placed("s"),
        )

    def has_past(self) -> sql.Composable:
        """Whether there is anything to look for in the past."""
        return self._filled(
            "SELECT EXISTS (SELECT FROM {noted} WHERE verdict IN ('open', 'late'))"
            " AND EXISTS (SELECT FROM {table} WHERE NOT _is_current)"
        )

    def look_into_the_past(self) -> sql.Composable:
        # A run that sees all finds what is there now; any other may have met an old version of what is gone.
        is_back = "is_latest OR placed > last" if self.mode.sees_all or not self.cursor else "placed > last"
        return self._filled(_LOOK_BACK, is_back=sql.SQL(is_back))

    def mend(self) -> sql.Composable:
        if not self.rest:
            return sql.SQL("SELECT WHERE false")
        return self._filled(_MEND, assignments=comma([fill("{0} = s.{0}", name) for name in self.rest]))

    def forget_seen(self, keys: sql.Composable) -> sql.Composable:
        """Take back what is not gone: the source has its key in a row that is not staged."""
        return self._filled(_FORGET_SEEN, seen=keys)

    def order(self) -> sql.Composable:
        """Put the versions of each key that changes in order."""
        touches = sql.SQL(" AND ").join(
            sql.SQL("{} = touched.{}").format(sql.Identifier("t", name), key)
            for name, key in zip(self.keys, self._ks, strict=True)
        )
        key_values = comma(
            [
                sql.SQL("{} AS {}").format(key_value("s.{0}", name, self.table), key)
                for name, key in zip(self.keys, self._ks, strict=True)
            ]
        )
        at = self._time("s") if self.cursor else sql.SQL("NULL::timestamptz")
        alone = self._is_plain  # keys that nobody knew have a single version each
        return self._filled(
            _ORDER,
            key_values=key_values,
            k=comma(self._ks),
            touches=touches,
            at=at,
            and_open=sql.SQL("" if alone else "OR d.verdict = 'open'"),
            plain_open=self._filled(_PLAIN_OPEN) if alone else sql.SQL(""),
        )

    def write(self) -> sql.Composable:
        names = list(names_by_source(self.columns).values())
        is_always = any(self.table.columns[name].is_identity_always for name in self.keys)
        return self._filled(
            _WRITE,
            into=relation(self.target),
            names=comma([sql.Identifier(name) for name in names]),
            values=comma([fill("s.{0}", name) for name in names]),
            overriding=sql.SQL("OVERRIDING SYSTEM VALUE" if is_always else ""),
        )

    def count(self) -> sql.Composable:
        """Versions and keys that are new, keys that are back, keys that are gone."""
        return self._filled(_COUNT)

    def count_moves(self) -> sql.Composable:
        return self._filled("SELECT count(place), count(staged_at) FROM {moves}")

    def count_live(self) -> sql.Composable:
        return self._filled("SELECT count(*) FROM {table} WHERE _is_current")

    def count_keys(self) -> sql.Composable:
        return self._filled("SELECT count(*) FROM (SELECT DISTINCT {by_key} FROM {staging} AS s) AS keys")

    def count_staged(self) -> sql.Composable:
        """Rows of the staging table, and how many of them are versions of their own."""
        if self._is_plain:
            return self._filled("SELECT count(*), count(*) FROM {staging}")
        return self._filled("SELECT (SELECT count(*) FROM {staging}), count(*) FROM {batch} AS s", batch=self._batch())

    @property
    def keys(self) -> list[str]:
        return named(self.columns, self.mode.key)

    @property
    def rest(self) -> list[str]:
        return [name for name in names_by_source(self.columns).values() if name not in self.keys]

    @property
    def cursor(self) -> str:
        return named(self.columns, [self.mode.cursor])[0] if self.mode.cursor else ""

    @property
    def _is_plain(self) -> bool:
        """Whether each key is staged once."""
        return self.is_unique and all(self.table.columns[name].is_deterministic for name in self.keys)

    @property
    def _ks(self) -> list[sql.Composable]:
        return [sql.Identifier(f"k{i}") for i in range(len(self.keys))]

    def _batch(self) -> sql.Composable:
        if self._is_plain:
            return self._filled(_BATCH)
        every = comma([fill("s.{0}", name) for name in names_by_source(self.columns).values()])
        once = self._filled(_SORTED_BATCH, all=every)
        return self._filled(_OF_CURSORS, batch=once) if self.cursor else once

    @property
    def _by_key(self) -> sql.Composable:
        return comma([key_value("s.{0}", name, self.table) for name in self.keys])

    def _filled(self, template: str, **more: sql.Composable) -> sql.Composed:
        is_tree = self.table.kind == "p"
        common = {
            "noted": self.noted,
            "moves": self.moves,
            "staging": relation(self.staging),
            # Rows of a child that merely inherits are not the table's: its unique index does not know them.
            "table": sql.SQL("{}" if is_tree else "ONLY {}").format(relation(self.target)),
            "at_its_place": sql.SQL("t.tableoid = d.part AND t.ctid = d.place" if is_tree else "t.ctid = d.place"),
            "same_key": same_key(self.keys, self.table),
            "differs": sql.SQL(" OR ").join(differs(name, self.table.columns[name]) for name in self.rest)
            if self.rest
            else sql.SQL("false"),
            "same_cursor": fill("s.{0} IS NOT DISTINCT FROM t.{0}", self.cursor) if self.cursor else sql.SQL("false"),
            "placed_then": self._placed("t"),
            "as_of": sql.Literal(self.as_of),
            "by_key": self._by_key,
            "cursor": sql.Identifier("s", self.cursor) if self.cursor else sql.SQL("NULL"),
            "newest": fill("s.{0} DESC NULLS LAST, ", self.cursor) if self.cursor else sql.SQL(""),
            "by": comma([self._by_key, fill("s.{0}", self.cursor)]) if self.cursor else self._by_key,
        }
        return sql.SQL(template).format(**{**common, **more})

    def _placed(self, of: str) -> sql.Composable:
        """Where a version stands among others: at its cursor; without one, at the snapshot that it came with."""
        otherwise = sql.Literal(self.as_of) if of == "s" else sql.SQL("t._valid_from")
        return sql.SQL("coalesce({}, {})").format(self._time(of), otherwise) if self.cursor else otherwise

    def _time(self, of: str) -> sql.Composable:
        type_ = next(column.type for column in self.columns if column.name.lower() == self.mode.cursor.lower())
        return sql.SQL(_TIMES[type_]).format(sql.Identifier(of, self.cursor))

    def _own(self, what: str) -> sql.Composable:
        return sql.Identifier(self.staging.schema, shorten(f"{self.staging.table}_{what}"))
