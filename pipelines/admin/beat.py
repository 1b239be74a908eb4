"""What django-celery-beat and django-celery-results bring to the admin, and may not keep there.

A PeriodicTask runs any task that a worker knows, so staff must not be able to make one; results hold what
look-ups answered. The crontab rows that stand for our schedules are shown, and changed only with their schedule.
"""

from __future__ import annotations

# Imported for their effect: what they register is taken back here, in whatever order apps are loaded.
import django_celery_beat.admin  # noqa: F401
import django_celery_results.admin  # noqa: F401
from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from django_celery_results.models import GroupResult, TaskResult
from unfold.admin import ModelAdmin
from unfold.decorators import display

from pipelines.admin.links import change_url

HIDDEN: list[type[Model]] = [
    PeriodicTask,
    IntervalSchedule,
    SolarSchedule,
    ClockedSchedule,
    CrontabSchedule,
    TaskResult,
    GroupResult,
]

admin.site.unregister(HIDDEN)


@admin.register(CrontabSchedule)
class CrontabAdmin(ModelAdmin):
    """Read-only: a row belongs to the schedule that made it."""

    list_display = ("rule", "timezone", "pipeline")
    list_select_related = ("owner__pipeline",)
    list_display_links = None
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: CrontabSchedule | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: CrontabSchedule | None = None) -> bool:
        return False

    @display(description="minute hour day month weekday")
    def rule(self, crontab: CrontabSchedule) -> str:
        return " ".join(
            (crontab.minute, crontab.hour, crontab.day_of_month, crontab.month_of_year, crontab.day_of_week)
        )

    @display(description="pipeline")
    def pipeline(self, crontab: CrontabSchedule) -> SafeString | str:
        schedule = getattr(crontab, "owner", None)
        if schedule is None:
            return "-"
        return format_html('<a class="text-link" href="{}">{}</a>', change_url(schedule.pipeline), schedule.pipeline)
