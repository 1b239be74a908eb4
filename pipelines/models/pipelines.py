"""Pipelines, and the immutable copies of their definitions."""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from connectors.modes import WriteDisposition
from connectors.schema_policy import SchemaPolicy
from pipelines.models.caution import Caution
from pipelines.models.connections import Connection
from pipelines.models.rows import RowRules
from pipelines.models.running import Running
from pipelines.models.target_form import TargetForm


class PipelineState(models.TextChoices):
    ACTIVE = "active", "Active"
    PAUSED = "paused", "Paused"
    ARCHIVED = "archived", "Archived"


class Pipeline(RowRules, Caution, TargetForm, Running):
    """What to move, how and when. What a run needs of it is copied into a revision at every save."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200, unique=True)
    description = models.TextField(blank=True)
    state = models.CharField(max_length=10, choices=PipelineState, default=PipelineState.ACTIVE)
    source = models.ForeignKey(Connection, on_delete=models.PROTECT, related_name="pipelines_from")
    source_table = models.CharField(
        max_length=1100, blank=True, help_text="dataset.table or project.dataset.table. Leave empty to use a query."
    )
    source_query = models.TextField(
        blank=True,
        help_text="One SELECT statement in BigQuery's SQL. It may name @data_interval_start, @data_interval_end, "
        "@scheduled_for, @run_id and the parameters below.",
    )
    row_filter = models.TextField(
        blank=True,
        help_text="A condition that rows of the table must meet, as in country = 'DE' AND day >= '2026-01-01': "
        "BigQuery reads no others. A table that requires a filter on its partitions needs one that names their column.",
    )
    parameters = models.JSONField(
        default=dict,
        blank=True,
        help_text='Values that the query names as @name, as JSON: {"country": {"type": "STRING", "default": "DE"}}.',
    )
    # As they were when the source was last looked at; a run refuses a source that lost or retyped one of them.
    source_columns = models.JSONField(null=True, editable=False)
    destination = models.ForeignKey(Connection, on_delete=models.PROTECT, related_name="pipelines_to")
    target_schema = models.CharField(max_length=63, default="public")
    target_table = models.CharField(
        max_length=63,
        help_text="A name, or one that follows the run: events_{data_interval_start:%Y%m%d}, with @Europe/Berlin "
        "behind the format for the clocks of a zone, or {country} for a parameter.",
    )
    adopt_target = models.BooleanField(
        "take over the existing table",
        default=False,
        help_text="Allow writing to a table that exists already and was not made by this pipeline.",
    )
    write_disposition = models.CharField(
        max_length=10,
        choices=[
            (WriteDisposition.REPLACE.value, "Replace"),
            (WriteDisposition.APPEND.value, "Append"),
            (WriteDisposition.MERGE.value, "Merge"),
            (WriteDisposition.HISTORY.value, "History"),
        ],
        default=WriteDisposition.REPLACE.value,
        help_text="Replace: readers see the whole old table, then the whole new one. Append: every run adds its rows. "
        "Merge: rows with a known key are updated where they differ, others are added; what becomes of those that "
        "vanish is said below. History: every version of a row is kept, with the time it held.",
    )
    column_rules = models.JSONField(
        "columns",
        default=dict,
        blank=True,
        help_text="What is to be different from the usual, by column, as JSON: "
        '{"phone": {"skip": true}, "amount": {"type": "numeric(12,2)", "name": "total"}, "email": {"mask": "hmac"}}. '
        "A skipped column is not read at all; a masked one is masked before anything is written.",
    )
    schema_policy = models.CharField(
        "when the source's columns change",
        max_length=10,
        choices=[
            (SchemaPolicy.EVOLVE.value, "Follow"),
            (SchemaPolicy.REFRESH.value, "Follow, by a full refresh where the table cannot"),
            (SchemaPolicy.FREEZE.value, "Fail before any row moves"),
            (SchemaPolicy.IGNORE_NEW.value, "Do not read new columns"),
        ],
        default=SchemaPolicy.EVOLVE.value,
        help_text="Follow: new columns are added to the table, types are widened where that takes no rewriting, and "
        "dropped columns stay, as NULL; anything else stops the run and asks for a full refresh. Or that refresh is "
        "started without being asked: all rows are read, and billed, and rows that the source has no longer go. "
        "A pipeline that fails for a change goes on once it is saved again. New columns that are not read are told "
        "of once.",
    )
    # Ticks up to here belong to a pause, whenever they are looked at: resuming never makes a surprise run.
    active_from = models.DateTimeField(default=timezone.now, editable=False)
    # RESTRICT: a revision goes with its pipeline, and only so.
    revision = models.ForeignKey("Revision", on_delete=models.RESTRICT, null=True, editable=False, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    # What a dry run said when somebody last looked ahead, see pipelines.lookups; kept nowhere.
    cost_estimate: dict[str, Any] | None = None

    class Meta:
        ordering = ["name"]
        permissions = [
            ("run_pipeline", "Can start and cancel runs, pause and resume pipelines"),
            ("approve_cost", "Can let runs read beyond their budget"),
            ("sql_pipeline", "Can write SQL that runs around a pipeline's loads"),
        ]
        constraints = [
            models.CheckConstraint(
                name="pipeline_table_or_query",
                condition=(Q(source_table="") & ~Q(source_query="")) | (~Q(source_table="") & Q(source_query="")),
                violation_error_message="Give either a source table or a query.",
            ),
            models.UniqueConstraint(
                name="pipeline_target_once",
                fields=["destination", "target_schema", "target_table"],
                condition=~Q(state="archived"),
                violation_error_message="Another pipeline writes to this table already.",
            ),
            models.CheckConstraint(
                name="pipeline_realtime_reads_new_rows",
                condition=Q(mode="batch") | Q(incremental=True),
                violation_error_message="Near real time reads only new rows.",
            ),
        ]
        indexes = [
            models.Index(fields=["source"], condition=Q(watch_every_s__isnull=False), name="pipeline_watches"),
            models.Index(fields=["id"], condition=Q(mode="realtime", state="active"), name="pipeline_realtime"),
            # Tells whether active pipelines have more than one destination, without reading them.
            models.Index(fields=["destination"], condition=Q(state="active"), name="pipeline_active_to"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("pipeline", args=[self.pk])


class Revision(models.Model):
    """An immutable copy of a pipeline's definition; every run points to the one it ran."""

    id = models.BigAutoField(primary_key=True)
    pipeline = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="revisions")
    number = models.PositiveIntegerField()
    definition = models.JSONField()
    fingerprint = models.CharField(max_length=64)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["pipeline", "number"], name="revision_number_once")]

    def __str__(self) -> str:
        return f"revision {self.number}"
