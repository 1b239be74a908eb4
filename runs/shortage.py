"""What waits for a slot, of which pool or connection, and who has them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

from runs.services import slots

NAMED = 5  # holders of one pool's or connection's slots that are named


@dataclass(frozen=True)
class Holder:
    """A run that has slots, maybe several: parts of one load have one each."""

    run: UUID
    pipeline: str
    slots: int


@dataclass(frozen=True)
class Shortage:
    """A pool or connection without a free slot; `is_own`: the limit was set, and is not what the workers leave."""

    kind: str
    name: str
    taken: int
    limit: int
    is_own: bool
    holders: Sequence[Holder]
    others: int

    def __str__(self) -> str:
        who = [f"{h.pipeline} ({h.slots})" if h.slots > 1 else h.pipeline for h in self.holders]
        if self.others:
            who.append(f"{self.others} more")
        by = f"{', '.join(who[:-1])} and {who[-1]}" if len(who) > 1 else "".join(who)
        if not self.is_own:
            return (
                f"connection {self.name}: it has {self.taken} of {self.limit + 1} worker slots, by {by}; "
                "the last one is left for pipelines to other destinations"
            )
        what = "a slot of pool" if self.kind == "pool" else "connection"
        return f"{what} {self.name}: {self.taken} of {self.limit} in use by {by}"


def shortages(lanes: Iterable[int]) -> dict[int, list[Shortage]]:
    """Of each of these lanes, what it needs and has no slot left, the pool first."""
    found: dict[int, list[Shortage]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(_SHORTAGES, {**slots.values(), "lanes": list(lanes), "named": NAMED})
        for lane, kind, name, taken, free, is_own, holders, count in cursor.fetchall():
            who = [Holder(UUID(run), pipeline, held) for run, pipeline, held in _from_json(holders)]
            found[lane].append(Shortage(kind, name, taken, taken + free, is_own, who, count - len(who)))
    return found


def holders_of(pool: UUID) -> list[Holder]:
    """The runs that have slots of a pool."""
    with connection.cursor() as cursor:
        cursor.execute(_HOLDERS, [pool])
        return [Holder(*row) for row in cursor.fetchall()]


_HOLDERS = f"""
SELECT u.run_id, p.name, count(*) FROM ({slots.IN_USE}) u JOIN pipelines_pipeline p ON p.id = u.pipeline_id
WHERE u.pool_id = %s GROUP BY u.run_id, p.name ORDER BY p.name
"""


def _from_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


_SHORTAGES = f"""
WITH {slots.ROOM},
full_ones AS (
    SELECT room.*, q.id IS NOT NULL AS is_pool, coalesce(q.name, c.name) AS name FROM room
    LEFT JOIN pipelines_pool q ON q.id = room.id LEFT JOIN pipelines_connection c ON c.id = room.id
    WHERE room.free <= 0),
holders AS (
    SELECT f.id, u.run_id, p.name, count(*) AS slots, row_number() OVER (PARTITION BY f.id ORDER BY p.name) AS place,
           count(*) OVER (PARTITION BY f.id) AS among
    FROM full_ones f JOIN in_use u ON f.id IN (u.pool_id, u.destination_id) OR (f.id = u.source_id AND f.is_own)
    JOIN pipelines_pipeline p ON p.id = u.pipeline_id
    GROUP BY f.id, u.run_id, p.name)
SELECT l.id, CASE WHEN room.is_pool THEN 'pool' ELSE 'connection' END, room.name, room.taken, room.free::integer,
       room.is_own,
       (SELECT jsonb_agg(jsonb_build_array(h.run_id, h.name, h.slots) ORDER BY h.place)
        FROM holders h WHERE h.id = room.id AND h.place <= %(named)s),
       (SELECT max(h.among) FROM holders h WHERE h.id = room.id)
FROM runs_lane l JOIN full_ones room ON {slots.NEEDS}
WHERE l.id = ANY(%(lanes)s)
ORDER BY l.id, room.is_pool DESC, room.name
"""
