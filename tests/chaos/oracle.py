"""Says whether what a run left behind is what it must be: rows, schema, `applied`, history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

from runs.models import Run
from runs.states import RunStatus
from tests.chaos import history
from tests.chaos.feeds import COLUMNS, Feed, Rows, Verdict, compare

_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_OTHERS = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname <> %s AND c.relkind IN ('r', 'p', 'v', 'm')
"""


@dataclass(frozen=True)
class Place:
    """The target of one pipeline, in a schema of its own."""

    schema: str
    table: str

    @property
    def key(self) -> str:
        return f'"{self.schema}"."{self.table}"'


def rows_of(cursor: Any, place: Place, feed: Feed) -> tuple[Rows, int]:
    """The target's rows, and how many of them have another hash than their own."""
    cursor.execute("SELECT to_regclass(%s)", (place.key,))
    if cursor.fetchone()[0] is None:
        return Rows(), 0
    name = sql.Identifier(place.schema, place.table)
    cursor.execute(
        sql.SQL("SELECT seq, version, change, count(*), count(*) FILTER (WHERE hash IS DISTINCT FROM {}) ").format(
            sql.SQL(feed.hash_in_sql())
        )
        + sql.SQL("FROM {} GROUP BY 1, 2, 3").format(name)
    )
    found, wrong = Rows(), 0
    for seq, version, change, count, strange in cursor.fetchall():
        found[seq, version, change] = count
        wrong += strange
    return found, wrong


def judge(cursor: Any, place: Place, feed: Feed, run: Run, before: Rows) -> tuple[Verdict, Rows]:
    """The verdict on a run that has ended, of a target that held `before`; and what it holds now."""
    found, strange = rows_of(cursor, place, feed)
    cursor.execute("SELECT rows, watermark_after FROM _datamantri.applied WHERE run = %s", (str(run.pk),))
    applied = cursor.fetchone()
    verdict = compare(found, feed.outcomes(before) if applied else [before])
    verdict.wrong += strange
    verdict.told += [*_of_applied(cursor, place, run, applied), *_of_schema(cursor, place, bool(found))]
    verdict.told += history.faults(run)
    return verdict, found


def _of_applied(cursor: Any, place: Place, run: Run, applied: tuple[Any, ...] | None) -> Iterable[str]:
    if (applied is not None) != (run.status == RunStatus.SUCCEEDED):
        yield f"the run is {run.status}, and {'published' if applied else 'not published'}"
    if applied is None:
        return
    if run.receipt is None or run.receipt.get("rows") != applied[0]:
        yield f"the receipt says {run.receipt and run.receipt.get('rows')} rows, `applied` {applied[0]}"
    cursor.execute("SELECT last_run, watermark FROM _datamantri.head WHERE target = %s", (place.key,))
    heads = cursor.fetchall()
    if [(str(last), watermark) for last, watermark in heads] != [(str(run.pk), applied[1])]:
        yield f"`head` is {heads}, after a run that ended at the watermark {applied[1]}"


def _of_schema(cursor: Any, place: Place, has_rows: bool) -> Iterable[str]:
    cursor.execute(_COLUMNS, (place.key,))
    columns = cursor.fetchall()
    if columns != COLUMNS and (columns or has_rows):
        yield f"the columns are {columns}"
    cursor.execute(_OTHERS, (place.schema, place.table))
    others = [name for (name,) in cursor.fetchall()]
    if others:
        yield f"left behind: {', '.join(others)}"


def published(cursor: Any, pipeline: Any) -> Counter[str]:
    """How often each run of a pipeline stands in `applied`."""
    cursor.execute("SELECT run::text FROM _datamantri.applied WHERE pipeline = %s", (str(pipeline),))
    return Counter(run for (run,) in cursor.fetchall())
