"""When schedules start runs next, with their calendars counted in."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.utils import timezone

from pipelines import schedules
from pipelines.models import Schedule

# A calendar that closes all of these says as much as: not soon.
LOOKED_AT = 500


def next_open(schedule: Schedule) -> datetime | None:
    """The next tick that no calendar closes; None where none is near. Read `schedule` with its calendar."""
    if schedule.next_due is None or schedule.calendar is None:
        return schedule.next_due
    closures = schedule.calendar.closures
    if closures.at(schedule.next_due) is None:
        return schedule.next_due
    later = schedules.next_times(schedules.Rule.of(schedule), schedule.next_due, LOOKED_AT)
    return next((tick for tick in later if closures.at(tick) is None), None)


def next_of(current: Iterable[Schedule]) -> tuple[datetime, str] | None:
    """When one of these starts a run next, and the zone of that one."""
    return min(((at, schedule.zone) for schedule in current if (at := next_open(schedule))), default=None)


def times_of(schedule: Schedule, count: int = schedules.TIMES) -> list[schedules.Upcoming]:
    closures = schedule.calendar.closures if schedule.calendar is not None else None
    return schedules.upcoming(schedules.Rule.of(schedule), timezone.now(), count, closures)
