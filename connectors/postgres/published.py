"""What was last published to a target, by the destination's own record."""

from __future__ import annotations

from dataclasses import replace

from connectors.base import Target
from connectors.postgres.client import Session
from connectors.postgres.control import target_key
from connectors.postgres.control_schema import SCHEMA
from connectors.sides import Published

SET_WATERMARK = "set_watermark"

_PUBLISHED = f"""
SELECT head.installation, head.pipeline, head.last_run, head.fingerprint, applied.run, applied.receipt
FROM {SCHEMA}.head JOIN {SCHEMA}.applied ON applied.run = head.last_run WHERE head.target = %s
"""
# Setting a watermark is a run that moves no row.
_MOVED = f"""
SELECT run, receipt FROM {SCHEMA}.applied WHERE target = %s AND receipt->>'method' <> '{SET_WATERMARK}'
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
SELECT appended.runs, CASE WHEN whole.method IN ('create', 'rename', 'in_place') THEN whole.rows + appended.rows END
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
    published = Published(*row)
    if published.receipt.get("method") == SET_WATERMARK:
        moved = session.one(_MOVED, (target_key(target),))
        if moved is None:
            return None
        published = replace(published, run=moved[0], receipt=moved[1])
    if published.receipt.get("method") != "append" or published.receipt.get("interval"):
        return published
    appends, rows = session.one(_APPENDED, (target_key(target),)) or (0, None)
    return replace(published, appends=appends, rows=rows)
