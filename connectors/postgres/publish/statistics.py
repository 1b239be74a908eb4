"""What PostgreSQL plans queries of a target by."""

from __future__ import annotations

from psycopg2 import sql

from connectors.postgres.client import Session
from connectors.target_options import Analyze
from connectors.writing import Target

# Below this PostgreSQL's own guesses are good enough, and ANALYZE would be most of a small run.
ANALYZE_ROWS = 1000
# A quick sample, unless the load took so long that a full one does not count. Autovacuum takes a full
# one soon after the commit in any case: the rows of this transaction still count as changes.
QUICK_TARGET = 10
FULL_AFTER_S = 20.0


def take(session: Session, table: Target, how: Analyze, rows: int, load_s: float) -> None:
    """Analyse a new table of so many rows, whose load took so many seconds."""
    if how is Analyze.FULL or (how is Analyze.QUICK and rows >= ANALYZE_ROWS):
        quick = how is Analyze.QUICK and load_s < FULL_AFTER_S
        sample = f"SET LOCAL default_statistics_target = {QUICK_TARGET}; " if quick else ""
        name = sql.Identifier(table.schema, table.table)
        session.execute(sql.SQL("{}ANALYZE {}").format(sql.SQL(sample), name))


def take_in_full(session: Session, table: Target, how: Analyze) -> None:
    """Analyse a table that stays, if a person asked for it."""
    if how is Analyze.FULL:
        session.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table.schema, table.table)))
