"""What could run now, and who could run it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import QuerySet, Sum, Value
from django.db.models.functions import Now

from runs.models import Process
from runs.services import slots

# At least three heartbeats: see the settings.
PROCESS_SEEN_WITHIN = settings.LEASE_TTL


@dataclass(frozen=True)
class Place:
    """A run's place in the line for worker slots."""

    priority: int
    due: datetime
    run: UUID

    @property
    def key(self) -> tuple[int, datetime, UUID]:
        return self.priority, self.due, self.run


def line(most: int) -> list[Place]:
    """The runs that workers could take now, in the order in which they do."""
    with connection.cursor() as cursor:
        cursor.execute(_LINE, {**slots.values(), "most": most})
        return [Place(*row) for row in cursor.fetchall()]


_LINE = f"""
{slots.BY_INDEX}
WITH {slots.ROOM}
SELECT first.* FROM open_lanes l CROSS JOIN LATERAL (
    SELECT r.priority, r.due, r.id FROM runs_run r WHERE r.lane_id = l.id AND {slots.READY}
    ORDER BY r.priority, r.due, r.id LIMIT %(most)s) first
ORDER BY first.priority, first.due, first.id LIMIT %(most)s
"""


def first_in_line(pipelines: Iterable[UUID]) -> dict[UUID, UUID]:
    """The run of each pipeline that comes before its other queued ones."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT chosen.id, first.id FROM unnest(%s::uuid[]) AS chosen (id) CROSS JOIN LATERAL (
                SELECT id FROM runs_run
                WHERE pipeline_id = chosen.id AND status = 'queued' AND due <= statement_timestamp()
                ORDER BY priority, due, id LIMIT 1) AS first
            """,
            [list(pipelines)],
        )
        return dict(cursor.fetchall())


def claimable_count(*, waited: timedelta = timedelta(0), most: int = 1000) -> int:
    """How many runs and parts workers could take now, at most `most`; not what waits for a pool or connection."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIMABLE_COUNT, {**slots.values(), "waited": waited, "most": most})
        (count,) = cursor.fetchone()
    return count


_CLAIMABLE_COUNT = f"""
{slots.BY_INDEX}
WITH {slots.ROOM}, ready (waiting, free) AS (
    SELECT (SELECT count(*) FROM (
                SELECT FROM runs_run r WHERE r.lane_id = l.id AND {slots.READY} LIMIT %(most)s) some_), l.free
    FROM open_lanes l
    UNION ALL
    SELECT (SELECT count(*) FROM (
                SELECT FROM runs_partload p WHERE {slots.PART_READY} LIMIT %(most)s) some_), l.free
    FROM runs_run r JOIN open_lanes l ON l.id = r.lane_id WHERE {slots.DIVIDED})
SELECT least(coalesce(sum(least(waiting, free)), 0), %(most)s)::integer FROM ready
"""


def _alive(kind: Process.Kind) -> QuerySet[Process]:
    return Process.objects.filter(kind=kind, seen_at__gt=Now() - Value(PROCESS_SEEN_WITHIN))


def workers_alive() -> QuerySet[Process]:
    return _alive(Process.Kind.WORKER).filter(draining=False)


def beats_alive() -> QuerySet[Process]:
    return _alive(Process.Kind.BEAT)


def pollers_alive() -> QuerySet[Process]:
    return _alive(Process.Kind.POLLER)


def total_slots() -> int:
    return workers_alive().aggregate(total=Sum("slots"))["total"] or 0


def free_slots() -> int:
    """Slots of living workers without a run: what a dead or ending worker still holds takes none of them."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT coalesce(sum(greatest(0, p.slots - (
                SELECT count(*) FROM (
                    SELECT worker FROM runs_run WHERE lease_until > statement_timestamp()
                    UNION ALL SELECT worker FROM runs_partload WHERE lease_until > statement_timestamp()) held
                WHERE starts_with(held.worker, p.name || ':')))), 0)::integer
            FROM runs_process p WHERE p.kind = %s AND NOT p.draining AND p.seen_at > statement_timestamp() - %s
            """,
            [Process.Kind.WORKER, PROCESS_SEEN_WITHIN],
        )
        (free,) = cursor.fetchone()
    return free
