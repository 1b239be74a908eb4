"""When a pipeline runs by itself."""

from __future__ import annotations

import uuid

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule

from pipelines import schedules
from pipelines.models.calendars import Calendar
from pipelines.models.pipelines import Pipeline


class Schedule(models.Model):
    """A rule with its zone. `ticked_through`: every tick up to here has its run or its recorded skip.

    A rule never changes: an edit ends this schedule (`ends_at`) and starts another, so that ticks of
    the past keep the rule they came from.
    """

    class Kind(models.TextChoices):
        CRON = "cron", "Cron"
        INTERVAL = "interval", "Interval"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pipeline = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="schedules")
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.CRON)
    cron = models.CharField(
        max_length=200, blank=True, help_text="minute hour day-of-month month day-of-week, for example 30 6 * * 1-5"
    )
    zone = models.CharField("time zone", max_length=64, default="UTC")
    every_s = models.PositiveIntegerField(
        "every (seconds)", null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(366 * 86400)]
    )
    active_from = models.DateTimeField(
        "not before",
        null=True,
        blank=True,
        help_text="On the zone's clocks. Intervals count from here, in UTC.",
    )
    active_until = models.DateTimeField("not after", null=True, blank=True, help_text="On the clocks of the time zone.")
    calendar = models.ForeignKey(
        Calendar,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="schedules",
        help_text="Times in which it starts nothing: its ticks are recorded as skipped.",
    )
    jitter_s = models.PositiveIntegerField(
        "jitter (seconds)",
        default=0,
        validators=[MaxValueValidator(schedules.MAX_JITTER_S)],
        help_text="Runs start up to so much later, each by another share of it, so that not all start at once. "
        "What they are scheduled for stays the same. It leads into no closed time, and not past the window.",
    )
    # Stands for the rule in django-celery-beat's tables; made and removed with the schedule.
    crontab = models.OneToOneField(
        CrontabSchedule, on_delete=models.SET_NULL, null=True, editable=False, related_name="owner"
    )
    # Ticks lie in (starts_at, ends_at]; an interval counts from midnight UTC of the day it starts, or of its anchor:
    # the start of the schedule that it took the place of, so that an edit of all but its length moves no tick.
    starts_at = models.DateTimeField(default=timezone.now, editable=False)
    anchor = models.DateTimeField(null=True, editable=False)
    ends_at = models.DateTimeField(null=True, editable=False)
    ticked_through = models.DateTimeField(default=timezone.now, editable=False)
    # Where the data interval of the next run begins: up to here a run, or somebody's word, stands for all data. Null
    # before the first tick.
    covered_through = models.DateTimeField(null=True, editable=False)
    # The first tick after ticked_through; null once there is none.
    next_due = models.DateTimeField(null=True, editable=False, db_index=True)

    class Meta:
        ordering = ["starts_at"]
        constraints = [
            models.CheckConstraint(
                name="schedule_rule_fits_kind",
                condition=(Q(kind="cron") & ~Q(cron="") & Q(every_s__isnull=True))
                | (Q(kind="interval") & Q(cron="") & Q(every_s__isnull=False)),
                violation_error_message="Give a cron text or an interval.",
            ),
            models.CheckConstraint(
                name="schedule_window_is_one",
                condition=Q(active_from__isnull=True)
                | Q(active_until__isnull=True)
                | Q(active_from__lt=models.F("active_until")),
                violation_error_message="It ends before it begins.",
            ),
        ]

    def __str__(self) -> str:
        return self.cron if self.kind == self.Kind.CRON else f"every {self.every_s} s"
