"""Reads that several doors share: why a run waits, how far it is, what its page shows."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Max, Min
from django.utils import timezone

from runs import part_queries, receipts
from runs.models import OVER_BUDGET, LogLine, Run, RunAction
from runs.part_queries import Picture
from runs.states import RunStatus, Step
from runs.waiting import wait_of, why_waiting

__all__ = ["database_now", "log_lines", "progress_of", "run_state", "why_waiting"]


def database_now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        return cursor.fetchone()[0]


def log_lines(run_id: UUID, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
    """Lines after `after` in their one order."""
    return list(LogLine.objects.filter(run_id=run_id, seq__gt=after).order_by("seq")[:limit])


def progress_of(run: Run) -> dict[str, Any]:
    """How far a run is: rows, bytes, rows per second, percent and seconds left where they can be told."""
    elapsed: float | None = None
    if run.started_at:
        elapsed = ((run.finished_at or timezone.now()) - run.started_at).total_seconds()
    rate = _rows_per_s(run, elapsed)
    percent: float | None = None
    left: float | None = None
    if run.status == RunStatus.SUCCEEDED:
        percent = 100.0
    elif run.estimated_rows:
        percent = min(100.0, 100.0 * run.rows / run.estimated_rows)
        if rate and run.status == RunStatus.RUNNING and run.step != Step.PUBLISH:
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


def _rows_per_s(run: Run, elapsed: float | None) -> float | None:
    """The speed of the attempt, or of the parts, that moved the rows: what was before it does not count."""
    if not elapsed or not run.rows:
        return None
    if run.step:
        parts = run.parts.aggregate(began=Min("started_at"), ended=Max("finished_at"))
        if parts["began"]:
            ended = parts["ended"] if run.step == Step.PUBLISH else None
            elapsed = ((ended or timezone.now()) - parts["began"]).total_seconds()
    elif run.attempt > 1 and (attempt := run.attempts.filter(number=run.attempt).first()):
        elapsed = ((attempt.ended_at or timezone.now()) - attempt.started_at).total_seconds()
    return run.rows / elapsed if elapsed > 0 else None


def run_state(run: Run, parts: Picture | None = None) -> dict[str, Any]:
    """All that changes on a run's page, as plain values; of its parts, a line and a few characters for each cell."""
    parts = parts or part_queries.picture_of(run)
    wait = wait_of(run)
    error = None
    if run.error_code:
        error = {"code": run.error_code, "message": run.error_message, "hint": run.error_hint}
    return {
        "status": run.status,
        "status_label": run.get_status_display(),
        "attempt": run.attempt,
        "attempts_allowed": run.revision.definition.get("retries", 0) + 1,
        "phase": part_queries.doing(run),
        "step": run.step,
        "parts": {"words": parts.words, "cells": parts.codes} if parts else None,
        "progress": progress_of(run),
        "waiting": wait.why,
        "waiting_on": [{"run": str(holder.run), "pipeline": holder.pipeline} for holder in wait.holders],
        "error": error,
        "last_seq": run.last_seq,
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "cancel_requested": run.cancel_requested,
        "can_cancel": not run.is_terminal and not run.cancel_requested,
        "can_run_again": run.is_terminal and run.action not in (RunAction.BACKFILL, RunAction.UNDO),
        "is_blocked": run.status == RunStatus.BLOCKED,
        "can_settle": run.status in (RunStatus.FAILED, RunStatus.CANCELLED),
        "is_held": run.status == RunStatus.HELD,
        "is_over_budget": run.status == RunStatus.HELD and run.error_code == OVER_BUDGET,
        "receipt": receipts.public(run),
    }
