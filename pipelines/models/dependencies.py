"""What a pipeline waits for."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q

from pipelines.models.pipelines import Pipeline

LONGEST_OFFSET_S = 366 * 86400
LONGEST_WAIT_HOURS = 30 * 24


class DependencyRule(models.TextChoices):
    SAME_INTERVAL = "same_interval", "It succeeded for the same data interval"
    OFFSET = "offset", "It succeeded for the data interval a fixed time earlier"
    NEW_DATA = "new_data", "It succeeded since this pipeline's last run"


class GiveUp(models.TextChoices):
    FAIL = "fail", "The run fails"
    SKIP = "skip", "The run is skipped"


class Dependency(models.Model):
    """One pipeline (the downstream) waits for another (the upstream). Together they never make a cycle."""

    id = models.BigAutoField(primary_key=True)
    # The unique constraint begins with it.
    pipeline = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="dependencies", db_index=False)
    upstream = models.ForeignKey(
        Pipeline,
        on_delete=models.PROTECT,
        related_name="dependents",
        help_text="The pipeline to wait for.",
    )
    rule = models.CharField(
        "what is waited for",
        max_length=20,
        choices=DependencyRule,
        default=DependencyRule.SAME_INTERVAL,
        help_text="With a schedule of its own, a run of this pipeline waits for that. Without one, it starts when all "
        "its upstreams have succeeded.",
    )
    offset_s = models.PositiveIntegerField(
        "offset (seconds)",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(LONGEST_OFFSET_S)],
        help_text="Only for the interval a fixed time earlier: by how much. 86400 is the day before.",
    )
    give_up_hours = models.PositiveSmallIntegerField(
        "give up after (hours)",
        default=24,
        validators=[MinValueValidator(1), MaxValueValidator(LONGEST_WAIT_HOURS)],
        help_text="How long a run waits for it at most.",
    )
    on_give_up = models.CharField("then", max_length=10, choices=GiveUp, default=GiveUp.FAIL)

    class Meta:
        ordering = ["pk"]
        verbose_name_plural = "dependencies"
        constraints = [
            models.UniqueConstraint(
                fields=["pipeline", "upstream"],
                name="dependency_once",
                violation_error_message="It waits for this pipeline already.",
            ),
            models.CheckConstraint(
                name="dependency_on_another",
                condition=~Q(pipeline=F("upstream")),
                violation_error_message="A pipeline cannot wait for itself.",
            ),
            models.CheckConstraint(
                name="dependency_offset_fits_rule",
                condition=Q(rule="offset", offset_s__isnull=False) | (~Q(rule="offset") & Q(offset_s__isnull=True)),
                violation_error_message="An offset goes with its rule, and only with it.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pipeline_id} after {self.upstream_id}"
