"""What workers did for a run: attempts, and the parts of a load."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from runs.models.runs import Run
from runs.states import PartStatus


class Attempt(models.Model):
    """One try of a run's step by one worker."""

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="attempts", db_index=False)
    number = models.PositiveIntegerField()
    token = models.BigIntegerField()
    worker = models.CharField(max_length=200)
    started_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    # succeeded, failed, retrying, cancelled, held, divided, lost, drained, unresolved; empty while it goes on
    outcome = models.CharField(max_length=20, blank=True)
    error_code = models.CharField(max_length=60, blank=True)
    error_message = models.TextField(blank=True)
    error_hint = models.TextField(blank=True)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["run", "number"], name="attempt_number_once")]

    def __str__(self) -> str:
        return f"attempt {self.number}"


class PartLoad(models.Model):
    """One part of a run that is loaded in parts, and whoever loads it now; the rows count as they are committed."""

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="parts", db_index=False)
    number = models.PositiveIntegerField()
    name = models.CharField(max_length=200, blank=True)
    status = models.CharField(max_length=10, choices=PartStatus, default=PartStatus.WAITING)
    due = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    token = models.BigIntegerField(default=0)
    worker = models.CharField(max_length=200, blank=True)
    task_id = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True)
    failures = models.PositiveIntegerField(default=0)
    losses = models.PositiveIntegerField(default=0)

    rows = models.BigIntegerField(default=0)
    bytes = models.BigIntegerField(default=0)
    estimated_rows = models.BigIntegerField(null=True)
    # What the source has billed for it, which its run's own columns count as well.
    query_bytes = models.BigIntegerField(default=0)
    storage_bytes = models.BigIntegerField(default=0)
    error_code = models.CharField(max_length=60, blank=True)
    error_message = models.TextField(blank=True)
    error_hint = models.TextField(blank=True)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["run", "number"], name="part_number_once")]
        indexes = [
            models.Index(fields=["run", "number"], condition=Q(status=PartStatus.WAITING), name="part_waiting"),
            models.Index(fields=["run", "lease_until"], condition=Q(lease_until__isnull=False), name="part_leased"),
        ]

    def __str__(self) -> str:
        return f"part {self.number + 1}"
