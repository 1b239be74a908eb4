"""A new table whose rows were written frozen, written once more without those that were taken out of it.

A frozen row is seen by every snapshot. Those that a check puts aside are deleted in the transaction that wrote them,
so a snapshot older than its commit would see them in the table all the same.
"""

from __future__ import annotations

import tempfile

from psycopg2 import sql

from connectors.base import Reporter
from connectors.postgres.client import Session
from connectors.writing import Target

# Rows pass through this process, and wait in memory up to the one, on disk up to the other.
SPOOL_BYTES = 32 << 20
MOST_BYTES = 2 << 30

_PARTS = """
SELECT n.nspname, c.relname, pg_table_size(c.oid)
FROM (SELECT to_regclass(%(table)s)::oid UNION SELECT relid FROM pg_partition_tree(to_regclass(%(table)s))) t (oid)
JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' ORDER BY 2
"""


def write_again(session: Session, table: Target, reporter: Reporter) -> None:
    """Write the rows that are left again, frozen; the caller's transaction has made the table, and nobody sees it.

    Of a table that is very large this is not done, and said.
    """
    name = sql.Identifier(table.schema, table.table).as_string(session.connection)
    parts = session.execute(_PARTS, {"table": name}).fetchall()
    if sum(size for *_, size in parts) > MOST_BYTES:
        message = "Transactions with a snapshot that is older than the publish see the rows that went into quarantine."
        reporter.log("warning", message)
        return
    for schema, part, _ in parts:
        _write(session, sql.Identifier(schema, part))


def _write(session: Session, part: sql.Composable) -> None:
    cursor = session.connection.cursor()
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as rows:
        cursor.copy_expert(sql.SQL("COPY {} TO STDOUT (FORMAT binary)").format(part), rows)
        rows.seek(0)
        session.execute(sql.SQL("TRUNCATE {}").format(part))
        cursor.copy_expert(sql.SQL("COPY {} FROM STDIN (FORMAT binary, FREEZE)").format(part), rows)
