"""Runs that wait for upstreams: what they wait for, when that is met, and when they give up.

A run that waits is `blocked`: it stands in no line for workers and costs their claims nothing. What it waits for is
written with it, unchecked. Only `settle` (see upstreams.py), one at a time, checks, releases and gives up. A success is
committed together with its UpstreamSuccess, so either the first check of a prerequisite sees it, or it comes after that
check, and whoever handles it sees the prerequisite.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now

from pipelines import queries
from pipelines.models import Dependency, DependencyRule, GiveUp, Pipeline
from runs import doorbell, live
from runs.models import CHAIN, NO_NEWS, Prerequisite, Run
from runs.services.errors import RunRefused
from runs.services.journal import Line, write_lines
from runs.services.outcomes import NOTHING_WRONG, Failure
from runs.states import ACTIVE, RunStatus

AT_ONCE = 500
Interval = tuple[datetime | None, datetime] | None


def hold_back(runs: Sequence[Run]) -> list[Prerequisite]:
    """Let new runs of schedules wait for what their pipelines depend on; returns that, to be saved after them."""
    if not runs:
        return []
    waits_for = dependencies_of({run.pipeline_id for run in runs})
    if not waits_for:
        return []
    since, now = last_starts(waits_for), queries.database_now()
    made: list[Prerequisite] = []
    for run in runs:
        if its := waits_for.get(run.pipeline_id):
            run.status = RunStatus.BLOCKED
            made += prerequisites(run, its, now, since.get(run.pipeline_id))
    return made


def dependencies_of(pipelines: Iterable[UUID]) -> dict[UUID, list[Dependency]]:
    found: dict[UUID, list[Dependency]] = defaultdict(list)
    for dependency in Dependency.objects.filter(pipeline__in=list(pipelines)).order_by("pk"):
        found[dependency.pipeline_id].append(dependency)
    return dict(found)


def prerequisites(
    run: Run, dependencies: Iterable[Dependency], now: datetime, since: datetime | None
) -> list[Prerequisite]:
    """What a run waits for; `since`: when its pipeline's last run began. A run without a data interval goes by that."""
    made = []
    for dependency in dependencies:
        by_interval = dependency.rule != DependencyRule.NEW_DATA and run.data_interval_end is not None
        earlier = timedelta(seconds=dependency.offset_s or 0)
        made.append(
            Prerequisite(
                run=run,
                upstream_id=dependency.upstream_id,
                dependency=dependency,
                rule=dependency.rule if by_interval else DependencyRule.NEW_DATA,
                interval_start=shifted(run.data_interval_start, -earlier) if by_interval else None,
                interval_end=shifted(run.data_interval_end, -earlier) if by_interval else None,
                since=None if by_interval else since,
                give_up_at=now + timedelta(hours=dependency.give_up_hours),
                on_give_up=dependency.on_give_up,
            )
        )
    return made


def shifted(moment: datetime | None, by: timedelta) -> datetime | None:
    """A moment so much later, as far as there are any: a person may give the end of all times as an interval's."""
    if moment is None:
        return None
    try:
        return moment + by
    except OverflowError:
        return moment


def handed_down(run: Run, dependency: Dependency) -> Interval:
    """The data interval that a run of the upstream gives the downstream's; None where there is none to go by."""
    if dependency.rule == DependencyRule.NEW_DATA:
        return None
    later = timedelta(seconds=dependency.offset_s or 0)
    end = shifted(run.data_interval_end, later)
    return end and (shifted(run.data_interval_start, later), end)


def since_the_last(pipeline: Pipeline, starts: Mapping[UUID, datetime], now: datetime) -> tuple[datetime, datetime]:
    """What a run reads that no interval is given and that cannot do without: all since the last one began."""
    return starts.get(pipeline.pk, pipeline.created_at), now


def last_starts(pipelines: Iterable[UUID]) -> dict[UUID, datetime]:
    """When the newest run of each pipeline began that has loaded, or does."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT chosen.id, last.started_at FROM unnest(%s::uuid[]) AS chosen (id) CROSS JOIN LATERAL (
                SELECT r.started_at FROM runs_run r
                WHERE r.pipeline_id = chosen.id AND r.status = ANY(%s) AND r.action <> ALL(%s)
                ORDER BY r.created_at DESC LIMIT 1) AS last
            WHERE last.started_at IS NOT NULL
            """,
            [list(pipelines), sorted({*ACTIVE, RunStatus.SUCCEEDED}), list(NO_NEWS)],
        )
        return dict(cursor.fetchall())


