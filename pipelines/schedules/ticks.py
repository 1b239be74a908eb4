"""A rule's ticks: after a time, up to a time, before a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from pipelines.schedules.clocks import instants, offset_at, zone_of
from pipelines.schedules.cron import Cron, parse
from pipelines.schedules.rules import Rule, remembered

# The 29th of February on one given weekday comes back after 40 years at most.
HORIZON = timedelta(days=41 * 366)


def due_times(rule: Rule, after: datetime, until: datetime, *, limit: int = 1000) -> list[datetime]:
    """The first `limit` ticks in (after, until], ascending, in UTC."""
    until = min(until, rule.active_until) if rule.active_until else until
    return list(_due_times(rule, _no_earlier(rule, after), until, limit))


@remembered
def _due_times(rule: Rule, after: datetime, until: datetime, limit: int) -> tuple[datetime, ...]:
    ticks: list[datetime] = []
    for tick in _ticks(rule, after, until):
        if tick > until or len(ticks) == limit:
            break
        ticks.append(tick)
    return tuple(ticks)


def next_times(rule: Rule, after: datetime, count: int) -> list[datetime]:
    after = _no_earlier(rule, after)
    ticks = islice(_ticks(rule, after, _later(after, HORIZON)), count)
    return [tick for tick in ticks if not rule.active_until or tick <= rule.active_until]


@remembered
def next_time(rule: Rule, after: datetime) -> datetime | None:
    return next(iter(next_times(rule, after, 1)), None)


def _no_earlier(rule: Rule, after: datetime) -> datetime:
    return max(after, rule.active_from - timedelta(microseconds=1)) if rule.active_from else after


def covered_by(schedule: Any, now: datetime) -> datetime | None:
    """Up to where the runs of a schedule that ends `now` reach, with those still to come; None before a tick."""
    end = min(now, schedule.active_until) if schedule.active_until else now
    last = previous_time(Rule.of(schedule), _later(end, timedelta(microseconds=1)))
    if last is None or last <= schedule.ticked_through or (schedule.active_from and last < schedule.active_from):
        return schedule.covered_through
    return last


@remembered
def previous_time(rule: Rule, at: datetime) -> datetime | None:
    """The last tick strictly before `at`, as if the rule had no window, looked for in windows that double.

    So the first run of a window has a data interval as long as any other.
    """
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


def _later(moment: datetime, by: timedelta) -> datetime:
    end = datetime.max.replace(tzinfo=UTC) - timedelta(days=2)
    return moment.astimezone(UTC) + by if moment < end - by else end


def _ticks(rule: Rule, after: datetime, until: datetime) -> Iterator[datetime]:
    """All ticks after `after`, ascending; ends some time after `until`, so the caller looks at each."""
    after = after.astimezone(UTC)
    if rule.kind == "interval":
        return _interval_ticks(rule, after, until)
    return _cron_ticks(parse(rule.cron), zone_of(rule.zone), after, until)


def _lattice(rule: Rule, near: datetime) -> tuple[datetime, timedelta]:
    if rule.active_from:
        return rule.active_from.astimezone(UTC), timedelta(seconds=rule.every_s or 0)
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
        first, second = instants(wall, zone)
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
    first, second = offset_at(wall, zone, 0), offset_at(wall, zone, 1)
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
