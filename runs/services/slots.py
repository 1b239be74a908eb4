"""Slots in SQL: which are in use, what has one left, and what may therefore start.

A pool has its slots, a connection as many as its `max_running` says. A destination without a limit gets all worker
slots but one, as long as there are active pipelines to others: a system that hangs must not hold up those.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings

from pipelines.locks import AdvisoryLock
from runs.states import CLAIMABLE

# One row for every lease: it takes a slot of its pipeline's pool and of each of its connections.
IN_USE = """
SELECT r.id AS run_id, r.pipeline_id, l.source_id, l.destination_id, l.pool_id
FROM runs_run r JOIN runs_lane l ON l.id = r.lane_id
WHERE r.lease_until IS NOT NULL
UNION ALL
SELECT r.id, r.pipeline_id, l.source_id, l.destination_id, l.pool_id
FROM runs_partload p JOIN runs_run r ON r.id = p.run_id JOIN runs_lane l ON l.id = r.lane_id
WHERE p.lease_until IS NOT NULL
"""

# What a lane `l` needs a slot of.
NEEDS = "room.id IN (l.destination_id, l.pool_id) OR (room.id = l.source_id AND room.is_own)"

# Common table expressions. `room`: how many slots are left of what is limited and in use; what is not in it has one.
# `open_lanes`: the lanes that have a slot left of all they need, and how many if that is limited.
# Of a destination without a limit only the loads into it count, and only its next load is held back. Whether there are
# other destinations is read at the two ends of an index.
ROOM = f"""
in_use AS MATERIALIZED ({IN_USE}),
workforce AS MATERIALIZED (
    SELECT coalesce(sum(p.slots), 0) AS slots FROM runs_process p
    WHERE p.kind = 'worker' AND NOT p.draining AND p.seen_at > statement_timestamp() - %(ttl)s),
taken AS (
    SELECT u.id, count(*) AS slots, count(*) FILTER (WHERE u.loads) AS loads FROM (
        SELECT pool_id, false FROM in_use UNION ALL SELECT destination_id, true FROM in_use
        UNION ALL SELECT source_id, false FROM in_use WHERE source_id <> destination_id) u (id, loads)
    GROUP BY u.id),
room AS MATERIALIZED (
    SELECT p.id, t.slots AS taken, p.slots - t.slots AS free, true AS is_own
    FROM taken t JOIN pipelines_pool p ON p.id = t.id
    UNION ALL
    SELECT c.id, t.slots, c.max_running - t.slots, true
    FROM taken t JOIN pipelines_connection c ON c.id = t.id WHERE c.max_running IS NOT NULL
    UNION ALL
    SELECT c.id, t.loads, w.slots - 1 - t.loads, false
    FROM taken t JOIN pipelines_connection c ON c.id = t.id CROSS JOIN workforce w
    WHERE c.max_running IS NULL AND w.slots > 1 AND t.loads >= w.slots - 1
      AND ((SELECT p.destination_id FROM pipelines_pipeline p WHERE p.state = 'active'
            ORDER BY p.destination_id LIMIT 1) <> c.id
        OR (SELECT p.destination_id FROM pipelines_pipeline p WHERE p.state = 'active'
            ORDER BY p.destination_id DESC LIMIT 1) <> c.id)),
open_lanes AS MATERIALIZED (
    SELECT l.id, (SELECT min(room.free) FROM room WHERE {NEEDS}) AS free FROM runs_lane l
    WHERE NOT EXISTS (SELECT FROM room WHERE room.free <= 0 AND ({NEEDS})))
"""

# What a run `r` can be claimed as: written out, as the index of such runs has it.
_STATUSES = ", ".join(f"'{status.value}'" for status in sorted(CLAIMABLE))
CLAIMABLE_ONES = f"r.status IN ({_STATUSES})"

# Whether a run `r` may start if there is a slot. A slice of a backfill would put out of date what a person has yet to
# decide on, though it reads none of it: it does not begin before. One that somebody let go on does go on, being the
# pipeline's one active run; a comparison, which may be held for its cost, has nothing staged. A pipeline's queued runs
# go in their order: one that is locked by another worker holds back those behind it. Each question is answered by one
# row of a small index, see BY_INDEX; the first compares ids so that nobody lists all active runs to answer it.
READY = f"""
{CLAIMABLE_ONES} AND r.lease_until IS NULL AND r.due <= statement_timestamp() - %(waited)s
AND r.step <> 'parts' AND (r.status <> 'running' OR r.step = 'publish')
AND CASE WHEN r.action = 'backfill' AND r.status = 'queued'
    THEN (SELECT h.id FROM runs_run h
          WHERE h.pipeline_id = r.pipeline_id AND h.status = 'held' AND h.action <> 'compare' LIMIT 1) IS NULL
    ELSE true END
AND (r.status <> 'queued' OR (
    NOT EXISTS (
        SELECT FROM runs_run a
        WHERE a.pipeline_id = r.pipeline_id AND a.id <> r.id AND a.status IN ('running', 'retrying', 'resolving'))
    AND r.id = (
        SELECT b.id FROM runs_run b
        WHERE b.pipeline_id = r.pipeline_id AND b.status = 'queued' AND b.due <= statement_timestamp()
        ORDER BY b.priority, b.due, b.id LIMIT 1)))
"""

# Whether the parts of a run `r` may be loaded, and whether one of them, `p`, waits to be.
DIVIDED = "r.step = 'parts' AND r.status = 'running' AND NOT r.cancel_requested"
PART_READY = "p.run_id = r.id AND p.status = 'waiting' AND p.due <= statement_timestamp() - %(waited)s"


def best_parts(lock: str = "") -> str:
    """The first part of each run that is loaded in parts and has a slot left."""
    return f"""
    SELECT best.id, r.lane_id, r.priority, {HELD.format("r")} AS held, r.due, best.number
    FROM runs_run r JOIN open_lanes l ON l.id = r.lane_id CROSS JOIN LATERAL (
        SELECT p.id, p.number FROM runs_partload p WHERE {PART_READY} ORDER BY p.number LIMIT 1 {lock}) best
    WHERE {DIVIDED}
    """


# How many slots the pipeline of a row has already: of equal priority, the one with fewer goes first.
HELD = "(SELECT count(*) FROM in_use u WHERE u.pipeline_id = {}.pipeline_id)"
# Whether a worker slot is idle after one more is taken.
ONE_IS_IDLE = "(SELECT w.slots - 1 > (SELECT count(*) FROM in_use) FROM workforce w)"
IS_DRAINING = "EXISTS (SELECT FROM runs_process o WHERE o.name = %(process)s AND o.draining)"
# A statement that goes before another in the same message, and so in the same transaction: what follows reads rows in
# the order that an index has, and stops. A planner whose statistics say that nothing waits finds every index alike.
BY_INDEX = """
SELECT set_config('enable_sort', 'off', true), set_config('enable_seqscan', 'off', true),
       set_config('jit', 'off', true);
"""
# And this lets claims come one after another: what follows begins when the claim before it is committed, and sees the
# slot that it took. Nothing of it waits for a worker; should it wait for anybody else, the limit lets the others go on.
ONE_BY_ONE = f"{BY_INDEX} SELECT set_config('lock_timeout', '3s', true), pg_advisory_xact_lock(%(lock)s);"


def values() -> dict[str, Any]:
    """What the statements made of these parts need to be given; `waited` is for how long it could have started."""
    return {"ttl": settings.LEASE_TTL, "waited": timedelta(0), "lock": AdvisoryLock.CLAIMS}


# Of those that a statement must be told to be prepared.
TYPES = {"ttl": "interval", "waited": "interval"}
