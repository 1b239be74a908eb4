"""Replace in place: the table stays, its rows are brought to the new state by difference.

In order: refuse, (COPY into the staging table), prepare, (lock), apply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg2
from psycopg2 import errorcodes, sql

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres.client import Session
from connectors.postgres.names import names_by_source
from connectors.postgres.publish.difference import Difference, aliased, comma, relation
from connectors.postgres.publish.in_place_rules import KEY_FIELD, describe, refuse
from connectors.writing import Changes, Target

__all__ = ["MODE", "apply", "describe", "prepare", "refuse"]

# Shuts out other writers, VACUUM FULL and changes of form while rows are known by their place; readers pass.
MODE = "SHARE ROW EXCLUSIVE"

# Enough for the planner to tell a large table from a small one.
QUICK_TARGET = 10

_TAKEN = (errorcodes.UNIQUE_VIOLATION, errorcodes.EXCLUSION_VIOLATION)
_POINTED_AT = (errorcodes.FOREIGN_KEY_VIOLATION, errorcodes.RESTRICT_VIOLATION)


def prepare(session: Session, staging: Target, columns: Sequence[Column], key: Sequence[str]) -> None:
    """Analyse the filled staging table, and refuse keys that do not tell its rows apart.

    Raises ConnectorError, codes null_key and key_not_unique. Comes before any lock on the target.
    """
    table = relation(staging)
    sample = sql.SQL("SET LOCAL default_statistics_target = {}; ANALYZE {}")
    session.execute(sample.format(sql.Literal(QUICK_TARGET), table))
    if not key:
        return
    names = names_by_source(columns)
    keys = [sql.Identifier(names[source]) for source in key]
    null = sql.SQL(" OR ".join(f"k{i} IS NULL" for i in range(len(keys))))
    nulls, keys_twice, rows_twice = _row(
        session,
        sql.SQL(
            "SELECT coalesce(sum(n) FILTER (WHERE {null}), 0), count(*) FILTER (WHERE n > 1 AND NOT ({null})),"
            " coalesce(sum(n) FILTER (WHERE n > 1 AND NOT ({null})), 0)"
            " FROM (SELECT {keys}, count(*) AS n FROM {table} GROUP BY {names}) AS g"
        ).format(null=null, keys=aliased("k", keys), names=comma(keys), table=table),
    )
    which = ", ".join(key)
    if nulls:
        raise ConnectorError(
            f"{_rows(nulls)} NULL in the key ({which}).",
            hint="Choose a key that every row has, or leave these rows out with a query.",
            code="null_key",
            field=KEY_FIELD,
        )
    if keys_twice:
        raise ConnectorError(
            f"{_rows(rows_twice)} a key ({which}) that is there more than once; {keys_twice} keys are.",
            hint="Choose columns that tell all rows apart, or name no key: whole rows are compared then.",
            code="key_not_unique",
            field=KEY_FIELD,
        )


def apply(
    session: Session,
    target: Target,
    staging: Target,
    columns: Sequence[Column],
    key: Sequence[str],
    *,
    allow: Callable[[Changes], None] = lambda changes: None,
) -> Changes:
    """Make the rows of `target` those of `staging`; rows that are the same already are not touched.

    With a key, a row keeps its identity: it is updated, and columns that the source lacks keep their
    values. Without one, whole rows are compared, as often as they are there; a row that differs is
    removed and another made. The caller holds a lock of MODE on the target. `allow` sees what will be done
    before it is, and may raise what forbids it. Raises ConnectorError, codes
    rows_referenced and rows_differ; psycopg2.Error if PostgreSQL refuses a row.
    """
    difference = Difference.of(session, target, staging, columns, key)
    difference.find(session)
    changes = _write(session, difference, allow)
    session.execute(sql.SQL("DROP TABLE {}").format(difference.table))
    return changes


def _write(session: Session, difference: Difference, allow: Callable[[Changes], None]) -> Changes:
    """Do what the difference says, and see that it was done."""
    deleted, inserted, updated, rows = _row(
        session,
        sql.SQL(
            "SELECT count(*) FILTER (WHERE new_row IS NULL), count(*) FILTER (WHERE old_row IS NULL),"
            " count(*) FILTER (WHERE old_row IS NOT NULL AND new_row IS NOT NULL), (SELECT count(*) FROM {})"
            " FROM {}"
        ).format(relation(difference.staging), difference.table),
    )
    changes = Changes(inserted, updated, rows - inserted - updated, deleted)
    allow(changes)
    if not deleted + inserted + updated:
        return changes
    done = _try_to_write(session, difference, moving=False)
    if done != (deleted, updated, inserted):
        raise ConnectorError(
            f"{deleted} rows of {difference.target} were to be deleted, {updated} updated and {inserted} inserted,"
            f" but it was {done[0]}, {done[1]} and {done[2]}.",
            hint="A trigger on the table may drop rows.",
            code="rows_differ",
            field="table",
        )
    return changes


def _try_to_write(session: Session, difference: Difference, *, moving: bool) -> tuple[int, ...]:
    """Write under a savepoint; on a collision once more, `moving` the rows that may collide.

    An update of many rows trips over a unique value that another row is only about to give up.
    """
    session.execute("SAVEPOINT in_place")
    try:
        done = _row(session, difference.statement(moving=moving))
        session.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what was put off to the commit speaks now
    except psycopg2.Error as error:
        if error.pgcode in _TAKEN and difference.unique and difference.key and not moving:
            session.execute("ROLLBACK TO SAVEPOINT in_place; RELEASE SAVEPOINT in_place")
            return _try_to_write(session, difference, moving=True)
        if error.pgcode in _POINTED_AT:
            session.execute("ROLLBACK TO SAVEPOINT in_place")
            plain = _still_referenced(session, difference, error)
            if plain is not None:
                raise plain from error
        raise
    session.execute("RELEASE SAVEPOINT in_place")
    return done


def _still_referenced(session: Session, difference: Difference, error: psycopg2.Error) -> ConnectorError | None:
    """What a foreign key's refusal means, if it is one of another table's that points at ours."""
    about = {
        "schema": difference.target.schema,
        "table": difference.target.table,
        "constraint": error.diag.constraint_name,
        "by_schema": error.diag.schema_name,
        "by_table": error.diag.table_name,
    }
    found = session.one(_REFERENCE, about)
    if found is None:
        return None
    may_count, theirs, ours = found
    by = Target(str(error.diag.schema_name), str(error.diag.table_name))
    rows = _count_referenced(session, difference, by, theirs, ours) if may_count else 0
    number = {0: "rows", 1: "1 row"}.get(rows, f"{rows} rows")
    return ConnectorError(
        f"{by} still refers to {number} of {difference.target} that the source no longer has"
        f" (constraint {error.diag.constraint_name}).",
        hint=f"Remove or change those rows of {by} first, or drop the foreign key.",
        code="rows_referenced",
        field="table",
    )


def _count_referenced(
    session: Session, difference: Difference, by: Target, theirs: Sequence[str], ours: Sequence[str]
) -> int:
    """Rows of the target that `by` refers to and that the staging table has not, as far as it has these columns."""
    referring = _equal("f", theirs, ours)
    if set(ours) <= set(difference.columns):
        going = sql.SQL("NOT EXISTS (SELECT FROM {} AS s WHERE {})").format(
            relation(difference.staging), _equal("s", ours, ours)
        )
    else:
        going = sql.SQL(
            "EXISTS (SELECT FROM {} AS d WHERE d.new_row IS NULL AND t.tableoid = d.old_table AND t.ctid = d.old_row)"
        ).format(difference.table)
    query = sql.SQL("SELECT count(*) FROM {} AS t WHERE EXISTS (SELECT FROM {} AS f WHERE {}) AND {}")
    return _row(session, query.format(relation(difference.target), relation(by), referring, going))[0]


_REFERENCE = """
WITH c AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = %(schema)s AND c.relname = %(table)s),
tree AS (SELECT oid FROM c UNION SELECT relid FROM c, pg_partition_tree(c.oid))
SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(r.oid, 'SELECT'),
       ARRAY(SELECT attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place)
             JOIN pg_attribute ON attrelid = k.conrelid AND attnum = number ORDER BY place),
       ARRAY(SELECT attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u (number, place)
             JOIN pg_attribute ON attrelid = k.confrelid AND attnum = number ORDER BY place)
FROM pg_constraint k JOIN pg_class r ON r.oid = k.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE k.contype = 'f' AND k.conname = %(constraint)s AND n.nspname = %(by_schema)s AND r.relname = %(by_table)s
  AND k.confrelid IN (SELECT oid FROM tree) AND k.conrelid NOT IN (SELECT oid FROM tree)
"""


def _equal(other: str, theirs: Sequence[str], ours: Sequence[str]) -> sql.Composed:
    """As texts, for the types and collations of the two ends may differ."""
    return sql.SQL(" AND ").join(
        sql.SQL('{}::text COLLATE "C" = {}::text COLLATE "C"').format(
            sql.Identifier(other, their), sql.Identifier("t", our)
        )
        for their, our in zip(theirs, ours, strict=True)
    )


def _row(session: Session, query: sql.Composable) -> tuple[int, ...]:
    row = session.one(query)
    if row is None:
        raise RuntimeError("an aggregate has one row")
    return tuple(map(int, row))


def _rows(count: int) -> str:
    return "1 row has" if count == 1 else f"{count} rows have"