# A load `s` of the upstream that succeeded, or is done as a person says, and whose news have been passed on, or are by
# this very pass: what nobody has handled yet meets nothing, or its downstream would be told of it twice. One that a
# person gave values may have loaded something else than is waited for.
_SUCCESS = """
s.pipeline_id = p.upstream_id AND (s.status = 'succeeded' OR EXISTS (SELECT FROM runs_donemark d WHERE d.run_id = s.id))
AND s.action <> ALL(%(nothing)s) AND NOT s.action_options ? 'parameters'
AND NOT EXISTS (SELECT FROM runs_upstreamsuccess w WHERE w.run_id = s.id AND w.id <> ALL(%(handled)s))
"""
# Runs for an interval are made when it is over: whatever is about this one was made after it began. A day to be sure.
_OF_THE_TIME = "{}.created_at >= coalesce(p.interval_start, p.interval_end) - interval '1 day'"
# The upstream has got to the end of the interval: by a run for it, by one without an interval that began later (it read
# all there was), or by one that stands for skipped ticks up to there and began after them.
_REACHES_THE_END = """
(coalesce(s.data_interval_start, '-infinity') < p.interval_end AND s.data_interval_end >= p.interval_end
 OR s.started_at >= p.interval_end AND (s.data_interval_end IS NULL OR EXISTS (
     SELECT FROM runs_skip k WHERE k.run_id = s.id AND k.last >= p.interval_end)))
"""
# Of all that it was to load for the interval, nothing failed or is still to come, unless a later run made up for it.
_NOTHING_IS_MISSING = f"""
NOT EXISTS (
    SELECT FROM runs_run x
    WHERE x.pipeline_id = p.upstream_id AND x.status <> 'succeeded' AND x.action <> ALL(%(nothing)s)
      AND NOT EXISTS (SELECT FROM runs_donemark d WHERE d.run_id = x.id)
      AND {_OF_THE_TIME.format("x")}
      AND coalesce(x.data_interval_start, '-infinity') < p.interval_end
      AND x.data_interval_end > coalesce(p.interval_start, p.interval_end - interval '1 microsecond')
      AND NOT EXISTS (
          SELECT FROM runs_run s WHERE {_SUCCESS} AND s.created_at > x.created_at
            AND (s.data_interval_end IS NULL AND s.started_at >= x.data_interval_end
                 OR s.data_interval_end >= x.data_interval_end AND coalesce(s.data_interval_start, '-infinity')
                    <= coalesce(x.data_interval_start, '-infinity'))))
"""
# The chain's own run of a pipeline. Another run of it will do if it began after that one had ended: not one that went
# by what the chain is about to load anew.
_IS_OF_CHAIN = """
({0}.id = p.head_id OR EXISTS (SELECT FROM runs_prerequisite q WHERE q.run_id = {0}.id AND q.head_id = p.head_id))
"""
# A run that appended or merged no row brought nothing new.
_HAS_NEWS = """
(s.rows > 0 OR s.action = 'full_refresh'
 OR (SELECT v.definition->>'write_disposition' FROM pipelines_revision v WHERE v.id = s.revision_id) = 'replace')
"""
_MEET = f"""
UPDATE runs_prerequisite p
SET is_checked = true, met_by_id = looked.met_by,
    met_at = CASE WHEN looked.met_by IS NOT NULL THEN statement_timestamp() END
FROM (
    SELECT p.id, CASE
        WHEN p.interval_end IS NOT NULL THEN (
            SELECT s.id FROM runs_run s
            WHERE {_SUCCESS} AND {_OF_THE_TIME.format("s")} AND {_REACHES_THE_END} AND {_NOTHING_IS_MISSING}
            ORDER BY s.created_at DESC LIMIT 1)
        WHEN p.rule = 'chain' THEN (
            SELECT s.id FROM runs_run s
            WHERE {_SUCCESS} AND s.created_at >= p.since AND ({_IS_OF_CHAIN.format("s")} OR EXISTS (
                SELECT FROM runs_run own WHERE own.pipeline_id = p.upstream_id AND own.created_at >= p.since
                  AND own.finished_at <= s.started_at AND {_IS_OF_CHAIN.format("own")}))
            ORDER BY s.created_at DESC LIMIT 1)
        ELSE (
            SELECT s.id FROM runs_run s
            WHERE {_SUCCESS} AND s.finished_at > coalesce(p.since, '-infinity')
              AND s.created_at > coalesce(p.since, '-infinity') - interval '8 days' AND {_HAS_NEWS}
            ORDER BY s.created_at DESC LIMIT 1)
        END AS met_by
    FROM runs_prerequisite p
    WHERE p.met_at IS NULL AND (NOT p.is_checked OR p.upstream_id = ANY(%(upstreams)s))) looked
WHERE looked.id = p.id
"""


