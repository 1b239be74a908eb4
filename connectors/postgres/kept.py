"""Former tables: what a target held before it was replaced, kept beside it under a reserved name.

A kept table is either the former table itself, renamed, or a copy made before rows were changed in place. The
record of it is written, and older ones are dropped, in the transaction that replaces: it is there if and only if
the table that takes its place is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg2
from psycopg2 import errorcodes, sql

from connectors.base import Reporter
from connectors.former import FormerState
from connectors.postgres import control, readers, snapshots
from connectors.postgres.client import Session
from connectors.postgres.control_schema import SCHEMA
from connectors.postgres.names import shorten
from connectors.postgres.publish.existing import Existing
from connectors.writing import Fence, Target, Watermark

# What dropping a kept table that somebody reads may wait for: the next publish tries again.
DROP_TRY_MS = 200
_IN_USE = (
    errorcodes.LOCK_NOT_AVAILABLE,
    errorcodes.INSUFFICIENT_PRIVILEGE,
    errorcodes.DEPENDENT_OBJECTS_STILL_EXIST,
)


@dataclass(frozen=True)
class Kept:
    """A former state of a target, put aside by `run`; it is as `made_by` left it (None: it was there before us).

    `head` is the row of `head` as it was. `columns` are names with types, `names` what its indexes and partitions were
    called, by what they are called now; a copy has none. `key` are the columns by which its rows are known, in
    PostgreSQL's names. `rows` is counted for a copy, else PostgreSQL's estimate, None where there is none;
    `made_rows` are those of a run that had written all of them.
    """

    run: UUID
    target: Target
    table: Target
    oid: int
    is_copy: bool
    made_by: UUID | None
    head: Mapping[str, Any]
    key: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    names: Mapping[str, str]
    rows: int | None
    bytes: int
    kept_at: datetime
    made_rows: int | None = None

    @property
    def watermark(self) -> Watermark:
        return Watermark(self.head.get("watermark") or "", self.head.get("watermark_rows"))

    @property
    def fingerprint(self) -> str:
        return str(self.head.get("fingerprint") or "")


@dataclass(frozen=True)
class Totals:
    """How many former states of a target are kept, and the bytes that they took when they were put aside."""

    tables: int
    bytes: int

    def to_json(self) -> dict[str, int]:
        return {"tables": self.tables, "bytes": self.bytes}


def table_of(target: Target, run: UUID) -> Target:
    """Where what `run` puts aside is kept."""
    return Target(target.schema, f"_datamantri_kept_{run.hex}")


# The columns that can be written, in order.
_COLUMNS = """
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum
"""
SIZE = """
SELECT sum(pg_total_relation_size(t.oid))::bigint
FROM (SELECT to_regclass(%(table)s)::oid UNION SELECT relid FROM pg_partition_tree(to_regclass(%(table)s))) t (oid)
"""
# Indexes and partitions of a table, and who may do what to them. What is a part of a constraint is renamed with it.
_PARTS = """
SELECT x.relname, x.relkind IN ('i', 'I'),
       ARRAY(SELECT DISTINCT CASE grantee WHEN 0 THEN '' ELSE pg_get_userbyid(grantee) END
             FROM aclexplode(x.relacl) WHERE grantee <> x.relowner)
FROM (SELECT %(oid)s::oid AS oid UNION SELECT relid FROM pg_partition_tree(%(oid)s::oid)) t
CROSS JOIN LATERAL (SELECT t.oid UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid = t.oid) o (oid)
JOIN pg_class x ON x.oid = o.oid
WHERE x.oid <> %(oid)s::oid ORDER BY 2, 1
"""


def columns_of(session: Session, oid: int) -> tuple[tuple[str, str], ...]:
    """Names and types of a table's columns that can be written, in their order."""
    return tuple((name, type_) for name, type_ in session.execute(_COLUMNS, (oid,)).fetchall())


def put_aside(
    session: Session, target: Target, old: Existing, aside: Target
) -> tuple[list[sql.Composable], dict[str, str]]:
    """Statements that give a table another name, and its indexes and partitions as well, and take it from its readers.

    Also what each of those was called, by its new name. The caller has the table locked against everyone.
    """
    parts = session.execute(_PARTS, {"oid": old.oid}).fetchall()
    statements: list[sql.Composable] = [_rename(target.schema, target.table, aside.table)]
    names: dict[str, str] = {}
    kept_from: dict[str, set[str]] = {aside.table: {name for name, _, _ in old.grants}}
    kept_from[aside.table] |= {name for grants in old.column_grants.values() for name, _, _ in grants}
    for number, (name, is_index, grantees) in enumerate(parts):
        now = shorten(f"{aside.table}_{number}")
        names[now] = name
        statements.append(_rename(target.schema, name, now))
        if not is_index:
            kept_from[now] = set(grantees)
    for name, roles in kept_from.items():
        # Nobody is to read what was taken back, or what a newer definition masks, by its other name.
        if others := sorted(roles - {old.owner}):
            statements.append(readers.revoke(Target(aside.schema, name), others))
    return statements, names


