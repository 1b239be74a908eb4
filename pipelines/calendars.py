"""Writes of calendars."""

from __future__ import annotations

import logging
from typing import Any

from django.db import transaction

from pipelines import schedules
from pipelines.models import Calendar, Schedule
from pipelines.objections import PipelineRefused, constraints_in_words

log = logging.getLogger(__name__)


def save_calendar(calendar: Calendar, *, by: Any) -> Calendar:
    """Save a calendar; ticks that come from now on go by it, those of the past stay what they are.

    Raises RuleError for a line that is none, PipelineRefused if the name is taken.
    """
    calendar.closed = schedules.tidy_lines(calendar.zone, calendar.closed)
    with constraints_in_words():
        calendar.save()
    log.info("Calendar %s saved by %s", calendar.name, by or "a command")
    return calendar


def delete_calendar(calendar: Calendar) -> None:
    """Delete a calendar that no schedule goes by; raises PipelineRefused."""
    with transaction.atomic():
        # A schedule that is being saved with it waits for this lock, or this for it.
        Calendar.objects.select_for_update().filter(pk=calendar.pk).first()
        using = Schedule.objects.filter(calendar=calendar, ends_at__isnull=True).order_by("pipeline__name")
        names = list(using.values_list("pipeline__name", flat=True).distinct())
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise PipelineRefused(
                "calendar_in_use",
                f"Schedules go by the calendar {calendar.name}: those of {', '.join(names[:3])}{more}.",
                "Take it out of them first.",
            )
        calendar.delete()


def calendar_named(name: str) -> Calendar:
    """Raises RuleError if there is none."""
    found = Calendar.objects.filter(name=name).first()
    if found is None:
        raise schedules.RuleError("calendar", f"There is no calendar called {name}.", "Choose another, or none.")
    return found
