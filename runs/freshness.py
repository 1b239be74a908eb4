"""How fresh the loads of a pipeline in near real time left its target, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from uuid import UUID

from django.db import connection

from pipelines.models import Pipeline
from runs.realtime_queries import moment_of
from runs.words import span

SHOWN = 60
_WIDTH, _HEIGHT, _LEAST = 300.0, 40.0, 2.0

_LOADS = """
SELECT id, receipt ->> 'watermark_after', receipt -> 'interval' ->> 'type', receipt ->> 'published_at'
FROM runs_run
WHERE pipeline_id = %s AND status = 'succeeded' AND action NOT IN ('compare', 'backfill')
  AND receipt ->> 'watermark_after' <> ''
ORDER BY created_at DESC LIMIT %s
"""


@dataclass(frozen=True)
class Bar:
    """A load: how old the newest row was when it was published."""

    run: UUID
    at: datetime
    seconds: float
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Picture:
    bars: Sequence[Bar]
    summary: str
    width: float = _WIDTH
    height: float = _HEIGHT


def picture_of(pipeline: Pipeline) -> Picture | None:
    """The newest loads, the oldest of them on the left; None where the cursor is no time, or too few have run."""
    with connection.cursor() as found:
        found.execute(_LOADS, [pipeline.pk, SHOWN])
        rows = found.fetchall()[::-1]
    known = []
    for run, watermark, type_, published in rows:
        moment = moment_of(watermark, type_)
        if moment is not None and published:
            at = datetime.fromisoformat(published)
            known.append((run, at, max(0.0, (at - moment).total_seconds())))
    if len(known) < 2:
        return None
    oldest, step = max(seconds for *_, seconds in known), _WIDTH / SHOWN
    bars = []
    for place, (run, at, seconds) in enumerate(known):
        tall = max(_LEAST, _HEIGHT * seconds / oldest) if oldest else _LEAST
        x, y = round(place * step + 0.5, 2), round(_HEIGHT - tall, 2)
        bars.append(Bar(run, at, seconds, x, y, round(step - 1, 2), round(tall, 2)))
    usual = median(seconds for *_, seconds in known)
    return Picture(bars, f"Last {len(known)} loads: half of them at most {span(usual)}, the worst {span(oldest)}")
