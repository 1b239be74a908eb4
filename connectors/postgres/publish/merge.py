"""Merge: rows that differ are updated, new ones inserted, equal ones and those the target has newer are not touched.

In order: refuse, ensure_index, (COPY into the staging table), prepare, (lock), apply.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import sql

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres.client import Session
from connectors.postgres.names import names_by_source
from connectors.postgres.publish.fragments import comma, differs, fill, newest, one_row, relation, same_key
from connectors.postgres.publish.merge_index import ensure_index, has_index
from connectors.postgres.publish.merge_rules import (
    KEY_FIELD,
    Table,
    inspect,
    inspected,
    named,
    refuse,
)
from connectors.postgres.publish.tuning import is_small, tuned
from connectors.writing import Changes, Target

__all__ = ["MODE", "Table", "apply", "ensure_index", "inspect", "prepare", "refuse"]

# Shuts out other writers from the classification to the commit; readers pass.
MODE = "SHARE ROW EXCLUSIVE"

# Enough for a guess at the number of distinct keys.
QUICK_TARGET = 10


def prepare(session: Session, staging: Target, columns: Sequence[Column], key: Sequence[str], cursor: str) -> int:
    """Analyse the filled staging table and return how many rows it has beyond one for each key.

    Raises ConnectorError, code null_key, if a key is NULL. Comes before any lock on the target.
    """
    keys = [sql.Identifier(name) for name in named(columns, key)]
    table = relation(staging)
    session.execute(
        sql.SQL("SET LOCAL default_statistics_target = {}; ANALYZE {} ({})").format(
            sql.Literal(QUICK_TARGET), table, comma(keys)
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
        ).format(any_null=any_null, nulls=comma(nulls), keys=comma(keys), table=table, given=comma(given))
    )
    duplicates, refused, *counts = one_row(row)
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
    table: Table | None = None,
) -> Changes:
    """Make the target's rows those of the staging table, and count what became of each.

    The caller holds a lock of MODE on the target: nobody else writes between the classification of
    a row and its change. `duplicates` is what `prepare` returned; with 0 no row is sorted. `table` is what
    `inspect` says, where that is known. Raises
    ConnectorError, code rows_differ, if a trigger kept rows out.
    """
    table = table or inspected(session, target)
    with tuned(session, looks_up=is_small(session, table, staging) and has_index(session, table, named(columns, key))):
        row = session.one(_statement(target, staging, columns, key, cursor, table, is_unique=duplicates == 0))
    updated, inserted, to_update, to_insert, unchanged, stale, staged = one_row(row)
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
    one_table = sql.SQL("{}" if table.kind == "p" else "ONLY {}").format(relation(target))
    older: sql.Composable = sql.SQL("false")
    changed: sql.Composable = sql.SQL("false")
    if newest_by:
        older = fill("s.{0} < t.{0} OR (s.{0} IS NULL AND t.{0} IS NOT NULL)", newest_by)
    if rest:
        changed = sql.SQL(" OR ").join(differs(name, table.columns[name]) for name in rest)
    may_collide = any(not table.columns[name].is_deterministic for name in keys)
    batch = relation(staging) if is_unique and not may_collide else newest(staging, keys, newest_by, table)
    values = [fill("s.{0}", name) for name in names]
    return sql.SQL(_MERGE).format(
        is_older=older,
        differs=changed,
        batch=batch,
        table=one_table,
        into=relation(target),
        staging=relation(staging),
        same_key=same_key(keys, table),
        update=_update(one_table, staging, keys, rest, table),
        names=comma([sql.Identifier(name) for name in names]),
        values=comma(values),
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
    in_its_part = (
        sql.SQL(" AND t.tableoid = met.part AND {}").format(same_key(keys, table)) if table.kind == "p" else None
    )
    return sql.SQL(_UPDATE).format(
        table=one_table,
        staging=relation(staging),
        assignments=comma([fill("{0} = s.{0}", name) for name in rest]),
        in_its_part=in_its_part or sql.SQL(""),
    )
