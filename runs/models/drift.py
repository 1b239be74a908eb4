"""How the columns of pipelines' sources changed, as runs took it."""

from __future__ import annotations

from functools import cached_property

from django.db import models
from django.db.models.functions import Now

from connectors.drift import Change
from connectors.postgres.names import postgres_name
from connectors.target_columns import Known, Memory
from pipelines.models import Pipeline
from runs.models.runs import Run


class SchemaChange(models.Model):
    """What a published run found changed; `columns` is a copy, for pages, of what the destination's head has since.

    It outlives its run: the newest tells under which names a target has its columns.
    """

    id = models.BigAutoField(primary_key=True)
    pipeline = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="schema_changes", db_index=False)
    run = models.OneToOneField(Run, on_delete=models.SET_NULL, null=True, related_name="schema_change")
    at = models.DateTimeField(db_default=Now())
    changes = models.JSONField()
    columns = models.JSONField()

    class Meta:
        ordering = ["-pk"]
        indexes = [models.Index(fields=["pipeline", "-id"], name="schema_change_of_pipeline")]

    def __str__(self) -> str:
        return f"{self.pipeline_id} {len(self.changes)}"

    @property
    def told(self) -> list[Change]:
        return [Change.from_json(change) for change in self.changes]

    @cached_property
    def known(self) -> tuple[Known, ...]:
        return Memory.from_json(self.columns).columns

    @property
    def gone(self) -> list[Known]:
        """Columns that the source dropped, and the target keeps."""
        return [known for known in self.known if known.is_gone]

    @property
    def renamed(self) -> list[Known]:
        """Columns that are not called in the target as they usually would be."""
        return [known for known in self.known if not known.is_gone and known.name != postgres_name(known.column.name)]
