"""What was last published to a target, by the destination's own record."""

from __future__ import annotations

from dataclasses import replace

from connectors.postgres.client import Session
from connectors.postgres.control import target_key
from connectors.postgres.control_schema import SCHEMA
from connectors.sides import Published
from connectors.writing import Target

SET_WATERMARK, UNDO = "set_watermark", "undo"
# How far back what was last loaded is looked for, through undos of undos.
_FARTHEST = 100

_PUBLISHED = f"""
SELECT head.installation, head.pipeline, head.last_run, head.fingerprint, applied.run, applied.receipt,
       to_jsonb(head) -> 'columns'
FROM {SCHEMA}.head JOIN {SCHEMA}.applied ON applied.run = head.last_run WHERE head.target = %s
"""
# Setting a watermark is a run that moves no row, and a replay reads no source: what they found was published before.
_BEFORE = f"""
SELECT run FROM {SCHEMA}.applied
WHERE target = %(target)s AND published_at < (SELECT published_at FROM {SCHEMA}.applied WHERE run = %(run)s)
ORDER BY published_at DESC LIMIT 1
"""
# What was appended since the table was last made or brought to a state as a whole; how many rows it has
# then is known unless that was a merge, or it was there before.
_APPENDED = f"""
WITH published AS (
    SELECT rows, published_at, receipt->>'method' AS method FROM {SCHEMA}.applied
    WHERE target = %s AND receipt->>'method' <> '{SET_WATERMARK}'
), whole AS (
    SELECT * FROM published WHERE method <> 'append' ORDER BY published_at DESC LIMIT 1
), appended AS (
    SELECT count(*) AS runs, coalesce(sum(rows), 0)::bigint AS rows FROM published
    WHERE published_at > coalesce((SELECT published_at FROM whole), '-infinity')
)
SELECT appended.runs + coalesce(whole.method = '{UNDO}', false)::int,
       CASE WHEN whole.method IN ('create', 'rename', 'in_place', '{UNDO}') THEN whole.rows + appended.rows END
FROM appended LEFT JOIN whole ON true
"""


def read_published(session: Session, target: Target) -> Published | None:
    """What was last published to `target`, without touching anything; None if no row ever was.

    Only what is rarely asked reads all of `applied`, which has no index by target.
    """
    there = session.one(f"SELECT to_regclass('{SCHEMA}.head') IS NOT NULL")
    if there is None or not there[0]:
        return None
    row = session.one(_PUBLISHED, (target_key(target),))
    if row is None:
        return None
    published = replace(Published(*row[:-1]), columns=row[-1])
    if published.receipt.get("method") in (SET_WATERMARK, UNDO) or published.receipt.get("replayed"):
        loaded = _loaded(session, target, published)
        if loaded is None:
            return None
        published = loaded
    if published.receipt.get("method") != "append" or published.receipt.get("interval"):
        return published
    appends, rows = session.one(_APPENDED, (target_key(target),)) or (0, None)
    return replace(published, appends=appends, rows=rows)


def _loaded(session: Session, target: Target, published: Published) -> Published | None:
    """The same, with the run that brought the rows which are there; None if none did."""
    run, receipt = published.run, published.receipt
    for _ in range(_FARTHEST):
        if receipt.get("method") == UNDO:
            former = (receipt.get("undo") or {}).get("as_left_by")
        elif receipt.get("method") == SET_WATERMARK or receipt.get("replayed"):
            row = session.one(_BEFORE, {"target": target_key(target), "run": str(run)})
            former = row and str(row[0])
        else:
            return replace(published, run=run, receipt=receipt)
        row = session.one(f"SELECT run, receipt FROM {SCHEMA}.applied WHERE run = %s", (former,)) if former else None
        if row is None:
            return None
        run, receipt = row
    return None
