"""Reads that several doors share: why a run waits, how far it is, what its page shows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Exists, OuterRef, Q, QuerySet, Sum, Value
from django.db.models.functions import Now
from django.utils import timezone

from runs.models import LogLine, Process, Run
from runs.states import ACTIVE, CLAIMABLE, RunStatus

PROCESS_SEEN_WITHIN = timedelta(seconds=30)


def database_now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        return cursor.fetchone()[0]


def claimable(*, waited: timedelta = timedelta(0)) -> QuerySet[Run]:
    """Runs that a worker could take now, and could have taken since `waited` ago."""
    others = Run.objects.filter(pipeline=OuterRef("pipeline"), status__in=ACTIVE)
    ready = Run.objects.filter(status__in=CLAIMABLE, due__lte=Now() - Value(waited), lease_until__isnull=True)
    return ready.filter(~Q(status=RunStatus.QUEUED) | ~Exists(others))


def claimable_count(*, waited: timedelta = timedelta(0), most: int = 1000) -> int:
    return claimable(waited=waited)[:most].count()


def workers_alive() -> QuerySet[Process]:
    return Process.objects.filter(
        kind=Process.Kind.WORKER, draining=False, seen_at__gt=Now() - Value(PROCESS_SEEN_WITHIN)
    )


def beats_alive() -> QuerySet[Process]:
    return Process.objects.filter(kind=Process.Kind.BEAT, seen_at__gt=Now() - Value(PROCESS_SEEN_WITHIN))


def total_slots() -> int:
    return workers_alive().aggregate(total=Sum("slots"))["total"] or 0


def free_slots() -> int:
    return total_slots() - Run.objects.filter(lease_until__gt=Now()).count()


def why_waiting(run: Run) -> str:
    """In words, what a run that does not run is waiting for; empty when it runs or has ended."""
    if run.status == RunStatus.HELD:
        return "Waiting for a person's decision."
    if run.status not in CLAIMABLE or run.lease_until is not None:
        return ""
    wait_s = (run.due - timezone.now()).total_seconds()
    if run.status == RunStatus.RETRYING and wait_s > 1:
        return f"Waiting {_span(wait_s)} before the next attempt, after: {run.error_message}".rstrip(": ")
    if run.status == RunStatus.RESOLVING and wait_s > 1:
        return f"Waiting {_span(wait_s)} before the destination is asked again what was published."
    if run.status == RunStatus.QUEUED:
        other = Run.objects.filter(pipeline=run.pipeline_id, status__in=ACTIVE).first()
        if other is not None:
            return f"Waiting for this pipeline's run that is {other.get_status_display().lower()} now."
    slots = total_slots()
    if not slots:
        return "Waiting because no worker is running."
    ahead = claimable().filter(Q(priority__lt=run.priority) | Q(priority=run.priority, due__lt=run.due)).count()
    if free_slots() <= 0:
        before = f", {ahead} before it" if ahead else ""
        return f"Waiting because all {slots} worker slots are busy{before}."
    return "Waiting for a worker to take it."


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def log_lines(run_id: UUID, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
    """Lines after `after` in their one order."""
    return list(LogLine.objects.filter(run_id=run_id, seq__gt=after).order_by("seq")[:limit])


def progress_of(run: Run) -> dict[str, Any]:
    """How far a run is: rows, bytes, rows per second, percent and seconds left where they can be told."""
    elapsed: float | None = None
    if run.started_at:
        elapsed = ((run.finished_at or timezone.now()) - run.started_at).total_seconds()
    rate = run.rows / elapsed if elapsed and run.rows else None
    percent: float | None = None
    left: float | None = None
    if run.status == RunStatus.SUCCEEDED:
        percent = 100.0
    elif run.estimated_rows:
        percent = min(100.0, 100.0 * run.rows / run.estimated_rows)
        if rate and run.status == RunStatus.RUNNING:
            left = max(0.0, (run.estimated_rows - run.rows) / rate)
    return {
        "rows": run.rows,
        "bytes": run.bytes,
        "rows_per_s": rate,
        "percent": percent,
        "seconds_left": left,
        "elapsed_s": elapsed,
        "estimated_rows": run.estimated_rows,
        "phase": run.phase,
    }


def run_state(run: Run) -> dict[str, Any]:
    """All that changes on a run's page, as plain values."""
    error = None
    if run.error_code:
        error = {"code": run.error_code, "message": run.error_message, "hint": run.error_hint}
    return {
        "status": run.status,
        "status_label": run.get_status_display(),
        "attempt": run.attempt,
        "attempts_allowed": run.revision.definition.get("retries", 0) + 1,
        "phase": run.phase,
        "progress": progress_of(run),
        "waiting": why_waiting(run),
        "error": error,
        "last_seq": run.last_seq,
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "cancel_requested": run.cancel_requested,
        "can_cancel": not run.is_terminal and not run.cancel_requested,
        "can_run_again": run.is_terminal,
        "receipt": run.receipt,
    }
