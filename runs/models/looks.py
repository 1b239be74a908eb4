"""What looks at datasets found."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from pipelines.models import DatasetRule, Pipeline


class DatasetLook(models.Model):
    """One look at a rule's dataset: how many tables it saw, and what became of them."""

    id = models.BigAutoField(primary_key=True)
    rule = models.ForeignKey(DatasetRule, on_delete=models.CASCADE, related_name="looks", db_index=False)
    at = models.DateTimeField(db_default=Now())
    tables = models.PositiveIntegerField(default=0, help_text="Those that the rule is about.")
    appeared = models.PositiveIntegerField(default=0)
    made = models.PositiveIntegerField("pipelines made", default=0)
    refused = models.PositiveIntegerField(default=0)
    vanished = models.PositiveIntegerField(default=0)
    left = models.PositiveIntegerField("left for the next", default=0)
    error_code = models.CharField(max_length=60, blank=True)
    error_message = models.TextField(blank=True)
    error_hint = models.TextField(blank=True)

    class Meta:
        ordering = ["-at"]
        indexes = [
            models.Index(fields=["rule", "-at"], name="dataset_look_of_rule"),
            models.Index(fields=["at"], name="dataset_look_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.rule_id} {self.at:%Y-%m-%d %H:%M:%S}"


class SeenTable(models.Model):
    """A table that a rule knows of: what is not among these has appeared."""

    id = models.BigAutoField(primary_key=True)
    rule = models.ForeignKey(DatasetRule, on_delete=models.CASCADE, related_name="seen_tables", db_index=False)
    name = models.CharField(max_length=1100)
    first_seen_at = models.DateTimeField(db_default=Now())
    vanished_at = models.DateTimeField(null=True)
    pipeline = models.ForeignKey(Pipeline, on_delete=models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["rule", "name"], name="seen_table_once")]

    def __str__(self) -> str:
        return self.name


class TableEvent(models.Model):
    """Something that happened to a table of a dataset, for people and for alerts."""

    class Kind(models.TextChoices):
        APPEARED = "appeared", "Appeared, and a pipeline reads it already"
        MADE = "made", "Appeared, and has a pipeline now"
        REFUSED = "refused", "Appeared, and cannot have a pipeline"
        VANISHED = "vanished", "Vanished"
        BACK = "back", "Is back"

    id = models.BigAutoField(primary_key=True)
    look = models.ForeignKey(DatasetLook, on_delete=models.CASCADE, related_name="events")
    rule = models.ForeignKey(DatasetRule, on_delete=models.CASCADE, related_name="events", db_index=False)
    kind = models.CharField(max_length=10, choices=Kind)
    table = models.CharField(max_length=1100)
    pipeline = models.ForeignKey(Pipeline, on_delete=models.SET_NULL, null=True, related_name="table_events")
    message = models.TextField(blank=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["rule", "-id"], name="table_event_of_rule")]

    def __str__(self) -> str:
        return f"{self.table} {self.kind}"
