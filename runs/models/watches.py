"""Source tables that are looked at for changes, and what each pipeline has seen of its own."""

from __future__ import annotations

from django.db import models

from pipelines.models import Connection, Pipeline
from runs.models.runs import Run


class WatchedTable(models.Model):
    """A table of a source, looked at once for all pipelines that read it."""

    id = models.BigAutoField(primary_key=True)
    connection = models.ForeignKey(Connection, on_delete=models.CASCADE, related_name="+", db_index=False)
    table = models.CharField(max_length=1100)
    # Who looks now has it until then.
    lease_until = models.DateTimeField(null=True)
    looked_at = models.DateTimeField(null=True)
    fingerprint = models.TextField(blank=True)
    modified = models.DateTimeField(null=True)
    rows = models.BigIntegerField(null=True)
    is_streaming = models.BooleanField(default=False)
    failures = models.PositiveIntegerField(default=0)
    error_code = models.CharField(max_length=60, blank=True)
    error_message = models.TextField(blank=True)
    error_hint = models.TextField(blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["connection", "table"], name="watched_table_once")]

    def __str__(self) -> str:
        return self.table


class Watch(models.Model):
    """What a pipeline has seen of its source table: a run is asked for once when that changes.

    `since`: the pipeline's active_from then; what changed in a pause is not made up for.
    """

    pipeline = models.OneToOneField(Pipeline, on_delete=models.CASCADE, primary_key=True, related_name="watch")
    watched = models.ForeignKey(WatchedTable, on_delete=models.CASCADE, related_name="watches")
    fingerprint = models.TextField()
    since = models.DateTimeField()
    changed_at = models.DateTimeField(null=True)
    run = models.ForeignKey(Run, on_delete=models.SET_NULL, null=True, related_name="+")
    # Why the last change started nothing.
    refusal = models.TextField(blank=True)

    class Meta:
        verbose_name_plural = "watches"

    def __str__(self) -> str:
        return f"{self.pipeline_id} {self.watched_id}"
