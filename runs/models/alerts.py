"""What alerts came of runs, and whether people were told."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.urls import reverse

from pipelines.models import AlertChannel, AlertKind, AlertRule, Pipeline
from runs.models.runs import Run
from runs.states import RunStatus

# The status of an event that is about no new status: a person marked a run as done.
MARKED_DONE = "done"


class AlertEvent(models.Model):
    """A run ended, or was held or let go, or called done; nobody has looked yet whether that is an alert.

    A trigger on runs writes it, in the transaction that moved the run, and only if a rule concerns the pipeline.
    """

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="+")
    pipeline = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="+", db_index=False)
    status = models.CharField(max_length=10, choices=RunStatus)
    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.pipeline_id} {self.status}"


class Closing(models.TextChoices):
    """Why an alert is over."""

    RECOVERED = "recovered", "It works again"
    UNWATCHED = "unwatched", "Nobody watches it any more"
    TOLD = "told", "It was told, and is no trouble"


class Alert(models.Model):
    """Something that lasts: it begins once, is counted while it goes on, and ends."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    rule = models.ForeignKey(AlertRule, on_delete=models.SET_NULL, null=True, related_name="alerts")
    pipeline = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="alerts", db_index=False)
    kind = models.CharField(max_length=20, choices=AlertKind)
    run = models.ForeignKey(Run, on_delete=models.SET_NULL, null=True, related_name="alerts")
    # Watched for its end only: nobody was told that it began.
    is_silent = models.BooleanField(default=False)
    count = models.PositiveIntegerField(default=1)
    # What it is about began: the first failure, the time that was missed, the last success.
    since = models.DateTimeField()
    opened_at = models.DateTimeField(db_default=Now())
    last_at = models.DateTimeField(db_default=Now())
    told_at = models.DateTimeField(db_default=Now())
    closed_at = models.DateTimeField(null=True)
    closing = models.CharField(max_length=10, choices=Closing, blank=True)
    code = models.CharField(max_length=60, blank=True)
    cause = models.TextField(blank=True)
    hint = models.TextField(blank=True)

    class Meta:
        ordering = ["-opened_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "pipeline", "kind"], condition=Q(closed_at__isnull=True), name="alert_open_once"
            )
        ]
        indexes = [
            models.Index(fields=["pipeline"], condition=Q(closed_at__isnull=True), name="alert_open"),
            models.Index(fields=["closed_at"], condition=Q(closed_at__isnull=False), name="alert_closed"),
            models.Index(fields=["pipeline", "-opened_at"], name="alert_of_pipeline"),
            models.Index(fields=["-opened_at"], name="alert_newest"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.pipeline_id}"


class DeliveryState(models.TextChoices):
    WAITING = "waiting", "Waiting"
    SENDING = "sending", "Sending"
    SENT = "sent", "Sent"
    FAILED = "failed", "Given up"
    DROPPED = "dropped", "Not sent"
    MERGED = "merged", "Sent with others"


class DeliveryEvent(models.TextChoices):
    """What of an alert a delivery tells."""

    OPENED = "opened", "It began"
    REMINDED = "reminded", "It goes on"
    RECOVERED = "recovered", "It is over"
    TEST = "test", "Test"


class AlertDelivery(models.Model):
    """A message to one channel: written with what it tells, sent later, at least once."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, null=True, related_name="deliveries", db_index=False)
    channel = models.ForeignKey(AlertChannel, on_delete=models.SET_NULL, null=True, related_name="deliveries")
    channel_name = models.CharField(max_length=100)
    event = models.CharField(max_length=10, choices=DeliveryEvent)
    number = models.PositiveIntegerField(default=0)
    title = models.CharField(max_length=300)
    body = models.TextField()
    severity = models.CharField(max_length=10)
    urgent = models.BooleanField(default=False)
    # It waited for the end of quiet hours, and goes with whatever else did.
    deferred = models.BooleanField(default=False)
    state = models.CharField(max_length=10, choices=DeliveryState, default=DeliveryState.WAITING)
    due = models.DateTimeField(db_default=Now())
    attempts = models.PositiveIntegerField(default=0)
    # The number of the try that may write how it ended, and until when nobody else takes it.
    token = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True)
    error_code = models.CharField(max_length=60, blank=True)
    error_message = models.TextField(blank=True)
    merged_into = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="merged")
    is_resend = models.BooleanField(default=False)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "alert deliveries"
        constraints = [
            models.UniqueConstraint(
                fields=["alert", "channel", "event", "number"],
                condition=Q(is_resend=False),
                name="alert_delivery_once",
            )
        ]
        indexes = [
            models.Index(fields=["due"], condition=Q(state__in=["waiting", "sending"]), name="alert_delivery_due"),
            models.Index(fields=["-created_at"], name="alert_delivery_newest"),
            models.Index(fields=["ended_at"], condition=Q(ended_at__isnull=False), name="alert_delivery_ended"),
        ]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("admin:runs_alertdelivery_change", args=[self.pk])
