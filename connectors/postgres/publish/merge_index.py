"""The unique index that a merge finds rows by."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg2
from psycopg2 import errorcodes, sql

from connectors.base import Column, Target
from connectors.errors import ConnectorError
from connectors.postgres import errors
from connectors.postgres.client import Session
from connectors.postgres.names import shorten
from connectors.postgres.publish.merge_rules import KEY_FIELD, Table, inspected, named

EXAMPLES = 3
EXAMPLE_LENGTH = 100

_UNIQUE_INDEX = """
SELECT i.indexrelid
FROM pg_index i
JOIN pg_class ic ON ic.oid = i.indexrelid
JOIN pg_am am ON am.oid = ic.relam
WHERE i.indrelid = %(oid)s AND i.indisunique AND i.indisvalid AND i.indisready AND am.amname = 'btree'
  AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = cardinality(%(names)s)
  AND (SELECT bool_and(a.attname = ANY(%(names)s) AND i.indcollation[k] = a.attcollation AND o.opcdefault)
       FROM generate_series(0, i.indnkeyatts - 1) AS k
       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k]
       JOIN pg_opclass o ON o.oid = i.indclass[k])
"""


def has_index(session: Session, table: Table, keys: Sequence[str]) -> bool:
    """Whether a unique index stands on exactly these columns, in any order."""
    return session.one(_UNIQUE_INDEX, {"oid": table.oid, "names": list(keys)}) is not None


def ensure_index(session: Session, target: Target, columns: Sequence[Column], key: Sequence[str]) -> str:
    """Find or make the unique index on the key; returns a remark for the log if it was made.

    Making it shuts out writers until the transaction ends. Raises ConnectorError if keys of the
    target are not unique, or if the role may not make the index.
    """
    table = inspected(session, target)
    keys = named(columns, key)
    if has_index(session, table, keys):
        return ""
    index = _free_name(session, target, keys)
    create = f"CREATE UNIQUE INDEX {errors.quoted(index)} ON {errors.quoted(target.schema, target.table)} (" + (
        ", ".join(errors.quoted(name) for name in keys) + ")"
    )
    session.execute("SAVEPOINT make_index")
    try:
        session.execute(create)
    except psycopg2.Error as error:
        if error.pgcode not in (
            errorcodes.UNIQUE_VIOLATION,
            errorcodes.INSUFFICIENT_PRIVILEGE,
            errorcodes.PROGRAM_LIMIT_EXCEEDED,
        ):
            raise
        session.execute("ROLLBACK TO SAVEPOINT make_index")
        if error.pgcode == errorcodes.UNIQUE_VIOLATION:
            raise _not_unique(session, target, table, keys) from error
        if error.pgcode == errorcodes.PROGRAM_LIMIT_EXCEEDED:
            raise ConnectorError(
                f"A merge key in {target} is too long for an index, which takes about 2,700 bytes.",
                hint="Choose a shorter key, such as a hash of it made in a query.",
                code="key_too_long",
                field=KEY_FIELD,
            ) from error
        raise ConnectorError(
            f"A merge into {target} needs a unique index on {', '.join(keys)}, which {session.role} may not make.",
            hint=f"Let the owner of the table run: {create};",
            code="missing_grant",
            field="table",
        ) from error
    session.execute("RELEASE SAVEPOINT make_index")
    return f"Made the unique index {index} on {target} ({', '.join(keys)}), which finds rows by their key."


def _not_unique(session: Session, target: Target, table: Table, keys: Sequence[str]) -> ConnectorError:
    names = [sql.Identifier(name) for name in keys]
    given = [sql.Identifier(f"k{i}") for i in range(len(keys))]
    query = """
    WITH twice ({given}, n) AS (
      SELECT {keys}, count(*) FROM {only} {table} WHERE {not_null} GROUP BY {keys} HAVING count(*) > 1
    )
    SELECT count(*) OVER (), sum(n) OVER (), n, {texts} FROM twice ORDER BY n DESC, {given} LIMIT {limit}
    """
    comma = sql.SQL(", ")
    found = session.execute(
        sql.SQL(query).format(
            given=comma.join(given),
            keys=comma.join(names),
            only=sql.SQL("" if table.kind == "p" else "ONLY"),
            table=sql.Identifier(target.schema, target.table),
            not_null=sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(name) for name in names),
            texts=comma.join(sql.SQL("left({}::text, {})").format(name, sql.Literal(EXAMPLE_LENGTH)) for name in given),
            limit=sql.Literal(EXAMPLES),
        )
    ).fetchall()
    many, rows = found[0][:2]
    examples = "; ".join(
        ", ".join(f"{name} = {value}" for name, value in zip(keys, values, strict=True)) + f" ({n} rows)"
        for _, _, n, *values in found
    )
    return ConnectorError(
        f"The merge key is not unique in {target}: {many} {'key has' if many == 1 else 'keys have'} {rows} rows,"
        f" such as {examples}.",
        hint="Choose a key that tells rows apart, or clean the table; a run with replace loads it anew.",
        code="key_not_unique",
        field=KEY_FIELD,
    )


def _free_name(session: Session, target: Target, keys: Sequence[str]) -> str:
    """A name for the index that follows from table and key, numbered if something else has it."""
    stem = "_".join((target.table, *keys, "key"))
    names = [shorten(stem), *(shorten(f"{stem}_{number}") for number in range(2, 10))]
    taken = session.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = ANY(%s)",
        (target.schema, names),
    )
    there = {name for (name,) in taken.fetchall()}
    return next((name for name in names if name not in there), names[0])
