"""Ticks that made no run."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from pipelines.models import Pipeline, Schedule
from runs.models.runs import Run


class Skip(models.Model):
    """Ticks that made no run of their own: one row per range, with the reason and the run that stands for them."""

    class Reason(models.TextChoices):
        OVERLAP = "overlap", "A run was active or waiting"
        MISSED = "missed", "Missed during an outage"
        PAUSED = "paused", "The pipeline was paused"
        CALENDAR = "calendar", "The calendar has no runs then"
        MERGED = "merged", "Another schedule fired at the same instant"

    id = models.BigAutoField(primary_key=True)
    pipeline = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="skips", db_index=False)
    schedule = models.ForeignKey(Schedule, on_delete=models.CASCADE, related_name="skips", db_index=False)
    first = models.DateTimeField()
    last = models.DateTimeField()
    ticks = models.PositiveIntegerField()
    reason = models.CharField(max_length=10, choices=Reason)
    # The name of the calendar that closed these ticks: it may be deleted one day.
    calendar = models.CharField(max_length=100, blank=True)
    run = models.ForeignKey(Run, on_delete=models.SET_NULL, null=True, related_name="skips")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-last"]
        indexes = [
            models.Index(fields=["pipeline", "-last"], name="skip_of_pipeline"),
            models.Index(fields=["schedule", "last"], name="skip_of_schedule"),
            models.Index(fields=["last"], name="skip_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.ticks} skipped: {self.reason}"