def meet(upstreams: Iterable[UUID], handled: Iterable[int]) -> None:
    """Check what is unchecked, and what waits for these upstreams; `handled`: the successes that this pass handles."""
    values = {"upstreams": list(upstreams), "handled": list(handled), "nothing": list(NO_NEWS)}
    with connection.cursor() as cursor:
        cursor.execute(_MEET, values)


def forget_withdrawn() -> None:
    """Nobody waits any more for what is no dependency any more."""
    gone = Prerequisite.objects.filter(met_at__isnull=True, dependency__isnull=True).exclude(rule=CHAIN)
    gone.update(met_at=Now(), is_checked=True)


# In the order of their data, and no earlier than they were to start; the rest of a great many with the next round.
_RELEASE = """
WITH free AS (
    SELECT r.id, row_number() OVER (ORDER BY coalesce(r.data_interval_end, r.created_at), r.created_at) AS place
    FROM runs_run r
    WHERE r.status = 'blocked'
      AND NOT EXISTS (SELECT FROM runs_prerequisite p WHERE p.run_id = r.id AND p.met_at IS NULL)
    ORDER BY place LIMIT %s)
UPDATE runs_run r
SET status = 'queued', due = greatest(r.due, statement_timestamp() + free.place * interval '1 microsecond')
FROM free WHERE r.id = free.id AND r.status = 'blocked'
RETURNING r.id, r.pipeline_id
"""


def release() -> list[tuple[UUID, UUID]]:
    """Let runs get in line that wait for nothing any more; returns their ids, and their pipelines'."""
    with connection.cursor() as cursor:
        cursor.execute(_RELEASE, [AT_ONCE])
        free = cursor.fetchall()
    met: dict[UUID, list[str]] = defaultdict(list)
    named = Prerequisite.objects.filter(run__in=[run for run, _ in free], met_by__isnull=False).order_by("pk")
    for run, name in named.values_list("run", "upstream__name"):
        met[run].append(name)
    for run, names in met.items():
        told = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        write_lines(run, [Line("info", f"Upstream {told} {'have' if len(names) > 1 else 'has'} succeeded.")])
    return free


def give_up() -> list[tuple[UUID, UUID, RunStatus]]:
    """End runs that have waited as long as they may, as failed or skipped; returns them with how they ended."""
    late = Prerequisite.objects.filter(met_at__isnull=True, give_up_at__lt=Now(), run__status=RunStatus.BLOCKED)
    ended = []
    for each in late.select_related("run", "upstream").order_by("give_up_at")[:AT_ONCE]:
        run, fails = each.run, each.on_give_up == GiveUp.FAIL
        failure = Failure(
            "upstream_timeout",
            f"Upstream {each.upstream.name} did not succeed in time: given up at {each.give_up_at:%Y-%m-%d %H:%M} UTC.",
            "Look at its runs. How long to wait, and what then, is said with the dependency.",
        )
        to = RunStatus.FAILED if fails else RunStatus.CANCELLED
        told = failure if fails else NOTHING_WRONG
        changed = Run.objects.filter(pk=run.pk, status=RunStatus.BLOCKED).update(
            status=to,
            finished_at=Now(),
            error_code=told.code,
            error_message=told.message,
            error_hint=told.hint,
        )
        if changed:
            level, then = ("error", f"[{failure.code}]") if fails else ("warning", "The run is skipped.")
            write_lines(run.pk, [Line(level, f"{failure.message} {then}")])
            ended.append((run.pk, run.pipeline_id, to))
    return ended


def start_anyway(run: Run, *, by: Any) -> Run:
    """Let a blocked run start without what it still waits for. Raises RunRefused if it is not blocked (any more)."""
    with transaction.atomic():
        # In the order in which `settle` takes these rows: neither ever waits for the other in a circle.
        Prerequisite.objects.filter(run=run, met_at__isnull=True).update(met_at=Now(), is_checked=True)
        if not Run.objects.filter(pk=run.pk, status=RunStatus.BLOCKED).update(status=RunStatus.QUEUED, due=Now()):
            raise RunRefused(
                "not_blocked",
                "This run waits for no other pipeline (any more).",
                "Reload the page to see how it stands.",
            )
        who = by.get_username() if by is not None else "someone"
        write_lines(run.pk, [Line("warning", f"{who} let this run start without waiting for its upstreams.")])
        transaction.on_commit(doorbell.ring)
        transaction.on_commit(partial(live.push_run, run.pk))
        transaction.on_commit(partial(live.push_board, run.pk, run.pipeline_id, RunStatus.QUEUED))
    run.refresh_from_db()
    return run
