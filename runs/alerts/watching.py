"""What no run tells by itself: data that is late or stale, alerts that go on or that nobody watches any more."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Q

from pipelines.models import AlertKind, Pipeline, PipelineState
from runs.alerts import open_alerts
from runs.alerts.open_alerts import Finding, OpenAlerts
from runs.alerts.rules import Watch, watches
from runs.models import Alert, Closing
from runs.words import exact, span

# Ticks that were to load something; of a pause nobody expects data.
COUNTED_SKIPS = ["overlap", "missed", "merged"]
# So far back a load may lie among a pipeline's newest runs that stands for a tick.
NEWEST_RUNS = 50

# For each pipeline that a rule watches: the newest tick of its schedules that is older than the rule's limit, and up to
# where loads have come. Every look-up is one of an index; ticks of a pause do not count.
_LATE = """
SELECT p.id, ticks.newest, load.succeeded_for
FROM pipelines_pipeline p
CROSS JOIN LATERAL (
    SELECT max(t.at) AS newest FROM pipelines_schedule s CROSS JOIN LATERAL (
        SELECT max(r.scheduled_for) AS at FROM runs_run r
        WHERE r.schedule_id = s.id AND r.scheduled_for <= %(deadline)s
        UNION ALL
        SELECT max(k.last) FROM runs_skip k
        WHERE k.schedule_id = s.id AND k.last <= %(deadline)s AND k.reason = ANY(%(counted)s)
        UNION ALL
        SELECT s.next_due WHERE s.next_due <= %(deadline)s) t
    WHERE s.pipeline_id = p.id AND s.ends_at IS NULL) ticks
CROSS JOIN LATERAL (
    SELECT max(greatest(r.started_at, r.scheduled_for)) FILTER (WHERE r.status = 'succeeded') AS succeeded_for FROM (
        SELECT started_at, scheduled_for, status FROM runs_run
        WHERE pipeline_id = p.id AND action NOT IN ('set_watermark', 'compare', 'undo', 'backfill', 'replay')
          AND trigger <> 'backfill'
        ORDER BY created_at DESC LIMIT %(newest)s) r) load
WHERE p.state = 'active' AND (%(pipelines)s::uuid[] IS NULL OR p.id = ANY(%(pipelines)s::uuid[]))
  AND ticks.newest > p.active_from
"""

# In near real time data is as fresh as the last look at its source, where nothing changed and so there is no load; a
# look counts only where nothing is owed: the micro-batch asked for last has succeeded, and none was refused since.
_STALE = """
SELECT p.id, greatest(load.finished_at, o.seen_at, p.active_from), greatest(load.finished_at, o.seen_at)
FROM pipelines_pipeline p
LEFT JOIN LATERAL (
    SELECT k.seen_at FROM runs_poll k LEFT JOIN runs_run asked ON asked.id = k.run_id
    WHERE k.pipeline_id = p.id AND p.mode = 'realtime' AND k.refusal = ''
      AND coalesce(asked.status, 'succeeded') = 'succeeded') o ON true
LEFT JOIN LATERAL (
    SELECT r.finished_at FROM runs_run r
    WHERE r.pipeline_id = p.id AND r.status = 'succeeded'
      AND r.action NOT IN ('set_watermark', 'compare', 'undo', 'backfill', 'replay') AND r.trigger <> 'backfill'
    ORDER BY r.created_at DESC LIMIT 1) load ON true
WHERE p.state = 'active' AND (p.id = ANY(%(pipelines)s::uuid[]) OR %(pipelines)s::uuid[] IS NULL AND EXISTS (
    SELECT FROM pipelines_schedule s WHERE s.pipeline_id = p.id AND s.ends_at IS NULL
    UNION ALL SELECT FROM pipelines_dependency d WHERE d.pipeline_id = p.id
    UNION ALL SELECT WHERE p.mode = 'realtime'))
