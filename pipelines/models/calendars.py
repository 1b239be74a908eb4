"""When nothing is to run."""

from __future__ import annotations

import uuid

from django.db import models

from pipelines import schedules


class Calendar(models.Model):
    """Times without runs: ticks that lie in them are skipped, and the skip names the calendar."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    zone = models.CharField("time zone", max_length=64, default="UTC", help_text="Whose clocks its days go by.")
    closed = models.JSONField(
        "times without runs",
        default=list,
        blank=True,
        help_text="A line each: a day (2026-12-24), days (2026-12-24 to 2026-12-26), a span (2026-12-24 18:00 to "
        "2026-12-27 06:00), a day of every year (every 12-25), days of the week (every Sat,Sun) or hours of them "
        "(every Sun 02:00-04:00, every day 22:00-06:00). Words may follow: 2026-12-24 Christmas Eve.",
    )
    description = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def closures(self) -> schedules.Closures:
        return schedules.Closures.of(self.zone, self.closed)
