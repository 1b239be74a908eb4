"""What becomes of tables that appear in a dataset."""

from __future__ import annotations

import uuid
from fnmatch import fnmatchcase

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from pipelines.models.connections import Connection
from pipelines.models.pipelines import Pipeline, PipelineState

# Tables of a day each, as events_20260131: there would be a pipeline more every day.
SHARDS = "*_[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]"


def usual_exclusions() -> list[str]:
    return [SHARDS]


class DatasetRule(models.Model):
    """Makes pipelines for tables that appear in a dataset, like another pipeline but for the table."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    enabled = models.BooleanField(default=True, help_text="Look at the dataset by itself.")
    source = models.ForeignKey(
        Connection, on_delete=models.PROTECT, related_name="dataset_rules", help_text="The connection to look through."
    )
    dataset = models.CharField(max_length=1100, help_text="dataset or project.dataset")
    include = ArrayField(
        models.CharField(max_length=300),
        default=list,
        blank=True,
        help_text="Names of tables, separated by commas, with * for any text: orders_*, customers. Empty: all.",
    )
    exclude = ArrayField(
        models.CharField(max_length=300),
        default=usual_exclusions,
        blank=True,
        help_text="Names that are left alone, included or not. As it comes: tables of a day each (events_20260131).",
    )
    views = models.BooleanField("views too", default=False, help_text="Views, materialized and external tables, too.")
    template = models.ForeignKey(
        Pipeline,
        on_delete=models.PROTECT,
        related_name="dataset_rules",
        help_text="A pipeline that reads a table. New ones are like it: destination, schema, schedules, limits and "
        "all else in its form, but not its dependencies, webhook and alert rules. An archived one will do.",
    )
    name_prefix = models.CharField(
        max_length=100, blank=True, help_text="Goes before the table's name in the name of its pipeline."
    )
    new_state = models.CharField(
        "new pipelines are",
        max_length=10,
        choices=[(PipelineState.PAUSED.value, "Paused"), (PipelineState.ACTIVE.value, "Active")],
        default=PipelineState.PAUSED.value,
    )
    take_existing = models.BooleanField(
        "tables that are there already, too",
        default=False,
        help_text="Otherwise the first look only takes note of them.",
    )
    most_at_once = models.PositiveSmallIntegerField(
        "most at once",
        default=20,
        validators=[MinValueValidator(1), MaxValueValidator(500)],
        help_text="So many pipelines are made at a look; the next one goes on.",
    )
    every_s = models.PositiveIntegerField(
        "look every (seconds)", default=3600, validators=[MinValueValidator(60), MaxValueValidator(7 * 86400)]
    )
    # The next look, which whoever is called takes by moving it; whether a person asked for it; and the first.
    next_look = models.DateTimeField(default=timezone.now, editable=False)
    asked = models.BooleanField(default=False, editable=False)
    # The look that is under way. If its worker dies, whoever takes the rule next finds this.
    taken_at = models.DateTimeField(null=True, editable=False)
    first_looked_at = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        indexes = [
            models.Index(fields=["next_look"], condition=Q(enabled=True) | Q(asked=True), name="dataset_rule_next")
        ]

    def __str__(self) -> str:
        return self.name

    def takes(self, table: str) -> bool:
        """Whether the rule is about a table of this name."""
        included = not self.include or any(fnmatchcase(table, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(table, pattern) for pattern in self.exclude)
