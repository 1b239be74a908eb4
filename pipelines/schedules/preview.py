"""A rule's next times for people: on its clocks and in UTC, with what clock changes and calendars do to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from pipelines.schedules.calendars import Closures
from pipelines.schedules.clocks import instants, zone_of
from pipelines.schedules.cron import parse
from pipelines.schedules.rules import Rule
from pipelines.schedules.ticks import due_times, next_times

TIMES = 10
LOOK_AHEAD = timedelta(days=370)
MOST_OF_A_DAY = 4


@dataclass(frozen=True)
class Upcoming:
    """One tick. `note`: what the clocks do on its day; `closed`: the words of the line that closes it, or "-"."""

    at: datetime
    zone: str
    note: str = ""
    closed: str = ""

    @property
    def local(self) -> datetime:
        return self.at.astimezone(ZoneInfo(self.zone))

    @property
    def on_the_clock(self) -> str:
        seconds = ":%S" if self.at.second else ""
        return f"{self.local:%a %d %b %Y, %H:%M{seconds} %Z}"

    @property
    def in_utc(self) -> str:
        seconds = ":%S" if self.at.second else ""
        return f"{self.at.astimezone(UTC):%a %d %b %Y, %H:%M{seconds}} UTC"


def upcoming(rule: Rule, after: datetime, count: int = TIMES, closures: Closures | None = None) -> list[Upcoming]:
    return [_told(rule, tick, closures) for tick in next_times(rule, after, count)]


def next_clock_change(rule: Rule, after: datetime) -> str:
    """The next day on which the clocks of the zone change, and when the rule ticks on it; empty without one."""
    if rule.kind == "interval":
        return ""
    zone = zone_of(rule.zone)
    day = after.astimezone(zone).date()
    while day < (after + LOOK_AHEAD).date():
        if change := _change_of(day, zone):
            break
        day += timedelta(days=1)
    else:
        return ""
    begin, end = _midnight(day, zone), _midnight(day + timedelta(days=1), zone)
    ticks = due_times(rule, max(after, begin - timedelta(seconds=1)), end - timedelta(seconds=1), limit=10_000)
    if not ticks:
        when = "it does not run on that day"
    elif len(ticks) > MOST_OF_A_DAY:
        when = f"it runs {len(ticks)} times on that day"
    else:
        when = f"it runs at {', '.join(f'{tick.astimezone(zone):%H:%M %Z}' for tick in ticks)} on that day"
    return f"On {day:%A} {day.day} {day:%B %Y} the clocks go {change}: {when}."


def _told(rule: Rule, tick: datetime, closures: Closures | None) -> Upcoming:
    closed = closures.at(tick) if closures else None
    zone = "UTC" if rule.kind == "interval" else rule.zone
    return Upcoming(tick, zone, ", ".join(_notes(rule, tick)), (closed.note or "-") if closed else "")


def _notes(rule: Rule, tick: datetime) -> Iterator[str]:
    if rule.kind == "interval":
        return
    zone, cron = zone_of(rule.zone), parse(rule.cron)
    wall = tick.astimezone(zone).replace(tzinfo=None, fold=0)
    if change := _change_of(wall.date(), zone):
        yield f"the clocks go {change} on this day"
    if not (cron.has(wall.date()) and wall.hour in cron.hours and wall.minute in cron.minutes):
        yield "its time is left out: the first that exists"
    first, second = instants(wall, zone)
    if second is not None:
        yield "the first of two" if tick == first else "the second of two"


def _change_of(day: date, zone: ZoneInfo) -> str:
    """In words, by how much the clocks change on a day; empty if they do not. Midnight belongs to what it begins."""
    before, after = (
        (_midnight(each, zone) - timedelta(seconds=1)).astimezone(zone).utcoffset() or timedelta(0)
        for each in (day, day + timedelta(days=1))
    )
    if before == after:
        return ""
    minutes = round(abs((after - before).total_seconds()) / 60)
    length = f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} min"
    return f"{'forward' if after > before else 'back'} by {length}"


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a day, in UTC: reckoning on a zone's clock goes wrong where it jumps."""
    return instants(datetime.combine(day, time.min), zone)[0].astimezone(UTC)
