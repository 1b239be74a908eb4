"""Backfills: a past range, cut into slices that are loaded one after another."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.urls import reverse

from pipelines.models import Pipeline
from runs.models.runs import Run


class BackfillKind(models.TextChoices):
    """What a slice is a range of."""

    CURSOR = "cursor", "Values of the cursor"
    INTERVAL = "interval", "The data interval"


class BackfillState(models.TextChoices):
    RUNNING = "running", "Running"
    PAUSED = "paused", "Paused"
    CANCELLED = "cancelled", "Cancelled"
    ENDED = "ended", "Ended"


class SliceStatus(models.TextChoices):
    WAITING = "waiting", "Waiting"
    RUNNING = "running", "Under way"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


class Backfill(models.Model):
    """A past range of one pipeline. Ends and step are texts, as people read them; `kind` says of what."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pipeline = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="backfills", db_index=False)
    kind = models.CharField(max_length=10, choices=BackfillKind)
    low = models.CharField(max_length=100)
    high = models.CharField(max_length=100)
    step = models.CharField(max_length=40)
    zone = models.CharField(max_length=64, default="UTC")
    # Values that its runs are given besides their defaults.
    parameters = models.JSONField(default=dict, blank=True)
    state = models.CharField(max_length=10, choices=BackfillState, default=BackfillState.RUNNING)
    # Why it is paused, if nobody asked for it.
    reason = models.TextField(blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(db_default=Now())
    # When its last run was queued: of several, the one that waited longest goes first.
    queued_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["pipeline"], condition=Q(state__in=["running", "paused"]), name="backfill_one_at_a_time"
            )
        ]
        indexes = [
            models.Index(fields=["queued_at"], condition=Q(state="running"), name="backfill_running"),
            models.Index(fields=["pipeline", "-created_at"], name="backfill_of_pipeline"),
        ]

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"

    def get_absolute_url(self) -> str:
        return reverse("backfill", args=[self.pk])


class BackfillSlice(models.Model):
    """One share of a backfill, [low, high), with its last run and what came of it: that outlives the run."""

    id = models.BigAutoField(primary_key=True)
    backfill = models.ForeignKey(Backfill, on_delete=models.CASCADE, related_name="slices", db_index=False)
    number = models.PositiveIntegerField()
    low = models.CharField(max_length=100)
    high = models.CharField(max_length=100)
    status = models.CharField(max_length=10, choices=SliceStatus, default=SliceStatus.WAITING)
    run = models.ForeignKey(Run, on_delete=models.SET_NULL, null=True, related_name="backfill_slices")
    tries = models.PositiveIntegerField(default=0)
    rows = models.BigIntegerField(null=True)
    seconds = models.FloatField(null=True)
    error_code = models.CharField(max_length=60, blank=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["backfill", "number"], name="slice_number_once")]
        indexes = [
            models.Index(fields=["backfill", "number"], condition=Q(status="waiting"), name="slice_waiting"),
            models.Index(fields=["run"], condition=Q(status="running"), name="slice_running"),
        ]

    def __str__(self) -> str:
        return f"slice {self.number + 1}"
