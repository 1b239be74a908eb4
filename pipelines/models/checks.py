"""What a pipeline's rows must pass before they are published."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from connectors.checks import LABELS, LONGEST_NAME, TIME_LIMIT_S, USUAL_RUNS, Severity
from pipelines.models.pipelines import Pipeline

KINDS = [(kind.value, label) for kind, label in LABELS.items()]
SEVERITIES = [
    (Severity.HOLD.value, "Hold the run: a person looks, then approves or discards"),
    (Severity.WARN.value, "Only warn, and publish"),
    (Severity.QUARANTINE.value, "Put the bad rows into quarantine, and publish the others"),
]
LONGEST_LIMIT_S = 24 * 3600


class Check(models.Model):
    """One check. Its fields are those of `connectors.checks.Check`, which says what they mean."""

    id = models.BigAutoField(primary_key=True)
    # The unique constraint begins with it.
    pipeline = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="checks")
    kind = models.CharField("what is checked", max_length=20, choices=KINDS)
    columns = ArrayField(
        models.CharField(max_length=300),
        default=list,
        blank=True,
        help_text="As the source calls them, separated by commas. Unique: together, and among what the table "
        "will hold. Checksum: all if empty.",
    )
    severity = models.CharField(
        "if it fails",
        max_length=10,
        choices=SEVERITIES,
        default=Severity.HOLD.value,
        help_text="A check that cannot be made, as of a query with a mistake, counts as failed. Quarantine is for "
        "checks that look at single rows, of a pipeline that has one; a query then gives the column ctid of {staged}.",
    )
    values = models.JSONField("accepted values", default=list, blank=True, help_text="One on each line.")
    minimum = models.CharField(
        "lowest",
        max_length=100,
        blank=True,
        help_text="The lowest value that passes, as PostgreSQL reads it: 0, 2026-01-01. Of a row count: a number of "
        "rows.",
    )
    maximum = models.CharField(
        "highest",
        max_length=100,
        blank=True,
        help_text="The highest value that passes. For times, now and today will do: nothing may lie in the future.",
    )
    pattern = models.TextField(
        "regular expression",
        blank=True,
        help_text="Of PostgreSQL's kind. It may match anywhere: write ^ and $ for the whole value.",
    )
    table = models.CharField(
        "other table",
        max_length=200,
        blank=True,
        help_text="Of the destination, as schema.table. Values must be found there; NULL refers to nothing.",
    )
    table_columns = ArrayField(
        models.CharField(max_length=63),
        verbose_name="its columns",
        default=list,
        blank=True,
        help_text="In the order of the columns above.",
    )
    query = models.TextField(
        "query",
        blank=True,
        help_text="One SELECT in PostgreSQL's SQL that gives the bad rows; it passes if there are none. {staged} "
        "stands for the rows that came, under the target's names: SELECT * FROM {staged} WHERE ends_at < starts_at. "
        "It can read what the connection's role can, and write nothing.",
    )
    percent = models.PositiveSmallIntegerField(
        "off by at most (%)",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(10_000)],
        help_text="How far the number of rows may be from the median of earlier runs, which need to be three at least.",
    )
    runs = models.PositiveSmallIntegerField(
        "of the last (runs)",
        default=USUAL_RUNS,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="How many earlier runs say what is usual.",
    )
    max_age_s = models.PositiveIntegerField(
        "not older than (seconds)",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(10 * 366 * 86400)],
        help_text="How old the newest value of the column may be; 86400 is a day. A time without a zone is of UTC.",
    )
    time_limit_s = models.PositiveIntegerField(
        "time limit (seconds)",
        default=TIME_LIMIT_S,
        validators=[MinValueValidator(1), MaxValueValidator(LONGEST_LIMIT_S)],
        help_text="A check that takes longer counts as failed.",
    )
    name = models.CharField(
        max_length=LONGEST_NAME,
        blank=True,
        help_text="Its results are kept under it. Empty: it is called as what it checks.",
    )

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["pipeline", "name"],
                condition=~Q(name=""),
                name="check_name_once",
                violation_error_message="Another check of the pipeline has this name.",
            )
        ]

    def __str__(self) -> str:
        return self.name or self.get_kind_display()
