"""Calendars of times without runs: what their lines mean, and whether a moment lies in one.

A line is a span on the wall clock of the calendar's zone, and may end with words of its own:

- `2026-12-24`, `2026-12-24 to 2026-12-26`: whole days, the last included;
- `2026-12-24 18:00 to 2026-12-27 06:00`: from a minute up to, not including, another;
- `every 12-25`: a day of every year;
- `every Sun`, `every Mon-Fri 22:00-04:00`, `every day 02:00-03:00`: days of the week, or hours of them, which may end
  on the next day.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from pipelines.schedules.clocks import OUTSIDE, change_between, instants, is_outside, zone_of
from pipelines.schedules.errors import RuleError

MAX_LINES = 1000
MAX_LINE_LENGTH = 200
EXAMPLES = "Write for example: 2026-12-24 to 2026-12-26 Christmas, or: every Sun 02:00-04:00 Maintenance."

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# Words that begin like a further date, time or day are a slip of the pen, and never left out without a word.
_NOTE = r"(?: (?P<note>(?!to\b|and\b|[\d,&–-]|(?:mon|tue|wed|thu|fri|sat|sun)(?:s|nes|rs|ur)?(?:day)?\b).+))?"
_DATE = r"\d{4}-\d{2}-\d{2}"
_TIME = r"\d{2}:\d{2}"
_SPAN = re.compile(
    rf"(?P<first>{_DATE})( (?P<start>{_TIME}))?( to (?P<last>{_DATE})( (?P<end>{_TIME}))?)?{_NOTE}",
    re.IGNORECASE | re.ASCII,
)
_YEARLY = re.compile(rf"every (?P<month>\d{{2}})-(?P<day>\d{{2}}){_NOTE}", re.IGNORECASE | re.ASCII)
_WEEKLY = re.compile(
    rf"every (?P<days>[a-z]+(-[a-z]+)?(,[a-z]+(-[a-z]+)?)*)( (?P<start>{_TIME})-(?P<end>{_TIME}))?{_NOTE}",
    re.IGNORECASE | re.ASCII,
)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Closure:
    """What one line closes: from `first` to before `last`, or every such day from `start` for `length`."""

    note: str = ""
    first: datetime | None = None
    last: datetime | None = None
    month_day: tuple[int, int] | None = None
    weekdays: frozenset[int] = frozenset()
    start: time = time.min
    length: timedelta = _DAY

    def covers(self, wall: datetime) -> bool:
        if self.first is not None and self.last is not None:
            return self.first <= wall < self.last
        if self.month_day is not None:
            return (wall.month, wall.day) == self.month_day
        # A span of hours may have begun on the day before.
        for begins in (wall.date(), wall.date() - _DAY):
            began = datetime.combine(begins, self.start)
            if begins.weekday() in self.weekdays and began <= wall < began + self.length:
                return True
        return False

    def beginnings(self, low: datetime, high: datetime) -> Iterator[datetime]:
        """The wall times at which it begins to close, from the day before `low` to the day of `high`."""
        if self.first is not None:
            if low - _DAY <= self.first <= high + _DAY:
                yield self.first
            return
        day = low.date() - _DAY
        while day <= high.date():
            if (day.month, day.day) == self.month_day or day.weekday() in self.weekdays:
                yield datetime.combine(day, self.start)
            day += _DAY


@dataclass(frozen=True)
class Closures:
    """What a calendar closes, by its zone."""

    zone: ZoneInfo
    lines: tuple[Closure, ...]

    @classmethod
    def of(cls, zone: str, lines: Iterable[str]) -> Closures:
        """Raises RuleError with `closed` or `zone` as the field."""
        return _read(zone, tuple(lines))

    def at(self, moment: datetime) -> Closure | None:
        """The line that closes a moment."""
        wall = moment.astimezone(self.zone).replace(tzinfo=None)
        return next((line for line in self.lines if line.covers(wall)), None)

    def next(self, after: datetime, until: datetime) -> datetime | None:
        """The first moment in (after, until] at which it begins to close; of use for hours or days, not for years."""
        low, high = (moment.astimezone(self.zone).replace(tzinfo=None) for moment in (after, until))
        walls = {wall for line in self.lines for wall in line.beginnings(low, high)}
        moments = {moment for wall in walls for moment in instants(wall, self.zone) if moment is not None}
        if (change := change_between(after, until, self.zone)) is not None:
            # Clocks that go back lead into times that were over.
            moments.add(change)
        return next((each for each in sorted(moments) if after < each <= until and self.at(each)), None)


@lru_cache(maxsize=256)
def _read(zone: str, lines: tuple[str, ...]) -> Closures:
    return Closures(zone_of(zone), tuple(closure_of(line) for line in lines))


def tidy_lines(zone: str, lines: Iterable[str]) -> list[str]:
    """Lines in the one form they are stored in; raises RuleError if one is none, or if they are too many."""
    tidy = [" ".join(line.split()) for line in lines if line.strip()]
    if len(tidy) > MAX_LINES:
        raise RuleError("closed", f"A calendar has at most {MAX_LINES} lines.", "Divide it, or leave out past days.")
    for line, closure in zip(tidy, Closures.of(zone, tidy).lines, strict=True):
        if any(moment is not None and is_outside(moment) for moment in (closure.first, closure.last)):
            raise _misread(line, OUTSIDE)
    return tidy


def closure_of(line: str) -> Closure:
    text = " ".join(line.split())
    if len(text) > MAX_LINE_LENGTH:
        raise _misread(line, f"It is longer than {MAX_LINE_LENGTH} characters.")
    try:
        if found := _SPAN.fullmatch(text):
            return _span(**found.groupdict())
        if found := _YEARLY.fullmatch(text):
            return _yearly(**found.groupdict())
        if found := _WEEKLY.fullmatch(text):
            return _weekly(**found.groupdict())
    except (ValueError, OverflowError) as error:
        raise _misread(line, f"{str(error)[:1].upper()}{str(error)[1:].rstrip('.')}.") from error
    raise _misread(line)


def _span(first: str, start: str | None, last: str | None, end: str | None, note: str | None) -> Closure:
    if start and not (last and end):
        raise ValueError("A span that begins with a time ends with a date and a time")
    begins = datetime.combine(date.fromisoformat(first), time.fromisoformat(start or "00:00"))
    ends = datetime.combine(date.fromisoformat(last or first), time.fromisoformat(end or "00:00"))
    ends += timedelta(0) if end else _DAY
    if ends <= begins:
        raise ValueError("It ends before it begins")
    return Closure(note or "", first=begins, last=ends)


def _yearly(month: str, day: str, note: str | None) -> Closure:
    date(2000, int(month), int(day))  # a leap year: the 29th of February is a day
    return Closure(note or "", month_day=(int(month), int(day)))


def _weekly(days: str, start: str | None, end: str | None, note: str | None) -> Closure:
    weekdays = frozenset(range(7)) if days.lower() == "day" else frozenset(_weekdays(days))
    if start is None or end is None:
        return Closure(note or "", weekdays=weekdays)
    begins = time.fromisoformat(start)
    ends = time.min if end == "24:00" else time.fromisoformat(end)
    length = (datetime.combine(date.min, ends) - datetime.combine(date.min, begins)) % _DAY
    return Closure(note or "", weekdays=weekdays, start=begins, length=length or _DAY)


def _weekdays(names: str) -> Iterator[int]:
    for span in names.split(","):
        first, _, last = span.partition("-")
        begins, ends = _weekday(first), _weekday(last or first)
        yield from ((begins + n) % 7 for n in range((ends - begins) % 7 + 1))


def _weekday(name: str) -> int:
    for number, full in enumerate(_WEEKDAYS):
        if name.lower() in (full, full[:3]):
            return number
    raise ValueError(f"{name} is no day of the week")


def _misread(line: str, why: str = "") -> RuleError:
    return RuleError("closed", f'The line "{line.strip()[:60]}" cannot be read. {why}'.strip(), EXAMPLES)
