"""Merge: rows that differ are updated, new ones inserted, equal ones and those the target has newer are not touched.

In order: refuse, ensure_index, (COPY into the staging table), prepare, (lock), apply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2 import sql

from connectors.base import Changes, Column, Target
from connectors.errors import ConnectorError
from connectors.postgres import errors
from connectors.postgres.client import Session
from connectors.postgres.names import names_by_source
from connectors.postgres.publish.merge_index import ensure_index, has_index
from connectors.postgres.publish.merge_rules import (
    KEY_FIELD,
    Table,
    TableColumn,
    inspect,
    inspected,
    named,
    refuse,
)

__all__ = ["MODE", "Table", "apply", "ensure_index", "inspect", "prepare", "refuse"]

# Shuts out other writers from the classification to the commit; readers pass.
MODE = "SHARE ROW EXCLUSIVE"

# Enough for a guess at the number of distinct keys.
QUICK_TARGET = 10

# A batch this many times smaller than its target is looked up in the index, as ON CONFLICT would do.
# PostgreSQL, which reckons with disks that seek, would read the whole target: twice the work at a
# tenth of it (measured). Bytes and not rows, as the target may never have been analysed.
INDEX_FROM = 8
_SIZES = """
SELECT coalesce((SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(%(oid)s)), pg_relation_size(%(oid)s)),
       pg_relation_size(to_regclass(%(staging)s))
