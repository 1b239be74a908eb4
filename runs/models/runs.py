"""Runs, what is asked of them, and how a pipeline's newest one ended."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.urls import reverse

from pipelines.models import Pipeline, Priority, Revision, Schedule
from runs.models.lanes import Lane
from runs.states import ACTIVE, CLAIMABLE, TERMINAL, RunStatus, Step


class Trigger(models.TextChoices):
    SCHEDULE = "schedule", "Schedule"
    MANUAL = "manual", "By hand"
    API = "api", "API"
    UPSTREAM = "upstream", "Upstream"
    WEBHOOK = "webhook", "Webhook"
    SOURCE = "source", "Source changed"
    BACKFILL = "backfill", "Backfill"
    REALTIME = "realtime", "Near real time"


class RunAction(models.TextChoices):
    """What a run is asked to do; a schedule only ever asks for `load`."""

    LOAD = "load", "Load"
    FULL_REFRESH = "full_refresh", "Full refresh"
    KEEP = "keep", "Load, keeping what is there"
    SET_WATERMARK = "set_watermark", "Set watermark"
    COMPARE = "compare", "Compare"
    BACKFILL = "backfill", "Backfill"
    UNDO = "undo", "Undo"
    REPLAY = "replay", "Replay of the quarantine"


# Runs that move no row from the source: they are no load's success, and stand in no chart of loads.
MOVE_NOTHING = (RunAction.SET_WATERMARK, RunAction.COMPARE, RunAction.UNDO)
# Runs that read nothing of the source: what has yet to be read is as due after them as before. An undo is asked for so
# that it is not.
READ_NOTHING = (RunAction.SET_WATERMARK, RunAction.REPLAY)
# Runs that pipelines which wait for theirs know nothing of: a slice of a backfill, or a replay, is about the past.
NO_NEWS = (*MOVE_NOTHING, RunAction.BACKFILL, RunAction.REPLAY)


SCHEMA_TROUBLE = frozenset({"schema_frozen", "schema_incompatible"})
# The code of a run that waits for somebody to approve what it would cost: nothing of it was read.
OVER_BUDGET = "over_budget"


class Decision(models.TextChoices):
    """What a person said about a run that was held."""

    PUBLISH = "publish", "Publish"
    DISCARD = "discard", "Discard"


class Run(models.Model):
    """One logical execution of a pipeline's revision."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # No index of their own where a later one begins with the column.
    pipeline = models.ForeignKey(Pipeline, on_delete=models.PROTECT, related_name="runs", db_index=False)
    revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="runs")
    trigger = models.CharField(max_length=10, choices=Trigger)
    action = models.CharField(max_length=20, choices=RunAction, default=RunAction.LOAD)
    # What the action needs to know beyond the definition, as the asker gave it.
    action_options = models.JSONField(default=dict, blank=True)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    # A run started by several schedules at one instant names the first of them.
    schedule = models.ForeignKey(
        Schedule, on_delete=models.SET_NULL, null=True, blank=True, related_name="runs", db_index=False
    )
    scheduled_for = models.DateTimeField(null=True, blank=True)
    data_interval_start = models.DateTimeField(null=True, blank=True)
    data_interval_end = models.DateTimeField(null=True, blank=True)

    status = models.CharField(max_length=10, choices=RunStatus, default=RunStatus.QUEUED)
    priority = models.SmallIntegerField(default=Priority.NORMAL)
    lane = models.ForeignKey(
        Lane,
        on_delete=models.DO_NOTHING,
        null=True,
        editable=False,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    due = models.DateTimeField(db_default=Now())
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    # Ownership: who works on it, until when, and the number that outlaws former owners.
    token = models.BigIntegerField(default=0)
    worker = models.CharField(max_length=200, blank=True)
    task_id = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    attempt = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0)
    losses = models.PositiveIntegerField(default=0)

    # Of a run in parts: the step that comes next or is under way, the making of the plan that counts, the fence
    # that its parts commit under, and when its time is over. Between the plan and the publish nobody owns it.
    step = models.CharField(max_length=10, choices=Step, blank=True)
    generation = models.PositiveIntegerField(default=0)
    fence_token = models.BigIntegerField(default=0)
    parts_until = models.DateTimeField(null=True, blank=True)

    cancel_requested = models.BooleanField(default=False)
    cancelled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )

    # A run that a guard holds: until when, and who decided what, and why.
    held_until = models.DateTimeField(null=True, blank=True)
    decision = models.CharField(max_length=10, choices=Decision, blank=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    decided_at = models.DateTimeField(null=True, blank=True)
    decision_note = models.TextField(blank=True)
    # What it was held for when it was approved: of another reason, that comes up then, nobody was told yet.
    approved_code = models.CharField(max_length=60, blank=True, db_default="")

    rows = models.BigIntegerField(default=0)
    bytes = models.BigIntegerField(default=0)
    estimated_rows = models.BigIntegerField(null=True, blank=True)
    estimated_bytes = models.BigIntegerField(null=True, blank=True)
    # What the source has billed, in all attempts, and what that costs at the prices of the day; a trigger brings every
    # change to the ledger. What a dry run said before: None is what nobody could tell.
    query_bytes = models.BigIntegerField(default=0)
    storage_bytes = models.BigIntegerField(default=0)
    cost = models.DecimalField(max_digits=20, decimal_places=9, default=0)
    estimated_query_bytes = models.BigIntegerField(null=True, blank=True)
    estimated_storage_bytes = models.BigIntegerField(null=True, blank=True)
    phase = models.CharField(max_length=20, blank=True)
    last_seq = models.BigIntegerField(default=0)
    error_code = models.CharField(max_length=60, blank=True)
    error_message = models.TextField(blank=True)
    error_hint = models.TextField(blank=True)
    receipt = models.JSONField(null=True, blank=True)

    idempotency_key = models.CharField(max_length=200, null=True, blank=True)
    request_digest = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["schedule", "scheduled_for"], name="run_tick_once"),
            models.UniqueConstraint(
                fields=["pipeline"], condition=Q(status__in=sorted(ACTIVE)), name="run_one_active_per_pipeline"
            ),
            models.UniqueConstraint(
                fields=["requested_by", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="run_idempotency_key_once",
            ),
        ]
        indexes = [
            # In the order of claims, and of no use to the queries about one pipeline, which name no lease.
            models.Index(
                fields=["lane", "priority", "due", "id"],
                condition=Q(status__in=sorted(CLAIMABLE), lease_until__isnull=True) & ~Q(step=Step.PARTS),
                name="run_in_lane",
            ),
            models.Index(fields=["lane"], condition=Q(step=Step.PARTS, status=RunStatus.RUNNING), name="run_in_parts"),
            models.Index(
                fields=["trigger", "-created_at"], condition=~Q(trigger=Trigger.SCHEDULE), name="run_asked_for"
            ),
            models.Index(
                fields=["pipeline", "priority", "due", "id"], condition=Q(status=RunStatus.QUEUED), name="run_queue"
            ),
            models.Index(fields=["finished_at"], condition=Q(finished_at__isnull=False), name="run_finished"),
            models.Index(fields=["lease_until"], condition=Q(lease_until__isnull=False), name="run_leased"),
            models.Index(fields=["pipeline"], condition=Q(status=RunStatus.BLOCKED), name="run_blocked"),
            models.Index(fields=["held_until"], condition=Q(status=RunStatus.HELD), name="run_held"),
            models.Index(
                fields=["pipeline"],
                condition=Q(status=RunStatus.HELD, error_code=OVER_BUDGET),
                name="run_over_budget",
            ),
            models.Index(fields=["pipeline", "-created_at"], name="run_of_pipeline"),
            # Lists of all runs leave micro-batches out, unless they are about them.
            models.Index(fields=["-created_at"], condition=~Q(trigger=Trigger.REALTIME), name="run_newest"),
            # Micro-batches that go after a day; those that stay for longer are not walked through on the way.
            models.Index(
                fields=["created_at"],
                condition=Q(trigger=Trigger.REALTIME, status=RunStatus.SUCCEEDED, attempt=1, decision=""),
                name="run_uneventful",
            ),
            models.Index(fields=["status", "-created_at"], name="run_by_status"),
        ]

    def __str__(self) -> str:
        return f"{self.pipeline_id} {self.created_at:%Y-%m-%d %H:%M:%S}"

    def get_absolute_url(self) -> str:
        return reverse("run", args=[self.pk])

    @property
    def moves_rows(self) -> bool:
        return self.action not in MOVE_NOTHING

    @property
    def is_schema_trouble(self) -> bool:
        """Whether it failed for a change of the source's columns that its pipeline does not take."""
        return self.error_code in SCHEMA_TROUBLE

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL


class LastEnd(models.Model):
    """How a pipeline's newest run that was to move rows ended: lists of all pipelines need not look for it among runs.

    A trigger on runs keeps it, so whoever ends a run cannot forget to.
    """

    pipeline = models.OneToOneField(Pipeline, on_delete=models.CASCADE, primary_key=True, related_name="last_end")
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="+")
    status = models.CharField(max_length=10, choices=RunStatus)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["status", "-finished_at"], name="last_end_by_status")]

    def __str__(self) -> str:
        return f"{self.pipeline_id} {self.status}"
