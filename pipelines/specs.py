"""A schedule as a person states it: the one form that forms, API, files and revisions turn theirs into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pipelines import schedules
from pipelines.models import Schedule

WINDOW = ("active_from", "active_until")

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class ScheduleSpec:
    """A rule with its window, its calendar by name, and its jitter."""

    kind: str
    cron: str = ""
    zone: str = "UTC"
    every_s: int | None = None
    active_from: datetime | None = None
    active_until: datetime | None = None
    calendar: str = ""
    jitter_s: int = 0

    @classmethod
    def of(cls, schedule: Schedule) -> ScheduleSpec:
        """Reads the calendar's name: see `queries.current_schedules`."""
        return cls(
            kind=schedule.kind,
            cron=schedule.cron,
            zone=schedule.zone,
            every_s=schedule.every_s,
            active_from=schedule.active_from,
            active_until=schedule.active_until,
            calendar=schedule.calendar.name if schedule.calendar is not None else "",
            jitter_s=schedule.jitter_s,
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ScheduleSpec:
        window = {name: datetime.fromisoformat(stored[name]) for name in WINDOW if stored.get(name)}
        return cls(**{**stored, **window})

    def to_json(self) -> dict[str, Any]:
        """For a revision; what is as usual is left out, so that older revisions say the same."""
        rule = {"kind": str(self.kind), "cron": self.cron, "zone": self.zone, "every_s": self.every_s}
        window = {name: moment.isoformat() for name in WINDOW if (moment := getattr(self, name))}
        more = {"calendar": self.calendar, "jitter_s": self.jitter_s}
        return {**rule, **window, **{name: value for name, value in more.items() if value}}

    @property
    def key(self) -> Key:
        window = [moment.isoformat() if moment else "" for moment in (self.active_from, self.active_until)]
        return (str(self.kind), self.cron, self.zone, self.every_s or 0, *window, self.calendar, self.jitter_s)

    @property
    def words(self) -> str:
        """All of it, as in "At 06:30, every day (Europe/Berlin), from 1 Dec 2026, 00:00, but for Holidays"."""
        zone = schedules.zone_of(self.zone)
        window = [
            f"{word} {moment.astimezone(zone):%-d %b %Y, %H:%M}"
            for word, moment in (("from", self.active_from), ("to", self.active_until))
            if moment
        ]
        calendar = f"but for {self.calendar}" if self.calendar else ""
        jitter = f"spread over {schedules.span_in_words(self.jitter_s)}" if self.jitter_s else ""
        return ", ".join(filter(None, [schedules.in_words(schedules.Rule.of(self)), *window, calendar, jitter]))

    def tidy(self) -> ScheduleSpec:
        """The same rule in the one form it is stored in; raises RuleError if it is none."""
        schedules.check(schedules.Rule.of(self))
        if not 0 <= self.jitter_s <= schedules.MAX_JITTER_S:
            message = f"Jitter is between 0 and {schedules.MAX_JITTER_S} seconds."
            raise schedules.RuleError("jitter_s", message, "Give the seconds to spread starts over.")
        utc = {name: moment.astimezone(UTC) for name in WINDOW if (moment := getattr(self, name))}
        if self.kind == Schedule.Kind.INTERVAL:
            return replace(self, cron="", zone="UTC", **utc)
        return replace(self, cron=" ".join(self.cron.split()), every_s=None, **utc)
