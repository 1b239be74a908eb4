"""Near real time: who polls which pipelines, what was seen of their sources, and what their micro-batches came to."""

from __future__ import annotations

from django.db import models

from pipelines.models import Pipeline
from runs.models.runs import Run


class Because(models.TextChoices):
    """Why a micro-batch was asked for."""

    FIRST = "first", "The first read of this definition, or after a pause"
    CHANGED = "changed", "The source has changed"
    STREAMING = "streaming", "Rows are being streamed in"
    FORCED = "forced", "Read anyway, after so many polls without a change"
    FAILED = "failed", "The one before failed or was cancelled"


class PollShare(models.Model):
    """A share of the pipelines: its poller's, as long as that says that it lives."""

    number = models.PositiveSmallIntegerField(primary_key=True)
    poller = models.CharField(max_length=200, blank=True)

    def __str__(self) -> str:
        return f"share {self.number}"


class Poll(models.Model):
    """What a pipeline's source was like when a micro-batch was last asked for, and how polling goes.

    `version` counts what was asked for: who decides by an older one is refused. `since` is the pipeline's active_from
    then.
    """

    pipeline = models.OneToOneField(Pipeline, on_delete=models.CASCADE, primary_key=True, related_name="poll")
    version = models.BigIntegerField(default=0)
    revision = models.BigIntegerField(null=True)
    since = models.DateTimeField(null=True)
    record = models.TextField(blank=True)
    streaming = models.TextField(blank=True)
    asked_at = models.DateTimeField(null=True)
    run = models.ForeignKey(Run, on_delete=models.SET_NULL, null=True, related_name="+")
    # The last time that the source answered, written down now and then: see polling.WRITE_EVERY_S.
    seen_at = models.DateTimeField(null=True)
    # Tables behind it whose changes no record tells of.
    unseen = models.TextField(blank=True)
    # Why the last change started nothing.
    refusal = models.TextField(blank=True)
    failures = models.PositiveIntegerField(default=0)
    error_code = models.CharField(max_length=60, blank=True)
    error_message = models.TextField(blank=True)
    error_hint = models.TextField(blank=True)

    def __str__(self) -> str:
        return f"{self.pipeline_id} {self.version}"


class PollDay(models.Model):
    """What the micro-batches of a pipeline came to on a day of UTC; it outlives the runs themselves."""

    id = models.BigAutoField(primary_key=True)
    pipeline = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="poll_days", db_index=False)
    day = models.DateField()
    runs = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    rows = models.BigIntegerField(default=0)
    bytes_billed = models.BigIntegerField(default=0)
    cost = models.DecimalField(max_digits=20, decimal_places=9, default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["pipeline", "day"], name="poll_day_once")]
        indexes = [models.Index(fields=["day"], name="poll_day_by_age")]

    def __str__(self) -> str:
        return f"{self.pipeline_id} {self.day}"
