"""Rules → due times: see the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from cron_descriptor import DescriptionTypeEnum, ExpressionDescriptor, Options

from pipelines.schedules.cron import SPANS, Cron, parse
from pipelines.schedules.errors import RuleError

MAX_EVERY_S = 366 * 86400
# The 29th of February on one given weekday comes back after 40 years at most.
HORIZON = timedelta(days=41 * 366)


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
    even = index in (0, 1, 3) and field.startswith("*/") and len(SPANS[index]) % int(field[2:]) == 0
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