"""
_LOOK_UP = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
# What a sort and a hash of some 100,000 rows take; with PostgreSQL's own 4 MB they would go through the disk.
_MORE_MEMORY = """
SELECT set_config('work_mem', '64MB', true) WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('64MB')
"""
# Compiling the statement, with nodes for every partition, takes longer than it saves: a second for 60 (measured).
_NO_JIT = "SET LOCAL jit = off"
_AS_BEFORE = "; ".join(
    f"SET LOCAL {name} TO DEFAULT" for name in ("work_mem", "jit", "enable_hashjoin", "enable_mergejoin")
)

# Types without equality, or whose equality hides a difference: 30 days for 1 month, an area for a box.
_COMPARED_AS_TEXT = frozenset({"json", "xml", "interval", "point", "line", "lseg", "box", "path", "polygon", "circle"})


def prepare(session: Session, staging: Target, columns: Sequence[Column], key: Sequence[str], cursor: str) -> int:
    """Analyse the filled staging table and return how many rows it has beyond one for each key.

    Raises ConnectorError, code null_key, if a key is NULL. Comes before any lock on the target.
    """
    keys = [sql.Identifier(name) for name in named(columns, key)]
    table = _name(staging)
    session.execute(
        sql.SQL("SET LOCAL default_statistics_target = {}; ANALYZE {} ({})").format(
            sql.Literal(QUICK_TARGET), table, _comma(keys)
        )
    )
    # k0, k1, ...: a column may be called as the count is.
    given = [sql.Identifier(f"k{i}") for i in range(len(keys))]
    nulls = [sql.SQL("coalesce(sum(n) FILTER (WHERE {} IS NULL), 0)").format(name) for name in given]
    any_null = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(name) for name in given)
    row = session.one(
        sql.SQL(
            "SELECT coalesce(sum(n), 0) - count(*), coalesce(sum(n) FILTER (WHERE {any_null}), 0), {nulls}"
            " FROM (SELECT {keys}, count(*) FROM {table} GROUP BY {keys}) AS found ({given}, n)"
        ).format(any_null=any_null, nulls=_comma(nulls), keys=_comma(keys), table=table, given=_comma(given))
    )
    duplicates, refused, *counts = _row(row)
    if refused:
        where = ", ".join(name for name, count in zip(key, counts, strict=True) if count)
        rows = "1 row has" if refused == 1 else f"{refused} rows have"
        raise ConnectorError(
            f"{rows} NULL in the merge key: {where}.",
            hint="Choose a key that every row has, or leave these rows out with a query.",
            code="null_key",
            field=KEY_FIELD,
        )
    return int(duplicates)


def apply(
    session: Session,
    target: Target,
    staging: Target,
    columns: Sequence[Column],
    key: Sequence[str],
    cursor: str,
    *,
    duplicates: int | None = None,
) -> Changes:
    """Make the target's rows those of the staging table, and count what became of each.

    The caller holds a lock of MODE on the target: nobody else writes between the classification of
    a row and its change. `duplicates` is what `prepare` returned; with 0 no row is sorted. Raises
    ConnectorError, code rows_differ, if a trigger kept rows out.
    """
    table = inspected(session, target)
    session.execute(f"{_NO_JIT}; {_MORE_MEMORY}")
    if _is_small(session, table, staging) and has_index(session, table, named(columns, key)):
        session.execute(_LOOK_UP)
    row = session.one(_statement(target, staging, columns, key, cursor, table, is_unique=duplicates == 0))
    session.execute(_AS_BEFORE)
    updated, inserted, to_update, to_insert, unchanged, stale, staged = _row(row)
    if (updated, inserted) != (to_update, to_insert):
        raise ConnectorError(
            f"{to_insert} rows were to be inserted and {to_update} updated,"
            f" but {target} took {inserted} and {updated}.",
            hint="A trigger on the table may drop rows.",
            code="rows_differ",
            field="table",
        )
    return Changes(
        inserted=inserted,
        updated=updated,
        unchanged=unchanged,
        duplicates=staged - inserted - updated - unchanged - stale,
        stale=stale,
    )


def _is_small(session: Session, table: Table, staging: Target) -> bool:
    staged = errors.quoted(staging.schema, staging.table)
    target_bytes, staged_bytes = _row(session.one(_SIZES, {"oid": table.oid, "staging": staged}))
    return bool(staged_bytes * INDEX_FROM <= target_bytes)


# Each staged row meets the target once, in `met`, which holds places and no values. Rows are then
# fetched by their place, so no key is looked up twice, and rows that stay as they are get no lock
# (ON CONFLICT would write one to each). Counting `changed` first runs the update before the insert:
# a value of another unique column may move from an old row to a new one.
_MERGE = """
WITH met AS MATERIALIZED (
  SELECT s.ctid AS staged_at, t.tableoid AS part, t.ctid AS place,
         CASE WHEN t.ctid IS NULL THEN 'insert' WHEN {is_older} THEN 'stale'
              WHEN {differs} THEN 'update' ELSE 'keep' END AS verdict
  FROM {batch} AS s LEFT JOIN {table} AS t ON {same_key}
), changed AS ({update}), added AS (
  INSERT INTO {into} ({names}) {overriding}
  SELECT {values} FROM met JOIN {staging} AS s ON s.ctid = met.staged_at WHERE met.verdict = 'insert' RETURNING 1
)
SELECT (SELECT count(*) FROM changed), (SELECT count(*) FROM added), verdicts.*, (SELECT count(*) FROM {staging})
FROM (SELECT count(*) FILTER (WHERE verdict = 'update'), count(*) FILTER (WHERE verdict = 'insert'),
             count(*) FILTER (WHERE verdict = 'keep'), count(*) FILTER (WHERE verdict = 'stale') FROM met) AS verdicts
