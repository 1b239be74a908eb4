"""Alerts as people set them: where they go, and what about."""

from __future__ import annotations

import uuid

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q

from pipelines import alert_urls
from pipelines.fields import EncryptedJSONField, LostSecrets
from pipelines.models.pipelines import Pipeline


class AlertKind(models.TextChoices):
    """What an alert can be about."""

    FAILED = "failed", "A run fails"
    RECOVERED = "recovered", "It works again"
    HELD = "held", "A guard or a check holds a run"
    LATE = "late", "Late against its deadline"
    STALE = "stale", "Stale data"
    SCHEMA_DRIFT = "schema_drift", "The source's columns changed"
    OVER_BUDGET = "over_budget", "Over budget"
    UNUSUAL_DURATION = "unusual_duration", "A run takes unusually long"
    UNUSUAL_ROWS = "unusual_rows", "An unusual number of rows"


class Quiet(models.TextChoices):
    """What becomes of alerts during quiet hours."""

    DIGEST = "digest", "Keep them, and send one message afterwards"
    DROP = "drop", "Do not send them at all"


class AlertChannel(models.Model):
    """Where alerts go: an address of apprise, which is a secret as a whole."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True, help_text="What rules call it, for example #data-alerts.")
    # How the address begins: all of it that may be shown.
    scheme = models.CharField(max_length=30, editable=False)
    secrets = EncryptedJSONField(default=dict, blank=True, editable=False)
    enabled = models.BooleanField(
        default=True, help_text="Off: nothing is sent, and what comes meanwhile is not sent afterwards either."
    )
    quiet_from = models.TimeField(
        "quiet from", null=True, blank=True, help_text="For example 22:00. Empty: no quiet hours."
    )
    quiet_until = models.TimeField("quiet until", null=True, blank=True, help_text="The next day if it is earlier.")
    quiet_zone = models.CharField("time zone", max_length=64, default="UTC", help_text="Whose clock quiet hours go by.")
    quiet_mode = models.CharField(
        "alerts in quiet hours",
        max_length=10,
        choices=Quiet,
        default=Quiet.DIGEST,
        help_text="Alerts of urgent rules are sent at any hour.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                name="channel_quiet_hours",
                condition=Q(quiet_from__isnull=True, quiet_until__isnull=True)
                | (Q(quiet_from__isnull=False, quiet_until__isnull=False) & ~Q(quiet_from=F("quiet_until"))),
                violation_error_message="Quiet hours need a beginning and another time as their end.",
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def has_lost_secrets(self) -> bool:
        return isinstance(self.secrets, LostSecrets)

    @property
    def service(self) -> str:
        """The name of the service, for people."""
        return alert_urls.SERVICES.get(self.scheme, self.scheme)


class AlertRule(models.Model):
    """Whom to tell of what, for some pipelines or for all."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    enabled = models.BooleanField(default=True, help_text="Off: nothing is watched, and open alerts are closed.")
    kinds = ArrayField(
        models.CharField(max_length=20, choices=AlertKind),
        verbose_name="tell when",
        default=list,
        help_text="One message when it begins, and none again while it lasts. “It works again” adds one when it is "
        "over, with how long it lasted.",
    )
    every_pipeline = models.BooleanField(
        "all pipelines", default=True, help_text="Also those that are made later. Off: those that you choose."
    )
    pipelines = models.ManyToManyField(Pipeline, blank=True, related_name="alert_rules")
    channels = models.ManyToManyField(AlertChannel, related_name="rules", help_text="All of them are told.")
    late_after_min = models.PositiveIntegerField(
        "late after (minutes)",
        default=60,
        validators=[MinValueValidator(1), MaxValueValidator(7 * 1440)],
        help_text="The deadline: by then a run that a schedule asked for has succeeded.",
    )
    stale_after_h = models.PositiveIntegerField(
        "stale after (hours)",
        default=26,
        validators=[MinValueValidator(1), MaxValueValidator(366 * 24)],
        help_text="Data is stale when nothing was loaded for so long.",
    )
    distance = models.PositiveSmallIntegerField(
        "unusual from (times the usual distance)",
        default=6,
        validators=[MinValueValidator(2), MaxValueValidator(100)],
        help_text="The last 30 loads tell what is usual: their middle, and how far loads lie from it as a rule. Lower "
        "numbers tell you more often; nothing is told before there are 10 loads.",
    )
    remind_after_h = models.PositiveIntegerField(
        "remind after (hours)",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(30 * 24)],
        help_text="Tell again each time it has lasted so much longer. Empty: never.",
    )
    urgent = models.BooleanField(default=False, help_text="Tell at once, in a channel's quiet hours too.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                name="alert_rule_tells_something",
                condition=Q(kinds__len__gte=1),
                violation_error_message="Choose at least one thing to tell.",
            )
        ]

    def __str__(self) -> str:
        return self.name
