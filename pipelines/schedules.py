"""Rules → due times: the only file that reads cron, zones and calendars.

A cron rule is reckoned on the wall clock of its zone and then mapped to UTC:

- A wall time that the clocks skip runs once, at the next instant that exists; ticks that meet there are one.
- A wall time that the clocks repeat runs twice if its hour comes from `*` or a range of the hour field, with or
  without a step (`*`, `*/2`, `8-18`): such a rule counts hours. It runs once, the first time, if the field names
  the hour (`2`, `1,2,3`): such a rule means a time of day.
- Day of month and day of week combine as crontab(5) says: a time must match both if either field begins with `*`,
  and one of them suffices if both are restricted.

An interval ticks at midnight UTC of the day it started plus whole multiples of its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from cron_descriptor import DescriptionTypeEnum, ExpressionDescriptor, Options
from croniter import croniter

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MAX_CRON_LENGTH = 200
MAX_EVERY_S = 366 * 86400
# The 29th of February on one given weekday comes back after 40 years at most.
HORIZON = timedelta(days=41 * 366)

_LONGEST_MONTH = dict(zip(range(1, 13), (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))
_TOKEN = re.compile(r"(\*|\d{1,2}(-\d{1,2})?)(/\d{1,2})?", re.ASCII)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES = {3: {name: n for n, name in enumerate(_MONTHS, 1)}, 4: {name: n for n, name in enumerate(_WEEKDAYS)}}
_FIELDS = (
    ("minute", "Minutes go from 0 to 59"),
    ("hour", "Hours go from 0 to 23"),
    ("day of month", "Days of the month go from 1 to 31"),
    ("month", "Months go from 1 to 12, or JAN to DEC"),
    ("day of week", "Days of the week go from 0 (Sunday) to 7 (Sunday again), or SUN to SAT"),
)
_SPANS = (range(60), range(24), range(1, 32), range(1, 13), range(7))


class RuleError(Exception):
    """A rule that cannot be used; `field` is kind, cron, zone or every_s."""

    code = "bad_rule"

    def __init__(self, field: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Rule:
    """When something is due. An interval without `starts_at` counts from the day of the time asked about."""

    kind: str
    cron: str = ""
    zone: str = "UTC"
    every_s: int | None = None
    starts_at: datetime | None = None

    @classmethod
    def of(cls, schedule: Any) -> Rule:
        """The rule of a Schedule, or of anything else with its fields."""
        kind = str(schedule.kind)
        return cls(
            kind=kind,
            cron=schedule.cron,
            zone=schedule.zone,
            every_s=schedule.every_s,
            # Cron does not count from anywhere: schedules with one text are one rule.
            starts_at=getattr(schedule, "starts_at", None) if kind == "interval" else None,
        )


def check(rule: Rule) -> None:
    """Raise RuleError if the rule is malformed or would never tick."""
    if rule.kind == "interval":
        if rule.every_s is None or not 1 <= rule.every_s <= MAX_EVERY_S:
            raise RuleError("every_s", "An interval is between 1 second and 366 days.", "Give its length in seconds.")
    elif rule.kind == "cron":
        parse(rule.cron)
        _zone(rule.zone)
    else:
        raise RuleError("kind", f"{rule.kind} is not a kind of schedule.", "Choose cron or interval.")


# Thousands of schedules tick at the same full hour, by a handful of rules.
remembered = lru_cache(maxsize=4096)


def due_times(rule: Rule, after: datetime, until: datetime, *, limit: int = 1000) -> list[datetime]:
    """The first `limit` ticks in (after, until], ascending, in UTC."""
    return list(_due_times(rule, after, until, limit))


@remembered
def _due_times(rule: Rule, after: datetime, until: datetime, limit: int) -> tuple[datetime, ...]:
    ticks: list[datetime] = []
    for tick in _ticks(rule, after, until):
        if tick > until or len(ticks) == limit:
            break
        ticks.append(tick)
    return tuple(ticks)


def next_times(rule: Rule, after: datetime, count: int) -> list[datetime]:
    return list(islice(_ticks(rule, after, _later(after, HORIZON)), count))


@remembered
def next_time(rule: Rule, after: datetime) -> datetime | None:
    return next(_ticks(rule, after, _later(after, HORIZON)), None)


@remembered
def previous_time(rule: Rule, at: datetime) -> datetime | None:
    """The last tick strictly before `at`, looked for in windows that double."""
    if rule.kind == "interval":
        anchor, every = _lattice(rule, at)
        return anchor + ((at - anchor) // every - (not (at - anchor) % every)) * every
    window, end = timedelta(hours=1), at.astimezone(UTC)
    while window < HORIZON * 2:
        last = None
        for tick in _ticks(rule, end - window, end):
            if tick >= end:
                break
            last = tick
        if last is not None:
            return last
        window *= 2
    return None


@remembered
def in_words(rule: Rule) -> str:
    """The rule for people, as in "At 06:30, Monday through Friday (Europe/Berlin)" or "Every 15 minutes"."""
    if rule.kind == "interval":
        return _interval_in_words(rule.every_s or 0)
    return f"{_cron_in_words(parse(rule.cron))} ({rule.zone})"


@dataclass(frozen=True)
class Cron:
    """A cron text, read: `canonical` is its five fields in numbers, `hourly` the hours reached by `*` or a range."""

    canonical: tuple[str, str, str, str, str]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    hourly: frozenset[int]
    either_day: bool

    def has(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return in_month or in_week if self.either_day else in_month and in_week


@lru_cache(maxsize=2048)
def parse(text: str) -> Cron:
    """Read five-field cron or one of ALIASES; raises RuleError with the field at fault."""
    if len(text) > MAX_CRON_LENGTH:
        raise RuleError("cron", f"The cron text is longer than {MAX_CRON_LENGTH} characters.")
    words = ALIASES.get(text.strip().lower(), text).lower().split()
    if len(words) != 5:
        raise RuleError(
            "cron",
            f'"{text}" has {len(words)} {"field" if len(words) == 1 else "fields"}, cron text has five.'
            if words
            else "The cron text is empty.",
            "Give minute, hour, day of month, month and day of week, for example 30 6 * * 1-5.",
        )
    fields = [_numbers_for_names(index, word) for index, word in enumerate(words)]
    sets = [_expand(index, field) for index, field in enumerate(fields)]
    stars = [field.startswith("*") for field in fields]
    cron = Cron(
        canonical=tuple(_canonical(index, field, sets[index]) for index, field in enumerate(fields)),  # type: ignore[arg-type]
        minutes=tuple(sorted(sets[0])),
        hours=tuple(sorted(sets[1])),
        days=sets[2],
        months=sets[3],
        weekdays=sets[4],
        hourly=frozenset().union(*(_expand(1, p) for p in fields[1].split(",") if not p.isdigit())),
        either_day=not stars[2] and not stars[4],
    )
    if not cron.either_day and not any(day <= _LONGEST_MONTH[month] for day in cron.days for month in cron.months):
        raise RuleError("cron", f'"{text}" never comes: no such month has that day.', "Choose a day that exists.")
    return cron


def crontab_fields(text: str) -> dict[str, str]:
    """The columns of a django-celery-beat CrontabSchedule for a cron text."""
    names = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    return dict(zip(names, parse(text).canonical, strict=True))


def _numbers_for_names(index: int, word: str) -> str:
    names = _NAMES.get(index, {})
    word = re.sub("[a-z]+", lambda found: str(names.get(found[0], found[0])), word)
    if not all(_TOKEN.fullmatch(part) for part in word.split(",")):
        raise _misread(index, word)
    return word


def _expand(index: int, field: str) -> frozenset[int]:
    """The numbers one field names, by croniter."""
    alone = ["*"] * 5
    alone[index] = field
    try:
        numbers = croniter.expand(" ".join(alone))[0][index]
    except ValueError as error:
        raise _misread(index, field) from error
    return frozenset(_SPANS[index] if numbers == ["*"] else (int(number) for number in numbers))


def _misread(index: int, word: str) -> RuleError:
    name, span = _FIELDS[index]
    return RuleError(
        "cron",
        f'The {name} "{word}" cannot be read.',
        f"{span}; write * for every one, 1-5 for a range, 1,15 for a list and */2 for steps.",
    )


def _canonical(index: int, field: str, numbers: frozenset[int]) -> str:
    """The same field as `*`, `*/n` or numbers and ranges: what every reader of cron understands alike."""
    span = _SPANS[index]
    if len(numbers) == len(span):
        # All days written out (1-31) are not the same as *: see either_day.
        return "*" if field.startswith("*") or index not in (2, 4) else f"{span[0]}-{span[-1]}"
    if re.fullmatch(r"\*/\d+", field) and len(numbers) > 1:
        return field
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _zone(name: str) -> ZoneInfo:
    if name not in _zones():
        hint = "Choose one such as Europe/Berlin or UTC."
        raise RuleError("zone", f"{name or 'An empty text'} is not a time zone.", hint)
    return ZoneInfo(name)


def _later(moment: datetime, by: timedelta) -> datetime:
    end = datetime.max.replace(tzinfo=UTC) - timedelta(days=2)
    return moment.astimezone(UTC) + by if moment < end - by else end


def _ticks(rule: Rule, after: datetime, until: datetime) -> Iterator[datetime]:
    """All ticks after `after`, ascending; ends some time after `until`, so the caller looks at each."""
    after = after.astimezone(UTC)
    if rule.kind == "interval":
        return _interval_ticks(rule, after, until)
    return _cron_ticks(parse(rule.cron), _zone(rule.zone), after, until)


def _lattice(rule: Rule, near: datetime) -> tuple[datetime, timedelta]:
    start = (rule.starts_at or near).astimezone(UTC)
    return start.replace(hour=0, minute=0, second=0, microsecond=0), timedelta(seconds=rule.every_s or 0)


def _interval_ticks(rule: Rule, after: datetime, until: datetime) -> Iterator[datetime]:
    anchor, every = _lattice(rule, after)
    tick = anchor + ((after - anchor) // every + 1) * every
    while tick <= until:
        yield tick
        tick += every


def _cron_ticks(cron: Cron, zone: ZoneInfo, after: datetime, until: datetime) -> Iterator[datetime]:
    """Walk the wall clock; second passes of a repeated span are kept back until the first pass is through.

    Wall times before a repeated span map to instants before it, wall times after it to instants after it, so one
    list of kept ticks is enough to give all in order.
    """
    kept: list[datetime] = []
    last = after
    for wall in _wall_times(cron, _wall_start(zone, after), until.astimezone(zone).replace(tzinfo=None)):
        first, second = _instants(wall, zone)
        if kept and first > kept[-1]:
            for tick in kept:
                if tick > last:
                    yield (last := tick)
            kept.clear()
        if second is not None and wall.hour in cron.hourly:
            kept.append(second)
        if first > last:
            yield (last := first)
    for tick in kept:
        if tick > last:
            yield (last := tick)


def _wall_start(zone: ZoneInfo, after: datetime) -> datetime:
    """The earliest wall time that can still come: in a first pass, one whose second pass is ahead."""
    local = after.astimezone(zone)
    wall = local.replace(tzinfo=None, fold=0)
    first, second = _offset(wall, zone, 0), _offset(wall, zone, 1)
    return wall - max(first - second, timedelta(0)) if local.fold == 0 else wall


def _wall_times(cron: Cron, start: datetime, end: datetime) -> Iterator[datetime]:
    """The rule's wall times from the minute of `start` to the day of `end` and one day more (a skipped one)."""
    day, last = start.date(), end.date() + timedelta(days=1)
    while day <= last:
        if day.month not in cron.months:
            day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
            continue
        if cron.has(day):
            for hour in cron.hours:
                if day == start.date() and hour < start.hour:
                    continue
                for minute in cron.minutes:
                    yield datetime(day.year, day.month, day.day, hour, minute)
        day += timedelta(days=1)


