"""Wall clocks of zones, and the instants that they mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from pipelines.schedules.errors import RuleError

# What people give lies between these: reckoning with it must not lead out of what a datetime can be.
EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
OUTSIDE = "A time lies between the years 1900 and 2200."


def is_outside(moment: datetime) -> bool:
    """Whether nobody can mean it; of a wall time by any clock."""
    return not EARLIEST <= (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) < LATEST


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def zone_of(name: str) -> ZoneInfo:
    if name not in _zones():
        hint = "Choose one such as Europe/Berlin or UTC."
        raise RuleError("zone", f"{name or 'An empty text'} is not a time zone.", hint)
    return ZoneInfo(name)


def offset_at(wall: datetime, zone: ZoneInfo, fold: int) -> timedelta:
    offset = wall.replace(tzinfo=zone, fold=fold).utcoffset()
    assert offset is not None  # noqa: S101 - a ZoneInfo always has one
    return offset


def instants(wall: datetime, zone: ZoneInfo) -> tuple[datetime, datetime | None]:
    """When a wall time is: the second instant only where the clocks repeat it (PEP 495)."""
    before, after = offset_at(wall, zone, 0), offset_at(wall, zone, 1)
    as_utc = wall.replace(tzinfo=UTC)
    if before == after:
        return as_utc - before, None
    if before > after:
        return as_utc - before, as_utc - after
    return _jump(as_utc - after, as_utc - before, zone), None


def instant_of(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant of a wall time: the first of two, the first that exists."""
    return instants(wall, zone)[0]


def change_between(low: datetime, high: datetime, zone: ZoneInfo) -> datetime | None:
    """The first second in (low, high] on other clocks than `low`, if `high` is; of use for spans with one change."""
    low, high = low.astimezone(UTC), high.astimezone(UTC)
    before, after = (moment.astimezone(zone).utcoffset() for moment in (low, high))
    return None if before == after else _jump(low, high, zone)


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
