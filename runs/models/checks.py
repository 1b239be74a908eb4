"""What came of the checks of runs."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from connectors.checks import LABELS, LONGEST_NAME, Severity, Status
from pipelines.models import Pipeline
from runs.models.runs import Run

KINDS = [(kind.value, label) for kind, label in LABELS.items()]
STATUSES = [
    (Status.PASSED.value, "Passed"),
    (Status.FAILED.value, "Failed"),
    (Status.UNKNOWN.value, "Could not be made"),
    (Status.SKIPPED.value, "Left out"),
]


class CheckResult(models.Model):
    """How one check of one run ended; of the first bad rows `sample` keeps columns and rows, as text."""

    id = models.BigAutoField(primary_key=True)
    # No index of their own where a later one begins with the column.
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="check_results", db_index=False)
    pipeline = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="check_results", db_index=False)
    name = models.CharField(max_length=LONGEST_NAME)
    kind = models.CharField(max_length=20, choices=KINDS)
    severity = models.CharField(max_length=10, choices=[(each.value, each.value) for each in Severity])
    status = models.CharField(max_length=10, choices=STATUSES)
    message = models.TextField()
    value = models.FloatField(null=True)
    seconds = models.FloatField(default=0)
    at = models.DateTimeField(db_default=Now())
    sample = models.JSONField(null=True)

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["run", "name"], name="check_result_once")]
        indexes = [
            models.Index(fields=["pipeline", "-at"], name="check_result_of_pipeline"),
            # Few of many: those whose rows go when newer ones come.
            models.Index(fields=["pipeline", "name"], condition=Q(sample__isnull=False), name="check_result_with_rows"),
        ]

    def __str__(self) -> str:
        return f"{self.run_id} {self.name}: {self.status}"
