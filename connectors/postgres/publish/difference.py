"""How a target differs from its staging table: found in one pass, written down, and then carried out in one statement.

Two rows are the same if they are the same byte for byte: 1.0 is not 1.00 here, nor are 30 days a month,
though PostgreSQL calls them equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2 import sql

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres.client import Session
from connectors.postgres.names import column_names, names_by_source, shorten
from connectors.writing import Target

# Generated columns are no extras: they follow. Of an index with an expression or a condition, any column
# of the table may matter. The key is unique if some unique index has no column beyond it.
_CATALOG = """
WITH c AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = %(schema)s AND c.relname = %(table)s),
tree AS (SELECT oid FROM c UNION SELECT relid FROM c, pg_partition_tree(c.oid)),
a AS (SELECT pg_attribute.* FROM c, pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
SELECT ARRAY(SELECT attname::text FROM a WHERE attname <> ALL(%(names)s::name[]) AND attgenerated = '' ORDER BY attnum),
  ARRAY(SELECT attname::text FROM a WHERE attname = ANY(%(names)s::name[]) AND attidentity = 'a'),
  ARRAY(SELECT DISTINCT x.attname::text
        FROM pg_index i JOIN pg_attribute x ON x.attrelid = i.indrelid AND x.attnum > 0 AND NOT x.attisdropped
        WHERE i.indrelid IN (SELECT oid FROM tree) AND (i.indisunique OR i.indisexclusion) AND i.indimmediate
          AND (x.attnum = ANY(i.indkey::int2[]) OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)),
  ARRAY(SELECT attname::text FROM a WHERE attname = ANY(%(key)s::name[]) AND attcollation <> 0),
  EXISTS (SELECT FROM pg_index i
          WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indexprs IS NULL AND i.indpred IS NULL
            AND (SELECT bool_and(x.attname = ANY(%(key)s::name[]))
                 FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
                 JOIN pg_attribute x ON x.attrelid = i.indrelid AND x.attnum = k.number
                 WHERE k.place <= i.indnkeyatts))
FROM c
"""


@dataclass(frozen=True)
class Difference:
    """A table of what is to be done, one row each: old_table and old_row (of the target), new_row (of staging).

    `must_move` rows cannot be updated, only removed and made again (GENERATED ALWAYS AS IDENTITY);
    `may_collide` rows get another value in a unique column. `extras` are columns of the target that the
    source lacks, `always` those GENERATED ALWAYS AS IDENTITY, `texts` those of the key with a collation.
    """

    target: Target
    staging: Target
    columns: tuple[str, ...]
    key: tuple[str, ...]
    extras: tuple[str, ...]
    always: tuple[str, ...]
    unique: tuple[str, ...]
    texts: tuple[str, ...]
    key_is_unique: bool

    @classmethod
    def of(
        cls, session: Session, target: Target, staging: Target, columns: Sequence[Column], key: Sequence[str]
    ) -> Difference:
        names, by_source = column_names(columns), names_by_source(columns)
        keys = [by_source[name] for name in key]
        parameters = {"schema": target.schema, "table": target.table, "names": list(names), "key": keys}
        found = session.one(_CATALOG, parameters)
        if found is None:
            raise ConnectorError(f"There is no table {target}.", code="table_missing", field="table")
        *lists, key_is_unique = found
        extras, always, unique, texts = map(tuple, lists)
        return cls(target, staging, names, tuple(keys), extras, always, unique, texts, bool(key_is_unique))

    @property
    def table(self) -> sql.Composable:
        return sql.Identifier(self.staging.schema, shorten(f"{self.staging.table}_difference"))

    def find(self, session: Session) -> None:
        """Make and fill the table."""
        query = self._by_key() if self.key else self._by_whole_rows()
        session.execute(
            sql.SQL("CREATE UNLOGGED TABLE {table} AS {query}; ANALYZE {table}").format(table=self.table, query=query)
        )

    def _by_key(self) -> sql.Composable:
        """Rows are compared by their image, as REFRESH MATERIALIZED VIEW CONCURRENTLY does: no type lacks that."""
        # Both sides by their bytes: the target's column may have a collation of its own.
        keys: list[sql.Composable] = [
            sql.SQL('{} COLLATE "C"' if name in self.texts else "{}").format(sql.Identifier("r", name))
            for name in self.key
        ]
        first, *others = keys
        if not self.key_is_unique:
            # Of several rows with one key only the first can find its partner; the others are too many.
            first = sql.SQL(
                "CASE WHEN row_number() OVER (PARTITION BY {} ORDER BY r.tableoid, r.ctid) = 1 THEN {} END"
            ).format(comma(keys), first)
        columns = aliased("c", [sql.Identifier("r", name) for name in self.columns])
        join = sql.SQL(" AND ").join(sql.SQL(f"t.k{i} = s.k{i}") for i in range(len(keys)))
        return sql.SQL(
            "SELECT t.old_table, t.old_row, s.new_row, {must_move} AS must_move, {may_collide} AS may_collide"
            " FROM (SELECT r.tableoid AS old_table, r.ctid AS old_row, {old_keys}, {columns} FROM {target} AS r) AS t"
            " FULL JOIN (SELECT r.ctid AS new_row, {new_keys}, {columns} FROM {staging} AS r) AS s ON {join}"
            " WHERE t.old_row IS NULL OR s.new_row IS NULL OR {differ}"
        ).format(
            must_move=self._differ(self.always),
            may_collide=self._differ(self.unique),
            old_keys=aliased("k", [first, *others]),
            new_keys=aliased("k", keys),
            columns=columns,
            target=relation(self.target),
            staging=relation(self.staging),
            join=join,
            differ=self._differ(self.columns),
        )

    def _by_whole_rows(self) -> sql.Composable:
        """A row is known by the digest of its binary form, equal rows by their number among equals."""
        row = sql.SQL("sha256(record_send(ROW({})))").format(comma([sql.Identifier("r", n) for n in self.columns]))
        numbered = sql.SQL(
            "SELECT {places}, digest, row_number() OVER (PARTITION BY digest) AS number"
            " FROM (SELECT {row_places}, {row} AS digest FROM {table} AS r) AS digested"
        )
        return sql.SQL(
            "SELECT t.old_table, t.old_row, s.new_row, false AS must_move, false AS may_collide"
            " FROM ({old}) AS t FULL JOIN ({new}) AS s ON t.digest = s.digest AND t.number = s.number"
            " WHERE t.old_row IS NULL OR s.new_row IS NULL"
        ).format(
            old=numbered.format(
                places=sql.SQL("old_table, old_row"),
                row_places=sql.SQL("r.tableoid AS old_table, r.ctid AS old_row"),
                row=row,
                table=relation(self.target),
            ),
            new=numbered.format(
                places=sql.SQL("new_row"),
                row_places=sql.SQL("r.ctid AS new_row"),
                row=row,
                table=relation(self.staging),
            ),
        )

    def _differ(self, names: Sequence[str]) -> sql.Composable:
        """Whether the columns `names` of both rows differ, by their image."""
        at = [i for i, name in enumerate(self.columns) if name in names]
        if not at:
            return sql.SQL("false")
        return sql.SQL("record_image_ne(ROW({}), ROW({}))").format(
            comma([sql.SQL(f"t.c{i}") for i in at]), comma([sql.SQL(f"s.c{i}") for i in at])
        )

    def statement(self, *, moving: bool) -> sql.Composable:
        """One statement, as foreign keys are checked when a statement ends: then all rows are in place.

        Its four writes come one after the other, since each counts what the one before it returned
        before its own first row: removed before updated before inserted, for the sake of unique values.
        """
        moves = sql.SQL("(d.must_move OR d.may_collide)" if moving else "d.must_move")
        at_old = sql.SQL("t.tableoid = d.old_table AND t.ctid = d.old_row")
        names = [sql.Identifier(name) for name in self.columns]
        extras = [sql.Identifier(name) for name in self.extras]
        staged = comma([sql.Identifier("s", name) for name in self.columns])
        settable = [sql.Identifier(name) for name in self.columns if name not in self.always]
        update = sql.SQL(
            "UPDATE {target} AS t SET {settings} FROM {difference} AS d JOIN {staging} AS s ON s.ctid = d.new_row"
            " WHERE {at_old} AND NOT {moves} AND (SELECT count(*) FROM gone) >= 0 RETURNING 1"
        )
        insert = sql.SQL(
            "INSERT INTO {target} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {places}"
            " JOIN {staging} AS s ON s.ctid = d.new_row WHERE {which} RETURNING 1"
        )
        target, staging = relation(self.target), relation(self.staging)
        return sql.SQL(
            "WITH gone AS (DELETE FROM {target} AS t USING {difference} AS d"
            " WHERE {at_old} AND (d.new_row IS NULL OR {moves}) RETURNING d.new_row{kept}),"
            " changed AS ({update}), moved AS ({move}), made AS ({make})"
            " SELECT (SELECT count(*) FROM gone WHERE new_row IS NULL),"
            " (SELECT count(*) FROM changed) + (SELECT count(*) FROM moved), (SELECT count(*) FROM made)"
        ).format(
            target=target,
            difference=self.table,
            at_old=at_old,
            moves=moves,
            kept=sql.SQL("").join(
                sql.SQL(", {} AS {}").format(sql.Identifier("t", name), sql.Identifier(f"x{i}"))
                for i, name in enumerate(self.extras)
            ),
            update=update.format(
                target=target,
                settings=comma([sql.SQL("{0} = s.{0}").format(name) for name in settable]),
                difference=self.table,
                staging=staging,
                at_old=at_old,
                moves=moves,
            )
            if settable
            else sql.SQL("SELECT 1 WHERE false"),
            move=insert.format(
                target=target,
                names=comma(names + extras),
                values=comma([staged, *(sql.Identifier("d", f"x{i}") for i in range(len(extras)))]),
                places=sql.SQL("gone AS d"),
                staging=staging,
                which=sql.SQL("(SELECT count(*) FROM changed) >= 0"),
            ),
            make=insert.format(
                target=target,
                names=comma(names),
                values=staged,
                places=sql.SQL("{} AS d").format(self.table),
                staging=staging,
                which=sql.SQL("d.old_row IS NULL AND (SELECT count(*) FROM moved) >= 0"),
            ),
        )


def relation(table: Target) -> sql.Composable:
    return sql.Identifier(table.schema, table.table)


def comma(parts: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def aliased(letter: str, parts: Sequence[sql.Composable]) -> sql.Composed:
    """Names of our own, for those of people may be anything."""
    return comma([sql.SQL("{} AS {}").format(part, sql.Identifier(f"{letter}{i}")) for i, part in enumerate(parts)])