def take_out(target: Target, kept: Kept, free: Mapping[str, str]) -> list[sql.Composable]:
    """Statements that give a kept table the target's name; `free` are names for its parts, by what they were."""
    return [
        _rename(target.schema, kept.table.table, target.table),
        *(_rename(target.schema, now, free[was]) for now, was in kept.names.items()),
    ]


def _rename(schema: str, name: str, to: str) -> sql.Composed:
    """ALTER TABLE renames indexes as well."""
    return sql.SQL("ALTER TABLE {} RENAME TO {}").format(sql.Identifier(schema, name), sql.Identifier(to))


def copy_aside(session: Session, target: Target, aside: Target) -> int:
    """Copy a table's rows, for its owner alone; says how many. The caller has locked it against writers."""
    here = session.one("SELECT to_regclass(%s)::oid", (control.target_key(target),))
    columns = sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns_of(session, here[0] if here else 0))
    statement = sql.SQL("CREATE TABLE {} AS SELECT {} FROM {}").format(_name(aside), columns, _name(target))
    rows = session.execute(statement).rowcount
    readers.shut_out(session, aside)
    return rows


def record(
    session: Session,
    fence: Fence,
    aside: Target,
    *,
    names: Mapping[str, str],
    is_copy: bool,
    key: Sequence[str],
    rows: int | None = None,
) -> None:
    """Write down what stands at `aside` by now, with the head as it was: the caller has yet to move it."""
    session.execute(
        f"""
        INSERT INTO {SCHEMA}.kept (run, target, target_table, pipeline, schema_name, table_name, oid, is_copy,
                                   made_by, head, key, columns, names, rows, bytes, open_rows, replayed_rows)
        SELECT %(run)s, h.target, %(target_table)s, h.pipeline, %(schema)s, %(table)s, c.oid, %(is_copy)s,
               h.last_run, to_jsonb(h), %(key)s,
               (SELECT coalesce(json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod))
                                         ORDER BY a.attnum), '[]')
                FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
               %(names)s, coalesce(%(rows)s, size.rows), size.bytes,
               -- what this run closed in this transaction was open
               ARRAY(SELECT q.id FROM {SCHEMA}.quarantine q WHERE q.target = h.target
                     AND (q.state = 'open' OR q.decided_run = %(run)s AND q.state IN ('superseded', 'replayed'))),
               ARRAY(SELECT q.id FROM {SCHEMA}.quarantine q WHERE q.target = h.target
                     AND q.state = 'replayed' AND q.decided_run IS DISTINCT FROM %(run)s)
        FROM {SCHEMA}.head h, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL (
            SELECT sum(pg_total_relation_size(x.oid))::bigint AS bytes, sum(nullif(x.reltuples, -1))::bigint AS rows
            FROM (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) t (oid)
            JOIN pg_class x ON x.oid = t.oid) size
        WHERE h.target = %(target)s AND n.nspname = %(schema)s AND c.relname = %(table)s
        """,
        {
            "run": str(fence.owner.run),
            "target": control.target_key(fence.target),
            "target_table": fence.target.table,
            "schema": aside.schema,
            "table": aside.table,
            "is_copy": is_copy,
            "key": list(key),
            "names": json.dumps(dict(names)),
            "rows": rows,
        },
    )


_READ = f"""
SELECT k.run, schema_name, table_name, oid, is_copy, made_by, head, key, columns, names, k.rows, bytes, kept_at, a.rows
FROM {SCHEMA}.kept k
LEFT JOIN {SCHEMA}.applied a ON a.run = k.made_by
  AND a.receipt->>'method' IN ('rename', 'create', 'in_place', 'undo')
WHERE k.target = %s ORDER BY kept_at DESC, k.run
"""


def read(session: Session, target: Target) -> list[Kept]:
    """What is kept of `target`, the newest first."""
    rows = session.execute(_READ, (control.target_key(target),)).fetchall()
    return [_kept(target, *row) for row in rows]


def _kept(target: Target, run: UUID, schema: str, table: str, oid: int, *rest: Any) -> Kept:
    is_copy, made_by, head, key, columns, names, rows, size, kept_at, made_rows = rest
    return Kept(
        *(run, target, Target(schema, table), oid, is_copy, made_by, head),
        tuple(key),
        tuple((name, type_) for name, type_ in columns),
        names,
        rows,
        size,
        kept_at,
        made_rows,
    )