def _offset(wall: datetime, zone: ZoneInfo, fold: int) -> timedelta:
    offset = wall.replace(tzinfo=zone, fold=fold).utcoffset()
    assert offset is not None  # noqa: S101 - a ZoneInfo always has one
    return offset


def _instants(wall: datetime, zone: ZoneInfo) -> tuple[datetime, datetime | None]:
    """When a wall time is: the second instant only where the clocks repeat it (PEP 495)."""
    before, after = _offset(wall, zone, 0), _offset(wall, zone, 1)
    as_utc = wall.replace(tzinfo=UTC)
    if before == after:
        return as_utc - before, None
    if before > after:
        return as_utc - before, as_utc - after
    return _jump(as_utc - after, as_utc - before, zone), None


def _jump(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """The first second in (low, high] with the offset of `high`: where the clocks jump."""
    offset = high.astimezone(zone).utcoffset()
    seconds = int((high - low).total_seconds())
    wrong, right = 0, seconds
    while right - wrong > 1:
        middle = (wrong + right) // 2
        if (low + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            right = middle
        else:
            wrong = middle
    return low + timedelta(seconds=right)


def _interval_in_words(every_s: int) -> str:
    for length, name in ((604800, "week"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if every_s >= length and every_s % length == 0:
            count = every_s // length
            return f"Every {name}" if count == 1 else f"Every {count} {name}s"
    raise RuleError("every_s", "An interval is at least one second.")


def _evenly(index: int, field: str, numbers: Sequence[int]) -> str:
    """The field, its numbers written out where a step does not come round evenly: */7 is not every seven minutes."""
    even = index in (0, 1, 3) and field.startswith("*/") and len(_SPANS[index]) % int(field[2:]) == 0
    return field if even or not field.startswith("*/") else ",".join(map(str, numbers))


def _cron_in_words(cron: Cron) -> str:
    numbers = (cron.minutes, cron.hours, sorted(cron.days), sorted(cron.months), sorted(cron.weekdays))
    fields = [_evenly(index, field, numbers[index]) for index, field in enumerate(cron.canonical)]
    minute, hour, day, month, weekday = fields
    several_hours = minute.isdigit() and "-" in hour
    if several_hours:
        hour = ",".join(map(str, cron.hours))
    options = Options()
    options.locale_code = "en_US"
    options.use_24hour_time_format = True
    options.throw_exception_on_parse_error = True
    describe = ExpressionDescriptor(f"{minute} {hour} {day} {month} {weekday}", options).get_description
    time = describe(DescriptionTypeEnum.TIMEOFDAY).removesuffix(", every hour")
    if several_hours and cron.hours[-1] - cron.hours[0] == len(cron.hours) - 1:
        time = f"every hour from {cron.hours[0]:02}:{minute:0>2} through {cron.hours[-1]:02}:{minute:0>2}"
    days = describe(DescriptionTypeEnum.DAYOFMONTH) if day != "*" else ""
    weekdays = describe(DescriptionTypeEnum.DAYOFWEEK)
    if cron.either_day:
        weekdays = ", or" + weekdays.removeprefix(",").replace(" only on ", " on ", 1)
    months = describe(DescriptionTypeEnum.MONTH)
    if not (days or weekdays or months) and time.lower().startswith("at ") and hour != "*":
        days = ", every day"
    text = f"{time}{days}{weekdays}{months}"
    return text[:1].upper() + text[1:]
