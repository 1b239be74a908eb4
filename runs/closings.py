"""Which ticks lie in times that calendars close."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from pipelines import schedules
from pipelines.models import Calendar, Schedule
from runs.decisions import Instant, Tick

log = logging.getLogger(__name__)


class Closings:
    """The calendars of some schedules: one query for all of them, and none where no schedule has one."""

    def __init__(self, calendars: dict[UUID, Calendar]) -> None:
        self._calendars = calendars
        # Many schedules tick at the same instants.
        self._known: dict[tuple[UUID, datetime], bool] = {}
        self._known_next: dict[tuple[UUID, datetime], datetime | None] = {}

    @classmethod
    def of(cls, schedules_: Iterable[Schedule]) -> Closings:
        wanted = {schedule.calendar_id for schedule in schedules_ if schedule.calendar_id is not None}
        return cls(Calendar.objects.in_bulk(wanted) if wanted else {})

    def closed(self, ticks: Sequence[Tick]) -> dict[Instant, str]:
        """The ticks among these that a calendar closes, with its name."""
        if not self._calendars:
            return {}
        return {
            tick.instant: calendar.name
            for tick in ticks
            if (calendar := self._calendars.get(tick.schedule.calendar_id)) and self._closes(calendar, tick.at)
        }

    def spread_of(self, tick: Tick) -> float:
        """Over how many seconds after a tick its run may start by jitter: into no closed time, and not past its window.

        Whoever closes a time expects that nothing starts by itself in it.
        """
        schedule = tick.schedule
        if not schedule.jitter_s:
            return 0
        until = tick.at + timedelta(seconds=schedule.jitter_s)
        if schedule.active_until is not None:
            until = min(until, schedule.active_until)
        calendar = self._calendars.get(schedule.calendar_id) if schedule.calendar_id else None
        if calendar is not None:
            until = min(until, self._next(calendar, tick.at) or until)
        return max(0.0, (until - tick.at).total_seconds())

    def _next(self, calendar: Calendar, at: datetime) -> datetime | None:
        """When a calendar closes next, as far as the longest jitter reaches."""
        key = calendar.pk, at
        if key not in self._known_next:
            try:
                self._known_next[key] = calendar.closures.next(at, at + timedelta(seconds=schedules.MAX_JITTER_S))
            except schedules.RuleError:
                self._known_next[key] = None  # `_closes` has said so
        return self._known_next[key]

    def _closes(self, calendar: Calendar, at: datetime) -> bool:
        key = calendar.pk, at
        if key not in self._known:
            try:
                self._known[key] = calendar.closures.at(at) is not None
            except schedules.RuleError as error:
                # It must not stop everybody's ticks.
                log.error("The calendar %s cannot be read and closes nothing: %s", calendar.name, error)
                self._known[key] = False
        return self._known[key]
