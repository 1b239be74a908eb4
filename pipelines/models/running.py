"""When and how a pipeline's runs go: what starts them, their order, tries and limits."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from pipelines.models.connections import Pool

MOST_BYTES = 1 << 60


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


class Running(models.Model):
    """When and how a pipeline's runs go: what starts them, their order, tries and limits."""

    mode = models.CharField(
        max_length=10,
        choices=Mode,
        default=Mode.BATCH,
        help_text="Near real time: a poller asks the source every few seconds, without a charge, whether anything "
        "changed, and only then a run reads the new rows. Needs append, merge or history, a cursor, and “read only new "
        "rows”; a merge with a lookback is best.",
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

    class Meta:
        abstract = True