"""


def watch(now: datetime | None = None) -> int:
    """Look at the clock for all rules; says how many alerts are open now. 0 if somebody else does it at the moment."""
    with transaction.atomic():
        if not open_alerts.take_turn():
            return 0
        now = now or _now()
        found = watches()
        _forget(found, now)
        late = [(each, _late(each, now)) for each in found if each.watches(AlertKind.LATE)]
        stale = [(each, _stale(each, now)) for each in found if each.watches(AlertKind.STALE)]
        known = Alert.objects.filter(closed_at=None).values("pipeline")
        wanted = {pk for _, rows in (*late, *stale) for pk in rows if rows[pk][0]}
        alerts = OpenAlerts(Pipeline.objects.filter(Q(pk__in=known) | Q(pk__in=wanted)))
        for each, rows in late:
            _settle(each, AlertKind.LATE, rows, alerts, now)
        for each, rows in stale:
            _settle(each, AlertKind.STALE, rows, alerts, now)
        _remind(found, alerts, now)
        return Alert.objects.filter(closed_at=None).count()


def _now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]


# By pipeline: what is wrong (None: nothing), and when a load last came.
Rows = dict[UUID, tuple[Finding | None, datetime | None]]


def _late(each: Watch, now: datetime) -> Rows:
    after = timedelta(minutes=each.rule.late_after_min)
    rows = _ask(_LATE, each, deadline=now - after, counted=COUNTED_SKIPS, newest=NEWEST_RUNS)
    return {
        pipeline: (None if loaded and loaded >= tick else _late_finding(tick, after, now), loaded)
        for pipeline, tick, loaded in rows
    }


def _late_finding(tick: datetime, after: timedelta, now: datetime) -> Finding:
    cause = (
        f"The load that was scheduled for {exact(tick)} has not succeeded {span(after.total_seconds())} later, which is"
        f" its deadline."
    )
    return Finding(
        tick, now, cause, code="late", hint="See on the pipeline's page whether its run waits, runs, or failed."
    )


def _stale(each: Watch, now: datetime) -> Rows:
    limit = timedelta(hours=each.rule.stale_after_h)
    found: Rows = {}
    for pipeline, since, loaded in _ask(_STALE, each):
        if now - since < limit:
            found[pipeline] = None, loaded
            continue
        last = f"The last load succeeded at {exact(loaded)}" if loaded else "Nothing was ever loaded"
        cause = f"{last}. The rule calls data stale after {span(limit.total_seconds())}."
        hint = "See on the pipeline's page why it does not run, or does not succeed."
        found[pipeline] = Finding(since, now, cause, code="stale", hint=hint), loaded
    return found


def _ask(statement: str, each: Watch, **values: Any) -> list[tuple[Any, ...]]:
    pipelines = None if each.pipelines is None else list(each.pipelines)
    with connection.cursor() as cursor:
        cursor.execute(statement, {"pipelines": pipelines, **values})
        return cursor.fetchall()


def _settle(each: Watch, kind: AlertKind, rows: Rows, alerts: OpenAlerts, now: datetime) -> None:
    """Begin what is wrong and not known; end what is right again, or what nobody can call wrong any more."""
    known = {alert.pipeline_id: alert for alert in alerts.of(each, kind)}
    for pipeline, (finding, _) in rows.items():
        if finding is not None and pipeline not in known:
            alerts.note(each, pipeline, kind, finding)
    for pipeline, alert in known.items():
        finding, loaded = rows.get(pipeline, (None, None))
        came = loaded is not None and (loaded > alert.since or (kind == AlertKind.LATE and loaded == alert.since))
        if came and (finding is None or finding.since > alert.since):
            # What it was about has come, whatever else is missing by now.
            alerts.close(each, pipeline, kind, now)
            if finding is not None:
                alerts.note(each, pipeline, kind, finding)
        elif finding is None:
            alerts.end(alert, now, Closing.UNWATCHED)


def _remind(found: list[Watch], alerts: OpenAlerts, now: datetime) -> None:
    for each in found:
        hours = each.rule.remind_after_h
        for kind in AlertKind if hours else ():
            for alert in alerts.of(each, kind):
                if not alert.is_silent and now - alert.told_at >= timedelta(hours=hours or 0):
                    alerts.remind(each, alert, now)


def _forget(found: list[Watch], now: datetime) -> None:
    """End alerts whose rule is gone or off, does not watch this any more, or whose pipeline is retired."""
    by_rule = {each.rule.pk: each for each in found}
    for alert in Alert.objects.filter(closed_at=None).select_related("pipeline"):
        each = by_rule.get(alert.rule_id) if alert.rule_id else None
        retired = alert.pipeline.state == PipelineState.ARCHIVED
        if each is None or retired or not each.concerns(alert.pipeline_id) or not each.watches(alert.kind):
            Alert.objects.filter(pk=alert.pk).update(closed_at=now, closing=Closing.UNWATCHED)
