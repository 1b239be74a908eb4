"""When schedules start runs next, with their calendars counted in."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.utils import timezone

from pipelines import schedules
from pipelines.models import Schedule

# A calendar that closes all of these says as much as: not soon.
LOOKED_AT = 500
# Of a rule that ticks more often in a month, the first so many stand for the others.
COUNTED = 1000


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


def count_within(current: Iterable[Schedule], since: datetime, days: int) -> int:
    """How many runs these start within so many days; of what ticks very often, as many as the first ticks suggest."""
    until = since + timedelta(days=days)
    counts: list[int] = []
    instants: set[datetime] = set()
    for schedule in current:
        ticks = schedules.due_times(schedules.Rule.of(schedule), since, until, limit=COUNTED)
        open_ = ticks
        if schedule.calendar is not None:
            closures = schedule.calendar.closures
            open_ = [tick for tick in ticks if closures.at(tick) is None]
        if len(ticks) == COUNTED:
            counts.append(round(len(open_) * ((until - since) / (ticks[-1] - since))))
        else:
            # Ticks of one pipeline at one instant make one run.
            instants.update(open_)
    return sum(counts) + len(instants)
