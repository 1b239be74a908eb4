"""What form a pipeline's target gets, and the SQL that runs around its loads."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from connectors.sql_around import LIMIT_S
from connectors.target_options import Analyze, PartitionUnit, TargetOptions


class TargetForm(models.Model):
    """What form a pipeline's target gets, and the SQL that runs around its loads."""

    primary_key = ArrayField(
        models.CharField(max_length=300),
        default=list,
        blank=True,
        help_text="The columns of the table's primary key, separated by commas; none may be NULL. It is made after "
        "the rows are loaded, and before anybody has to wait. Runs keep its name and the indexes' names the same.",
    )
    indexes = models.JSONField(default=list, blank=True)
    partition_column = models.CharField(
        max_length=300,
        blank=True,
        help_text="A DATE, DATETIME or TIMESTAMP column by which the table is divided. Partitions are made as rows "
        "need them, at most 500; a row without a value has no place and ends the run. The column must be in the "
        "primary key, in unique indexes and in the key of a merge.",
    )
    partition_unit = models.CharField(
        "one partition holds",
        max_length=10,
        choices=[
            (PartitionUnit.DAY.value, "A day"),
            (PartitionUnit.MONTH.value, "A month"),
            (PartitionUnit.YEAR.value, "A year"),
        ],
        default=PartitionUnit.MONTH.value,
        help_text="Of UTC. Counts only with a partition column.",
    )
    analyze = models.CharField(
        "statistics",
        max_length=10,
        choices=[
            (Analyze.QUICK.value, "A quick sample of a new table"),
            (Analyze.FULL.value, "In full, of every table, before its rows are published"),
            (Analyze.OFF.value, "Leave them to PostgreSQL"),
        ],
        default=Analyze.QUICK.value,
        help_text="What PostgreSQL plans queries by. A quick sample is taken of new tables of 1,000 rows or more.",
    )
    sql_before = models.TextField(
        "SQL before the rows",
        blank=True,
        help_text="Statements of PostgreSQL, each ended by a semicolon. They run in the transaction that publishes, "
        "once for each published run, right before its rows are seen; if one fails, nothing is published. Readers or "
        "writers of the table may wait for them.",
    )
    sql_after = models.TextField(
        "SQL after the rows",
        blank=True,
        help_text="In the same transaction, once the rows are in the table: such as INSERT … SELECT from it, or "
        "REFRESH MATERIALIZED VIEW. Others see the rows and what this makes of them at one moment.",
    )
    sql_role = models.CharField(
        "role for the SQL",
        max_length=63,
        blank=True,
        help_text="Runs these statements with the rights of this role of PostgreSQL, which must be a lesser one, and "
        "the connection's user a member of it. Empty: with those of the connection's user.",
    )
    sql_limit_s = models.PositiveIntegerField(
        "time for a statement (seconds)",
        default=LIMIT_S,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="A statement of these that takes longer is stopped, and the run fails.",
    )

    class Meta:
        abstract = True

    @property
    def target_options(self) -> TargetOptions:
        names = ("primary_key", "indexes", "partition_column", "partition_unit", "analyze")
        return TargetOptions.from_json({name: getattr(self, name) for name in names})
