"""Pipelines, and the immutable copies of their definitions."""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from connectors.modes import Deletes, TextPolicy, WriteDisposition
from connectors.quarantine import KEEP_DAYS, Beyond
from connectors.schema_policy import SchemaPolicy
from connectors.sql_around import LIMIT_S
from connectors.target_options import Analyze, PartitionUnit, TargetOptions
from pipelines.models.connections import Connection, Pool

MAX_UNDO_DEPTH = 9
MOST_BYTES = 1 << 60


class PipelineState(models.TextChoices):
    ACTIVE = "active", "Active"
    PAUSED = "paused", "Paused"
    ARCHIVED = "archived", "Archived"


class Overlap(models.TextChoices):
    COALESCE = "coalesce", "One waits, further ticks are skipped"
    QUEUE = "queue", "Every tick waits its turn"
    SKIP = "skip", "Skip ticks while a run is active"


class Missed(models.TextChoices):
    LATEST = "latest", "Run once for all that was missed"
    SKIP = "skip", "Skip what was missed"
    ALL = "all", "Run every missed tick"


class Mode(models.TextChoices):
    """What starts a pipeline's runs by itself."""

    BATCH = "batch", "On schedules, after other pipelines, or when asked"
    REALTIME = "realtime", "Near real time: whenever the source has changed"


class LoadMethod(models.TextChoices):
    """How rows travel: in one transaction of one worker, or in parts that several workers commit."""

    AUTO = "auto", "By itself, from the size"
    DIRECT = "direct", "In one go"
    STAGED = "staged", "In parts"


class Priority(models.IntegerChoices):
    """Whose runs go first when there are not slots for all: the smaller number's, see runs.priorities."""

    HIGH = 10, "High"
    NORMAL = 20, "Normal"
    LOW = 30, "Low"


