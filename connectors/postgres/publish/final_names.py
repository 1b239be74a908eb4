"""What a new table's keys, indexes and partitions are called once it stands in the old one's place.

Until then they have names of the run's own. The names they get follow from the table's, so they are the same
after each replace; the old table's are free again, as it is dropped before.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from psycopg2 import sql

from connectors.errors import ConnectorError
from connectors.postgres.client import Session
from connectors.postgres.names import MAX_BYTES, shorten, taken_names
from connectors.postgres.publish.indexes import Wanted, temporary_name
from connectors.writing import Target

# Partitions of the new table with their indexes, and what each of those belongs to; constraints that say
# NOT NULL have names of their own from PostgreSQL 18 on.
_PARTS = """
SELECT p.relname, x.relname, r.relname
FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhrelid
LEFT JOIN (pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class r ON r.oid = pg_partition_root(x.oid))
  ON i.indrelid = p.oid
WHERE h.inhparent = %(oid)s ORDER BY 1, 2
"""
_NOT_NULLS = """
SELECT k.conname, a.attname FROM pg_constraint k
JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
WHERE k.conrelid = %(oid)s AND k.contype = 'n' ORDER BY 1
"""


def renames(
    session: Session, target: Target, new: Target, asked: Sequence[Wanted], *, new_oid: int, old_oid: int | None
) -> list[sql.Composable]:
    """Statements for after the old table was dropped and the new one took its name.

    Raises ConnectorError, code name_taken, if every name that would do is something else's.
    """
    roots = {temporary_name(new, number): one for number, one in enumerate(asked)}
    tables: dict[str, str] = {}  # wished names by present ones
    indexes = {name: f"{target.table}_{one.ending}" for name, one in roots.items()}
    for part, index, root in session.execute(_PARTS, {"oid": new_oid}).fetchall():
        wished = tables.setdefault(part, target.table + part.removeprefix(new.table))
        if index is not None:
            indexes[index] = f"{wished}_{roots[root].ending}"
    free = free_names(session, target.schema, [*tables.values(), *indexes.values()], old_oid)
    statements: list[sql.Composable] = [
        sql.SQL("ALTER {} {} RENAME TO {}").format(
            sql.SQL(kind), sql.Identifier(target.schema, name), sql.Identifier(free[wished])
        )
        for kind, names in (("TABLE", tables), ("INDEX", indexes))
        for name, wished in names.items()
    ]
    for constraint, column in session.execute(_NOT_NULLS, {"oid": new_oid}).fetchall():
        final = shorten(f"{target.table}_{column}_not_null")
        statements.append(
            sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}").format(
                sql.Identifier(target.schema, target.table), sql.Identifier(constraint), sql.Identifier(final)
            )
        )
    return statements


def parts(session: Session, oid: int) -> list[str]:
    """The names of a table's partitions."""
    rows = session.execute(
        "SELECT relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = %s", (oid,)
    )
    return [name for (name,) in rows.fetchall()]


def free_names(session: Session, schema: str, wished: Sequence[str], old_oid: int | None) -> dict[str, str]:
    """A free name for each of `wished`, which all differ: that one, shortened, or with a number."""
    besides = [] if old_oid is None else [old_oid]
    found: dict[str, str] = {}
    for number in count(1):
        left = {name: shorten(name if number == 1 else f"{name}_{number}") for name in wished if name not in found}
        if not left:
            return found
        if number > MAX_BYTES:
            name = next(iter(left))
            raise ConnectorError(f"Too many relations are called {name}_2, {name}_3, …", code="name_taken")
        taken = taken_names(session, schema, list(left.values()), besides=besides) | set(found.values())
        for name, candidate in left.items():
            if candidate not in taken:
                found[name] = candidate
                taken.add(candidate)
    raise AssertionError("numbers never run out")