"""
_UPDATE = """
UPDATE {table} AS t SET {assignments}
FROM met JOIN {staging} AS s ON s.ctid = met.staged_at
WHERE met.verdict = 'update' AND t.ctid = met.place{in_its_part} RETURNING 1
"""


def _statement(
    target: Target,
    staging: Target,
    columns: Sequence[Column],
    key: Sequence[str],
    cursor: str,
    table: Table,
    *,
    is_unique: bool,
) -> sql.Composed:
    names = names_by_source(columns).values()
    keys = named(columns, key)
    newest_by = named(columns, [cursor])[0] if cursor else None
    rest = [name for name in names if name not in keys]
    # Rows of a child that merely inherits are not the table's: its unique index does not know them.
    one_table = sql.SQL("{}" if table.kind == "p" else "ONLY {}").format(_name(target))
    older: sql.Composable = sql.SQL("false")
    differs: sql.Composable = sql.SQL("false")
    if newest_by:
        older = _fill("s.{0} < t.{0} OR (s.{0} IS NULL AND t.{0} IS NOT NULL)", newest_by)
    if rest:
        differs = sql.SQL(" OR ").join(_differs(name, table.columns[name]) for name in rest)
    may_collide = any(not table.columns[name].is_deterministic for name in keys)
    batch = _name(staging) if is_unique and not may_collide else _newest(staging, keys, newest_by, table)
    values = [_fill("s.{0}", name) for name in names]
    return sql.SQL(_MERGE).format(
        is_older=older,
        differs=differs,
        batch=batch,
        table=one_table,
        into=_name(target),
        staging=_name(staging),
        same_key=_same(keys, table),
        update=_update(one_table, staging, keys, rest, table),
        names=_comma([sql.Identifier(name) for name in names]),
        values=_comma(values),
        overriding=sql.SQL(
            "OVERRIDING SYSTEM VALUE" if any(table.columns[name].is_identity_always for name in keys) else ""
        ),
    )


def _update(
    one_table: sql.Composable, staging: Target, keys: Sequence[str], rest: Sequence[str], table: Table
) -> sql.Composable:
    if not rest:
        return sql.SQL("SELECT WHERE false")
    # A place is unique in its partition only; the key lets PostgreSQL look in no other.
    in_its_part = sql.SQL(" AND t.tableoid = met.part AND {}").format(_same(keys, table)) if table.kind == "p" else None
    return sql.SQL(_UPDATE).format(
        table=one_table,
        staging=_name(staging),
        assignments=_comma([_fill("{0} = s.{0}", name) for name in rest]),
        in_its_part=in_its_part or sql.SQL(""),
    )


def _newest(staging: Target, keys: Sequence[str], cursor: str | None, table: Table) -> sql.Composed:
    """One row for each key: the newest, and of equally new ones the last in the staging table."""
    by = _comma([_key("{0}", name, table) for name in keys])
    newest = _fill("{0} DESC NULLS LAST, ", cursor) if cursor else sql.SQL("")
    return sql.SQL("(SELECT DISTINCT ON ({by}) *, ctid FROM {staging} ORDER BY {by}, {newest}ctid DESC)").format(
        by=by, staging=_name(staging), newest=newest
    )


def _same(keys: Sequence[str], table: Table) -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(_fill("t.{0}", name), _key("s.{0}", name, table)) for name in keys
    )


def _key(template: str, name: str, table: Table) -> sql.Composed:
    """A key as the target compares it: its collation decides which texts are the same."""
    collation = table.columns[name].collation
    value = _fill(template, name)
    return sql.SQL("{} COLLATE {}").format(value, sql.Identifier(*collation)) if collation else value


def _differs(name: str, column: TableColumn) -> sql.Composed:
    if column.type in _COMPARED_AS_TEXT:
        return _fill("t.{0}::text IS DISTINCT FROM s.{0}::text", name)
    if column.collation:  # byte for byte, whatever the column takes for the same
        return _fill('t.{0} COLLATE "C" IS DISTINCT FROM s.{0} COLLATE "C"', name)
    return _fill("t.{0} IS DISTINCT FROM s.{0}", name)


def _row(row: tuple[Any, ...] | None) -> tuple[Any, ...]:
    if row is None:
        raise RuntimeError("an aggregate always gives a row")
    return row


def _fill(template: str, name: str, *others: sql.Composable) -> sql.Composed:
    return sql.SQL(template).format(sql.Identifier(name), *others)


def _comma(parts: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _name(table: Target) -> sql.Composed:
    return sql.Composed([sql.Identifier(table.schema, table.table)])
