"""The unique index that a merge finds rows by."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg2
from psycopg2 import errorcodes

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres import errors
from connectors.postgres.client import Session
from connectors.postgres.names import free_name
from connectors.postgres.publish import indexes
from connectors.postgres.publish.merge_rules import KEY_FIELD, Table, inspected, named
from connectors.writing import Target

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
    index = free_name(session, target.schema, "_".join((target.table, *keys, "key")))
    create = f"CREATE UNIQUE INDEX {errors.quoted(index)} ON {errors.quoted(target.schema, target.table)} (" + (
        ", ".join(errors.quoted(name) for name in keys) + ")"
    )
    session.execute("SAVEPOINT make_index")
    try:
        session.execute(f"{create}; COMMENT ON INDEX {errors.quoted(target.schema, index)} IS '{indexes.MARK}'")
    except psycopg2.Error as error:
        if error.pgcode not in (
            errorcodes.UNIQUE_VIOLATION,
            errorcodes.INSUFFICIENT_PRIVILEGE,
            errorcodes.PROGRAM_LIMIT_EXCEEDED,
        ):
            raise
        session.execute("ROLLBACK TO SAVEPOINT make_index")
        if error.pgcode == errorcodes.UNIQUE_VIOLATION:
            raise indexes.not_unique(
                session, target, keys, "The merge key", str(target), KEY_FIELD, only=table.kind != "p"
            ) from error
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