_FORMER = f"""
SELECT k.run, k.schema_name, k.target_table, k.table_name, k.kept_at, k.made_by, coalesce(k.head->>'watermark', ''),
       k.is_copy, c.oid IS NOT NULL, k.rows, coalesce(size.bytes, 0), h.last_run,
       coalesce(k.head->>'fingerprint', '') <> h.fingerprint
FROM {SCHEMA}.kept k JOIN {SCHEMA}.head h ON h.target = k.target
LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
  ON c.oid = k.oid AND n.nspname = k.schema_name AND c.relname = k.table_name
LEFT JOIN LATERAL (SELECT sum(pg_total_relation_size(t.oid))::bigint AS bytes
                   FROM (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) t (oid)) size ON true
WHERE k.pipeline = %s ORDER BY k.target, k.kept_at DESC, k.run
"""


def former_states(session: Session, pipeline: UUID) -> list[FormerState]:
    """What is kept of a pipeline's targets, without touching anything; of each, the newest first."""
    there = session.one(f"SELECT to_regclass('{SCHEMA}.kept') IS NOT NULL")
    if there is None or not there[0]:
        return []
    rows = session.execute(_FORMER, (str(pipeline),)).fetchall()
    return [FormerState(run, Target(schema, table), *rest) for run, schema, table, *rest in rows]


def totals(session: Session, target: Target) -> Totals:
    """How much is kept of `target`."""
    row = session.one(
        f"SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM {SCHEMA}.kept WHERE target = %s",
        (control.target_key(target),),
    )
    return Totals(*row) if row else Totals(0, 0)


def older_snapshots(session: Session, kept: Kept) -> snapshots.Held:
    """The snapshots of others that may not see all rows of a kept table: they were committed before its record was."""
    row = session.one(f"SELECT age(xmin) FROM {SCHEMA}.kept WHERE run = %s", (str(kept.run),))
    ages = session.execute("SELECT pid, age(backend_xmin) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL")
    old = {pid for pid, age in ages.fetchall() if row is not None and age >= row[0]}
    return frozenset(held for held in snapshots.now_held(session) if held[0] in old)


def is_there(session: Session, kept: Kept) -> bool:
    """Whether the kept table stands where it was put."""
    row = session.one(
        """
        SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                       WHERE c.oid = %s AND n.nspname = %s AND c.relname = %s)
        """,
        (kept.oid, kept.table.schema, kept.table.table),
    )
    return bool(row and row[0])


def forget(session: Session, kept: Kept) -> None:
    """Take a kept table's record away."""
    session.execute(f"DELETE FROM {SCHEMA}.kept WHERE run = %s", (str(kept.run),))


def prune(session: Session, target: Target, most: int, reporter: Reporter) -> Totals:
    """Drop what is kept of `target` beyond the newest `most`, as far as nobody is in the way; says what stays.

    Part of the caller's transaction. What somebody reads at the moment is left to the next publish: a target's
    readers are not to wait for it.
    """
    found = read(session, target)
    left = found[:most]
    for kept in found[most:]:
        if not (why := drop(session, kept)):
            reporter.log("info", f"Dropped {kept.table}, kept since {kept.kept_at:%Y-%m-%d %H:%M} UTC.")
        else:
            reporter.log("warning", f"{kept.table} was to go and stays until the next run: {why}.")
            left.append(kept)
    return Totals(len(left), sum(kept.bytes for kept in left))


def count(session: Session, kept: Kept) -> tuple[int, int]:
    """The rows of a kept table, and how many of them somebody wrote after it was put aside.

    Those have a later transaction than the record of it.
    """
    statement = sql.SQL(
        "SELECT count(*), count(*) FILTER (WHERE age(t.xmin) >= 0 AND age(t.xmin) < aside.age)"
        " FROM {} AS t, (SELECT age(xmin) AS age FROM {} WHERE run = %s) AS aside"
    ).format(_name(kept.table), sql.Identifier(SCHEMA, "kept"))
    row = session.one(statement, (str(kept.run),))
    return (row[0], row[1]) if row else (0, 0)


def drop(session: Session, kept: Kept) -> str:
    """Drop a kept table and its record, unless somebody is in the way; says why not."""
    session.execute("SAVEPOINT drop_kept")
    try:
        if is_there(session, kept):
            before = f"SET LOCAL lock_timeout = {DROP_TRY_MS}"
            session.execute(sql.SQL("{}; DROP TABLE {}").format(sql.SQL(before), _name(kept.table)))
        forget(session, kept)
    except psycopg2.Error as error:
        if error.pgcode not in _IN_USE:
            raise
        session.execute("ROLLBACK TO SAVEPOINT drop_kept")
        return str(error.diag.message_primary or error).strip()
    session.execute("RELEASE SAVEPOINT drop_kept")
    return ""


def _name(table: Target) -> sql.Composable:
    return sql.Identifier(table.schema, table.table)
