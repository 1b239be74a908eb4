"""What is old goes, a batch at a time."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db import connection
from django.db.models import Value
from django.db.models.functions import Now

from runs.models import (
    Alert,
    AlertDelivery,
    Backfill,
    CostApproval,
    DatasetLook,
    Ledger,
    PartLoad,
    PollDay,
    Run,
    Skip,
)

ROWS_PER_RUN = 10
# What was spent is asked for long after the runs are gone: this year's, and last year's to compare with.
LEDGER_KEPT = timedelta(days=800)


def trim(*, batch: int = 200) -> int:
    """Delete one batch of log lines, finished runs and skips past their retention; says how many rows went.

    A batch takes some tens of milliseconds: beat deletes one between two rounds of ticks.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            DELETE FROM runs_logline WHERE ctid = ANY (ARRAY(
                SELECT l.ctid FROM runs_logline l JOIN runs_run r ON r.id = l.run_id
                WHERE l.at < now() - %s AND r.finished_at IS NOT NULL ORDER BY l.at LIMIT %s))
            """,
            [settings.LOG_RETENTION, batch * ROWS_PER_RUN],
        )
        trimmed = cursor.rowcount
    long_ago = Now() - Value(settings.RETENTION)
    old = Run.objects.filter(finished_at__lt=long_ago).order_by("finished_at")
    if ids := list(old.values_list("pk", flat=True)[:batch]):
        parts = list(PartLoad.objects.filter(run__in=ids).values_list("pk", flat=True)[: batch * ROWS_PER_RUN])
        trimmed += PartLoad.objects.filter(pk__in=parts).delete()[0]
        # Of loads in parts a batch may have thousands: then the runs follow with the next one.
        if len(parts) < batch * ROWS_PER_RUN:
            trimmed += Run.objects.filter(pk__in=ids).only("pk").delete()[0]
    trimmed += _trim_micro_batches(batch)
    others = (
        (Skip.objects, "last"),
        (DatasetLook.objects, "at"),
        (PollDay.objects, "day"),
        (Alert.objects, "closed_at"),
        (AlertDelivery.objects.filter(alert=None), "ended_at"),  # tests of channels; others go with their alerts
    )
    # Few at a time: each takes up to a thousand slices with it.
    ended = Backfill.objects.filter(ended_at__lt=long_ago).order_by("ended_at").values_list("pk", flat=True)
    if keys := list(ended[: max(1, batch // ROWS_PER_RUN)]):
        trimmed += Backfill.objects.filter(pk__in=keys).delete()[0]
    long_spent = Now() - Value(LEDGER_KEPT)
    for spent, field in ((Ledger.objects, "day"), (CostApproval.objects, "at")):
        found = spent.filter(**{f"{field}__lt": long_spent}).order_by(field).values_list("pk", flat=True)
        if keys := list(found[:batch]):
            trimmed += spent.filter(pk__in=keys).delete()[0]
    for rows, field in others:
        found = rows.filter(**{f"{field}__lt": long_ago}).order_by(field).values_list("pk", flat=True)[:batch]
        if keys := list(found):
            trimmed += rows.filter(pk__in=keys).delete()[0]
    return trimmed


# Micro-batches that went well at once say nothing that their day's sums do not. The newest of a pipeline stays: it has
# the watermark, and it may be how its last load ended.
_UNEVENTFUL = """
SELECT r.id FROM runs_run r
WHERE r.trigger = 'realtime' AND r.created_at < now() - %(keep)s
  AND r.status = 'succeeded' AND r.attempt = 1 AND r.decision = ''
  AND NOT EXISTS (SELECT FROM runs_lastend e WHERE e.run_id = r.id)
  AND EXISTS (
      SELECT FROM runs_run n WHERE n.pipeline_id = r.pipeline_id AND n.created_at > r.created_at
        AND n.status = 'succeeded' AND n.action = 'load')
ORDER BY r.created_at LIMIT %(batch)s
"""


def _trim_micro_batches(batch: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_UNEVENTFUL, {"keep": settings.REALTIME_RETENTION, "batch": batch})
        ids = [run for (run,) in cursor.fetchall()]
    return Run.objects.filter(pk__in=ids).only("pk").delete()[0] if ids else 0