class Pipeline(models.Model):
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
    merge_key = ArrayField(
        models.CharField(max_length=300),
        verbose_name="key",
        default=list,
        blank=True,
        help_text="The columns that identify a row, separated by commas, for example: order_id, line. Merge and "
        "history need them; replace uses them where something depends on the table and its rows are changed in place.",
    )
    deletes = models.CharField(
        "rows that vanish",
        max_length=10,
        choices=[
            (Deletes.KEEP.value, "Keep them"),
            (Deletes.SOFT.value, "Mark them as deleted"),
            (Deletes.HARD.value, "Delete them"),
        ],
        default=Deletes.KEEP.value,
        help_text="For a merge that reads all rows: what becomes of rows that the source no longer has. Marked, they "
        "stay, and the column _deleted_at says since when; it is emptied when the row is back. Guards count them "
        "either way.",
    )
    cursor_column = models.CharField(
        max_length=300,
        blank=True,
        help_text="A column that says how new a row is, such as updated_at. Merge: of several rows with one key the "
        "newest wins, and no row is replaced by an older one. History: when a version began to hold. Reading only new "
        "rows needs it.",
    )
    incremental = models.BooleanField(
        "read only new rows",
        default=False,
        help_text="Each run reads the rows whose cursor is above the watermark: the highest value that the target has. "
        "Needs a cursor that is a TIMESTAMP, DATETIME, DATE or INT64; for append, merge or history.",
    )
    lookback = models.PositiveIntegerField(
        default=0,
        help_text="For merge and history: how far below the watermark rows are read again, for those that come late. "
        "Seconds; of a whole-number cursor, units.",
    )
    settle = models.PositiveIntegerField(
        "settling time",
        null=True,
        blank=True,
        help_text="For append: rows this close to the newest wait for the next run, since others may still join them. "
        "Seconds, 60 if empty; of a whole-number cursor, units, none if empty. Of a date, today always waits.",
    )
    initial_value = models.CharField(
        max_length=100,
        blank=True,
        help_text="The first run begins with this value of the cursor. Empty: with all rows.",
    )
    guard_zero_rows = models.BooleanField(
        "hold what would empty the table",
        default=True,
        help_text="A run that finds no rows, and would leave none, waits for a person to approve or discard it.",
    )
    guard_shrink_percent = models.PositiveSmallIntegerField(
        "hold what takes away more than (%)",
        null=True,
        blank=True,
        default=50,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="A run that would make a larger share of the table's rows vanish waits for a person. Empty: never.",
    )
    held_days = models.PositiveSmallIntegerField(
        "keep held rows for (days)",
        default=7,
        validators=[MinValueValidator(1), MaxValueValidator(90)],
        help_text="Then a run that nobody decided on is discarded, with the rows it staged.",
    )
    undo_depth = models.PositiveSmallIntegerField(
        "former tables to keep",
        default=0,
        validators=[MaxValueValidator(MAX_UNDO_DEPTH)],
        help_text="How many former states are kept beside the table when a run replaces it (replace, or a full "
        "refresh), so that one can be put back; each takes as much room as the table. 0 keeps none, 9 is the most. "
        "Runs that add or merge rows replace nothing: of them there is nothing to undo.",
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
            (SchemaPolicy.FREEZE.value, "Fail before any row moves"),
            (SchemaPolicy.IGNORE_NEW.value, "Do not read new columns"),
        ],
        default=SchemaPolicy.EVOLVE.value,
        help_text="Follow: new columns are added to the table, types are widened where that takes no rewriting, and "
        "dropped columns stay, as NULL; anything else stops the run and asks for a full refresh. A pipeline that fails "
        "for a change goes on once it is saved again. New columns that are not read are told of once.",
    )
    mode = models.CharField(
        max_length=10,
        choices=Mode,
        default=Mode.BATCH,
        help_text="Near real time: a poller asks the source every few seconds, without a charge, whether anything "
        "changed, and only then a run reads the new rows. Needs append or merge, a cursor, and “read only new rows”; "
        "a merge with a lookback is best.",
    )
    poll_every_s = models.PositiveIntegerField(
        "ask the source every (seconds)",
        default=5,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="In near real time: how often it is asked whether anything changed. Asking is free.",
    )
    stream_every_s = models.PositiveIntegerField(
        "while rows are streamed in, read every (seconds)",
        default=10,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="In near real time: BigQuery does not tell when a row joins a streaming buffer, so while there is "
        "one the table counts as changed, at most this often. Each read is billed for at least 10 MB.",
    )
    force_read_every = models.PositiveIntegerField(
        "read anyway every (polls)",
        null=True,
        blank=True,
        default=3600,
        validators=[MinValueValidator(1), MaxValueValidator(1_000_000)],
        help_text="In near real time: after so many polls without a change it reads all the same, for changes that no "
        "record tells of. Empty: never.",
    )
    watch_every_s = models.PositiveIntegerField(
        "look at the source every (seconds)",
        null=True,
        blank=True,
        validators=[MinValueValidator(60), MaxValueValidator(7 * 86400)],
        help_text="Starts a run when the source table has changed, by BigQuery's own record of it: looking is free. "
        "At least 60. For tables only: of queries, views and external tables nobody tells when their rows change. "
        "Empty: never.",
    )
    load_method = models.CharField(
        max_length=10,
        choices=LoadMethod,
        default=LoadMethod.AUTO,
        help_text="In parts, several workers load one table, and what is staged outlives a failure; in one go is "
        "faster for what one worker loads in minutes. By itself: in parts from about 2 GiB on.",
    )
    text_policy = models.CharField(
        "characters that cannot be stored",
        max_length=10,
        choices=[
            (TextPolicy.FAIL.value, "Fail the run"),
            (TextPolicy.STRIP.value, "Remove them"),
            (TextPolicy.REPLACE.value, "Replace them by \N{REPLACEMENT CHARACTER}"),
        ],
        default=TextPolicy.FAIL.value,
        help_text="PostgreSQL cannot store the character NUL in text or JSON. What is changed is counted in the log.",
    )
    quarantine = models.BooleanField(
        "put rows that cannot be stored into quarantine",
        default=False,
        help_text="The run publishes all other rows. Those in quarantine are kept as they came, beside the target, and "
        "can be replayed once the source, a rule or a check is mended. Checks can send their bad rows there as well.",
    )
    quarantine_rows = models.PositiveIntegerField(
        "at most (rows)",
        null=True,
        blank=True,
        default=1000,
        help_text="Of one run. Empty: any number.",
    )
    quarantine_percent = models.PositiveSmallIntegerField(
        "at most (% of the rows read)",
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(100)],
        help_text="Of one run. Empty: any share.",
    )
    quarantine_beyond = models.CharField(
        "with more than that",
        max_length=10,
        choices=[(Beyond.FAIL.value, "The run fails"), (Beyond.HOLD.value, "The run waits for a person")],
        default=Beyond.FAIL.value,
        help_text="Nothing is published. What waits can be approved with all that is in quarantine, or discarded.",
    )
    quarantine_days = models.PositiveSmallIntegerField(
        "keep them for (days)",
        default=KEEP_DAYS,
        validators=[MinValueValidator(1), MaxValueValidator(3650)],
        help_text="Then the pipeline's next run forgets them, whether anybody decided on them or not.",
    )
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
    overlap = models.CharField(
        max_length=10, choices=Overlap, default=Overlap.COALESCE, help_text="When a tick comes while a run is active."
    )
    missed = models.CharField(
        "missed ticks", max_length=10, choices=Missed, default=Missed.LATEST, help_text="After an outage."
    )
    retries = models.PositiveSmallIntegerField(
        default=3, validators=[MaxValueValidator(20)], help_text="Further attempts after a passing failure."
    )
    retry_delay_s = models.PositiveIntegerField(
        "first retry after (seconds)",
        default=5,
        validators=[MinValueValidator(1), MaxValueValidator(86400)],
        help_text="Give or take a quarter. Each further wait is twice as long, up to 10 minutes or, if more, this.",
    )
    give_up_after_s = models.PositiveIntegerField(
        "give up after (seconds)",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(30 * 86400)],
        help_text="No attempt begins later than this after the first one. Empty: only the number of retries counts.",
    )
    time_limit_s = models.PositiveIntegerField(
        "time limit (seconds)",
        default=6 * 3600,
        validators=[MinValueValidator(10), MaxValueValidator(7 * 86400)],
        help_text="An attempt that takes longer is stopped, and its run fails.",
    )
    # What counts is what is set now, also for runs that wait since before it was.
    run_budget_bytes = models.PositiveBigIntegerField(
        "budget of a run",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_BYTES)],
        help_text="What a run may read that BigQuery bills, queries and the Storage Read API together, for example "
        "500 GiB. A run that a dry run finds beyond it waits until somebody approves its cost. Empty: no limit.",
    )
    month_budget_bytes = models.PositiveBigIntegerField(
        "budget of a month",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_BYTES)],
        help_text="What all its runs may read in a calendar month of UTC. A run that would go beyond it waits until "
        "somebody approves its cost, the budget is raised, or the next month begins. Empty: no limit.",
    )
    # How it is run, not what it loads: no part of a revision, and what waits already goes by it at once.
    priority = models.SmallIntegerField(
        choices=Priority,
        default=Priority.NORMAL,
        help_text="Whose runs go first when workers or slots are scarce.",
    )
    pool = models.ForeignKey(
        Pool,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="pipelines",
        help_text="Of the pipelines in one pool, only so many run at once as it has slots.",
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

    @property
    def target_options(self) -> TargetOptions:
        names = ("primary_key", "indexes", "partition_column", "partition_unit", "analyze")
        return TargetOptions.from_json({name: getattr(self, name) for name in names})


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
