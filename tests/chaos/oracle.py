"""Says whether what a run left behind is what it must be: rows, schema, `applied`, `head`, history."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from runs.models import LogLine, Run, RunAction, Trigger
from runs.states import RunStatus
from tests.chaos import history
from tests.chaos.feeds import Feed, Rows, Verdict, compare

_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_IS_LOGGED = "SELECT relpersistence = 'p' FROM pg_class WHERE oid = to_regclass(%s)"
# What the target was published last by, and as what it stands in the head.
_HEAD = """
SELECT a.run::text, a.watermark_after, h.last_run::text, h.watermark
FROM (SELECT * FROM _datamantri.applied WHERE target = %(target)s ORDER BY token DESC LIMIT 1) a
FULL JOIN (SELECT * FROM _datamantri.head WHERE target = %(target)s) h USING (target)
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

    @property
    def beside(self) -> str:
        """A schema for what is not the product's."""
        return f"{self.schema}_beside"


@dataclass(frozen=True)
class Seen:
    """A run that has ended, and its target before and after."""

    cursor: Any
    place: Place
    run: Run
    before: Rows
    found: Rows
    is_applied: bool


def rows_of(cursor: Any, place: Place, feed: Feed) -> tuple[Rows, int]:
    """The target's rows, none if there is no table, and how many of them have another hash than their own."""
    cursor.execute("SELECT to_regclass(%s)", (place.key,))
    if cursor.fetchone()[0] is None:
        return Rows(), 0
    return feed.rows_in(cursor, place)


def judge(
    cursor: Any, place: Place, feed: Feed, run: Run, before: Rows, outcomes: Iterable[Rows]
) -> tuple[Verdict, Rows]:
    """The verdict on a run that has ended, of a target that held `before`; and what it holds now."""
    found, strange = rows_of(cursor, place, feed)
    cursor.execute("SELECT rows, watermark_after, target FROM _datamantri.applied WHERE run = %s", (str(run.pk),))
    applied = cursor.fetchone()
    verdict = compare(found, outcomes if applied else [before])
    verdict.wrong += strange
    if verdict.is_right and applied and run.action == RunAction.LOAD:
        read = feed.rows_read(before, found)
        verdict.told += [] if read in (None, applied[0]) else [f"`applied` says {applied[0]} rows, of {read}"]
    verdict.told += _of_applied(cursor, place, run, applied)
    verdict.told += [*_of_head(cursor, place), *_of_schema(cursor, place, feed, applied is not None or bool(found))]
    verdict.told += history.faults(run)
    verdict.told += feed.faults(Seen(cursor, place, run, before, found, applied is not None))
    return verdict, found


def judge_all(
    cursor: Any, place: Place, feed: Feed, runs: Sequence[Run], before: Rows, outcomes: Iterable[Rows]
) -> tuple[Verdict, Rows]:
    """The verdict on several runs of one pipeline that have ended, in whatever order; and what the target holds."""
    found, strange = rows_of(cursor, place, feed)
    verdict = compare(found, outcomes)
    verdict.wrong += strange
    succeeded = {str(run.pk) for run in runs if run.status == RunStatus.SUCCEEDED}
    cursor.execute(
        "SELECT run::text FROM _datamantri.applied WHERE run::text = ANY(%s)", ([str(run.pk) for run in runs],)
    )
    applied = {run for (run,) in cursor.fetchall()}
    # A micro-batch of a merge takes the place of the one before it.
    gone = {str(run.pk) for run in runs if run.trigger == Trigger.REALTIME} if feed.disposition == "merge" else set()
    if applied - succeeded or succeeded - applied - gone:
        verdict.told.append(f"{succeeded} succeeded, {applied} are published")
    verdict.told += [*_of_head(cursor, place), *_of_schema(cursor, place, feed, bool(applied) or bool(found))]
    for run in runs:
        verdict.told += [f"run {run.pk}: {fault}" for fault in history.faults(run)]
        verdict.told += feed.faults(Seen(cursor, place, run, before, found, str(run.pk) in applied))
    return verdict, found


def _of_applied(cursor: Any, place: Place, run: Run, applied: tuple[Any, ...] | None) -> Iterable[str]:
    if (applied is not None) != (run.status == RunStatus.SUCCEEDED):
        yield f"the run is {run.status}, and {'published' if applied else 'not published'}"
    if applied is None:
        return
    rows, watermark, target = applied
    if run.receipt is None or run.receipt.get("rows") != rows:
        yield f"the receipt says {run.receipt and run.receipt.get('rows')} rows, `applied` {rows}"
    if run.receipt is not None and (run.receipt.get("watermark_after") or None) != watermark:
        yield f"the receipt says the watermark {run.receipt.get('watermark_after')}, `applied` {watermark}"
    cursor.execute("SELECT last_run::text FROM _datamantri.head WHERE target = %s", (place.key,))
    heads = [last for (last,) in cursor.fetchall()]
    if (target, heads) != (place.key, [str(run.pk)]):
        yield f"the run is published to {target}, and {heads} was the last"


def _of_head(cursor: Any, place: Place) -> Iterable[str]:
    """The head is of whoever published under the highest token, and has its watermark."""
    cursor.execute(_HEAD, {"target": place.key})
    for run, watermark, last, at in cursor.fetchall():
        if (last, at) != (run, watermark):
            yield f"`head` has the run {last} and the watermark {at}, after {run} ended at {watermark}"


def _of_schema(cursor: Any, place: Place, feed: Feed, must_be_there: bool) -> Iterable[str]:
    cursor.execute(_COLUMNS, (place.key,))
    columns = cursor.fetchall()
    if columns != feed.columns() and (columns or must_be_there):
        yield f"the columns are {columns}"
    cursor.execute(_IS_LOGGED, (place.key,))
    if cursor.fetchone() == (False,):
        yield "the target is emptied when its server crashes"
    cursor.execute(_OTHERS, (place.schema, place.table))
    others = [name for (name,) in cursor.fetchall() if not feed.may_be_there(name) and not _is_put_off(name)]
    if others:
        yield f"left behind: {', '.join(others)}"


def _is_put_off(name: str) -> bool:
    """Whether its run could not take `name` away and said so, and it is not yet for a later one to do so.

    The first that succeeds makes it out of date, the second takes it away.
    """
    staged = re.match("_datamantri_new_([0-9a-f]{32})_", name)
    run = Run.objects.filter(pk=staged[1]).first() if staged else None
    if run is None or run.status not in (RunStatus.CANCELLED, RunStatus.FAILED):
        return False
    said = LogLine.objects.filter(run=run, attempt=run.attempt, message__contains="A later run ")
    later = Run.objects.filter(pipeline=run.pipeline, status=RunStatus.SUCCEEDED, started_at__gt=run.finished_at)
    return said.exists() and later.count() <= 1


def published(cursor: Any, pipeline: Any) -> Counter[str]:
    """How often each run of a pipeline stands in `applied`."""
    cursor.execute("SELECT run::text FROM _datamantri.applied WHERE pipeline = %s", (str(pipeline),))
    return Counter(run for (run,) in cursor.fetchall())
