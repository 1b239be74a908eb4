"""What happened → alerts: one judge at a time reads the events of runs in their order.

An event goes in the transaction that opens, counts or closes its alerts and writes their messages, so that a crash
neither loses nor doubles one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection, transaction

from connectors.drift import in_words
from pipelines.models import AlertKind, Pipeline
from runs.alerts import open_alerts, usual
from runs.alerts.open_alerts import Finding, OpenAlerts
from runs.alerts.rules import FOLLOWED, Watch, watches
from runs.models import MARKED_DONE, OVER_BUDGET, AlertEvent, Run, RunAction, Trigger
from runs.states import RunStatus

AT_ONCE = 500
UNUSUAL = (AlertKind.UNUSUAL_DURATION, AlertKind.UNUSUAL_ROWS)
FAILURES = (AlertKind.FAILED, AlertKind.SCHEMA_DRIFT, AlertKind.OVER_BUDGET)


@dataclass(frozen=True)
class Past:
    """The loads before a run: how long they took, and the rows they moved."""

    seconds: Sequence[float] = ()
    rows: Sequence[float] = ()


def judge() -> int:
    """Judge what happened since somebody last did; says how many events. 0 if somebody else does it now."""
    with transaction.atomic():
        if not open_alerts.take_turn():
            return 0
        keys = list(AlertEvent.objects.order_by("pk").values_list("pk", flat=True)[:AT_ONCE])
        if not keys:
            return 0
        rows = AlertEvent.objects.filter(pk__in=keys).select_related("run__schema_change").order_by("pk")
        events = list(rows.defer("run__receipt", "run__schema_change__columns"))
        pipelines = {event.pipeline_id for event in events}
        found = watches(pipelines)
        alerts = OpenAlerts(Pipeline.objects.filter(pk__in=pipelines))
        past = _past([event.run for event in events if _is_unusual_of_interest(event, found)])
        for event in events:
            for watch in found:
                if watch.concerns(event.pipeline_id):
                    _judge(event, watch, alerts, past.get(event.run_id, Past()))
        AlertEvent.objects.filter(pk__in=keys).delete()
    return len(keys)


def _judge(event: AlertEvent, watch: Watch, alerts: OpenAlerts, past: Past) -> None:
    run, pipeline = event.run, event.pipeline_id
    if event.status == RunStatus.HELD:
        if waits := watch.held_kind(run.error_code):
            alerts.note(watch, pipeline, waits, _failure_of(run, event.at, "It waits for a person."))
    else:
        alerts.close(watch, pipeline, AlertKind.HELD, event.at, run=run.pk)
        alerts.close(watch, pipeline, AlertKind.OVER_BUDGET, event.at, run=run.pk, code=OVER_BUDGET)
    if event.status == RunStatus.FAILED:
        if kind := watch.failure_kind(run.error_code):
            alerts.note(watch, pipeline, kind, _failure_of(run, event.at, "The run failed."))
    elif event.status == MARKED_DONE:
        for kind in FAILURES:
            alerts.close(watch, pipeline, kind, event.at, run=run.pk)
    elif event.status == RunStatus.SUCCEEDED:
        for kind in FAILURES:
            alerts.close(watch, pipeline, kind, event.at)
        _judge_drift(event, watch, alerts)
        _judge_size(event, watch, alerts, past)


def _judge_drift(event: AlertEvent, watch: Watch, alerts: OpenAlerts) -> None:
    """The target followed its source: that is told once, for nothing has to recover from it."""
    change = getattr(event.run, "schema_change", None)
    if change is not None and watch.tells(AlertKind.SCHEMA_DRIFT):
        cause = f"The source's columns changed, and the pipeline went on: {in_words(change.told)}."
        hint = "See whether those who read the table expect it."
        found = Finding(event.at, event.at, cause, FOLLOWED, hint, event.run_id)
        alerts.tell_once(watch, event.pipeline_id, AlertKind.SCHEMA_DRIFT, found)


def _judge_size(event: AlertEvent, watch: Watch, alerts: OpenAlerts, past: Past) -> None:
    run, limit = event.run, watch.rule.distance
    if not _is_judged_by_size(run):
        return
    found = {
        # How long a person took to decide is not the run's own time.
        AlertKind.UNUSUAL_DURATION: "" if run.decision else usual.too_long(_seconds(run), past.seconds, limit),
        AlertKind.UNUSUAL_ROWS: usual.odd_rows(run.rows, past.rows, limit),
    }
    hints = {
        AlertKind.UNUSUAL_DURATION: "See in its log which step took the time.",
        AlertKind.UNUSUAL_ROWS: "See whether the source is as it should be.",
    }
    for kind in UNUSUAL:
        if not watch.watches(kind):
            continue
        if found[kind]:
            finding = Finding(event.at, event.at, found[kind], hint=hints[kind], run=run.pk)
            alerts.note(watch, run.pipeline_id, kind, finding)
        else:
            alerts.close(watch, run.pipeline_id, kind, event.at)


def _failure_of(run: Run, at: datetime, otherwise: str) -> Finding:
    return Finding(at, at, run.error_message or otherwise, run.error_code, run.error_hint, run.pk)


def _seconds(run: Run) -> float:
    if run.started_at is None or run.finished_at is None:
        return 0.0
    return (run.finished_at - run.started_at).total_seconds()


def _is_judged_by_size(run: Run) -> bool:
    """Micro-batches are as large as what happened to come between two polls: none is usual."""
    return run.action == RunAction.LOAD and run.trigger != Trigger.REALTIME


def _is_unusual_of_interest(event: AlertEvent, found: Iterable[Watch]) -> bool:
    if event.status != RunStatus.SUCCEEDED or not _is_judged_by_size(event.run):
        return False
    return any(watch.concerns(event.pipeline_id) and any(map(watch.watches, UNUSUAL)) for watch in found)


def _past(runs: Sequence[Run]) -> dict[UUID, Past]:
    """The newest loads before each run, by the index of its pipeline's runs, in one statement."""
    if not runs:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT judged.id, p.seconds, p.rows
            FROM unnest(%s::uuid[]) AS wanted (id) JOIN runs_run judged ON judged.id = wanted.id
            CROSS JOIN LATERAL (
                SELECT array_agg(extract(epoch FROM r.finished_at - r.started_at)::float8)
                           FILTER (WHERE r.decision = '') AS seconds,
                       array_agg(r.rows::float8) AS rows
                FROM (
                    SELECT started_at, finished_at, decision, rows FROM runs_run
                    WHERE pipeline_id = judged.pipeline_id AND created_at < judged.created_at
                      AND status = 'succeeded' AND action = 'load' AND trigger <> 'backfill'
                    ORDER BY created_at DESC LIMIT %s) r) p
            """,
            [[run.pk for run in runs], usual.LOADS],
        )
        return {run: Past(seconds or (), rows or ()) for run, seconds, rows in cursor.fetchall()}
