"""What was billed, by day, and who let a run go beyond its pipeline's budget."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from pipelines.models import Pipeline
from runs.models.runs import Run


class Ledger(models.Model):
    """What runs of a pipeline that did one thing were billed on one day of UTC.

    A trigger on runs keeps it, in the transaction that notes a bill; it outlives the runs.
    """

    id = models.BigAutoField(primary_key=True)
    pipeline = models.ForeignKey(Pipeline, on_delete=models.PROTECT, related_name="ledger", db_index=False)
    day = models.DateField()
    action = models.CharField(max_length=20)
    runs = models.IntegerField(default=0, help_text="Runs whose first bill came on this day.")
    query_bytes = models.BigIntegerField(default=0)
    storage_bytes = models.BigIntegerField(default=0)
    cost = models.DecimalField(max_digits=20, decimal_places=9, default=0)

    class Meta:
        verbose_name_plural = "ledger"
        constraints = [models.UniqueConstraint(fields=["pipeline", "day", "action"], name="ledger_day_once")]
        indexes = [models.Index(fields=["day"], name="ledger_by_day")]

    def __str__(self) -> str:
        return f"{self.pipeline_id} {self.day}"


class CostApproval(models.Model):
    """Somebody let a run read beyond the budget, up to so many bytes in all; it outlives the run."""

    id = models.BigAutoField(primary_key=True)
    pipeline = models.ForeignKey(Pipeline, on_delete=models.PROTECT, related_name="+", db_index=False)
    run = models.ForeignKey(Run, on_delete=models.SET_NULL, null=True, related_name="cost_approvals", db_index=False)
    at = models.DateTimeField(db_default=Now())
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    note = models.TextField(blank=True)
    bytes = models.BigIntegerField(null=True, help_text="What the run may bill in all; empty: nobody could tell.")

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["run", "-id"], name="cost_approval_of_run"),
            models.Index(fields=["-at"], name="cost_approval_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.pipeline_id} {self.bytes}"
