"""What a run said, line by line."""

from __future__ import annotations

from django.db import models

from runs.models.runs import Run


class LogLine(models.Model):
    """One line of a run's log; `seq` counts from 1 without gaps, in commit order."""

    pk = models.CompositePrimaryKey("run_id", "seq")
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="log_lines", db_index=False)
    seq = models.BigIntegerField()
    at = models.DateTimeField()
    level = models.CharField(max_length=10)
    message = models.TextField()
    attempt = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["seq"]
        indexes = [models.Index(fields=["at"], name="log_line_at")]

    def __str__(self) -> str:
        return f"{self.seq} {self.message}"
