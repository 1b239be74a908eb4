"""What pages and the API show of near real time: freshness, what was seen of the source, what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import connection
from django.utils import timezone

from connectors import cursor
from connectors.errors import ConnectorError
from pipelines.models import Pipeline, PipelineState
from pipelines.realtime import is_realtime
from runs import capacity
from runs.models import Poll, PollDay

DAYS = 30

# The newest load of each has it, also if that found nothing new: an index look-up each.
_WATERMARKS = """
SELECT wanted.id, run.watermark, run.type FROM unnest(%s::uuid[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT r.receipt ->> 'watermark_after' AS watermark, r.receipt -> 'interval' ->> 'type' AS type
    FROM runs_run r
    WHERE r.pipeline_id = wanted.id AND r.status = 'succeeded'
      AND r.action NOT IN ('compare', 'backfill') AND r.receipt ->> 'watermark_after' <> ''
    ORDER BY r.created_at DESC LIMIT 1) run
"""


@dataclass(frozen=True)
class Freshness:
    """The newest value of the cursor in the target, and the moment it stands for; None where it is no time."""

    watermark: str
    moment: datetime | None

    @property
    def seconds(self) -> float | None:
        return None if self.moment is None else max(0.0, (timezone.now() - self.moment).total_seconds())


@dataclass(frozen=True)
class Sum:
    """Micro-batches of some days."""

    runs: int = 0
    failed: int = 0
    rows: int = 0
    bytes_billed: int = 0
    cost: Decimal = Decimal(0)

    @property
    def money(self) -> float:
        """At the prices of the days."""
        return float(self.cost)

    @classmethod
    def of(cls, days: Iterable[PollDay]) -> Sum:
        found = list(days)
        return cls(*(sum(getattr(day, name) for day in found) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Standing:
    """How a pipeline in near real time stands. `is_polled`: it is active, and a poller lives."""

    poll: Poll | None
    freshness: Freshness | None
    is_active: bool
    is_polled: bool
    forced_s: float | None
    days: Sequence[PollDay]
    today: Sum
    month: Sum

    @property
    def unseen(self) -> list[str]:
        return self.poll.unseen.splitlines() if self.poll else []


def freshness_of(pipelines: Iterable[Pipeline]) -> dict[UUID, Freshness]:
    """Of those in near real time; without any of these, without a query."""
    wanted = [pipeline.pk for pipeline in pipelines if is_realtime(pipeline)]
    if not wanted:
        return {}
    with connection.cursor() as found:
        found.execute(_WATERMARKS, [wanted])
        rows = found.fetchall()
    return {pk: Freshness(watermark, moment_of(watermark, type_)) for pk, watermark, type_ in rows if watermark}


def moment_of(watermark: str, type_: str | None) -> datetime | None:
    """The moment that a watermark stands for: a DATETIME is taken for UTC; of a date, its end counts."""
    if type_ not in ("DATE", "DATETIME", "TIMESTAMP"):
        return None
    try:
        number = cursor.number_of(watermark, type_)
    except ConnectorError:
        return None
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    try:
        return epoch + (timedelta(days=number + 1) if type_ == "DATE" else timedelta(microseconds=number))
    except OverflowError:
        return None


def standing_of(pipeline: Pipeline) -> Standing | None:
    """None if it is not in near real time."""
    if not is_realtime(pipeline):
        return None
    today: date = datetime.now(UTC).date()
    days = list(PollDay.objects.filter(pipeline=pipeline, day__gt=today - timedelta(days=DAYS)).order_by("-day"))
    is_active = pipeline.state == PipelineState.ACTIVE
    return Standing(
        poll=Poll.objects.select_related("run").filter(pipeline=pipeline).first(),
        freshness=freshness_of([pipeline]).get(pipeline.pk),
        is_active=is_active,
        is_polled=is_active and capacity.pollers_alive().exists(),
        forced_s=pipeline.force_read_every and pipeline.force_read_every * pipeline.poll_every_s,
        days=days,
        today=Sum.of(day for day in days if day.day == today),
        month=Sum.of(days),
    )
