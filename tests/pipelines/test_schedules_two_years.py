"""Two years of ticks in many zones, against a walk along the real clock that knows zoneinfo and nothing else.

The rules are stated twice: as cron text for us, and as a question about a wall time for the walk. What happens where
clocks change is worked out here anew: a skipped time is the first moment after the gap, a repeated one counts twice
only where the rule goes by the hour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from pipelines.schedules import Rule, due_times, next_time, previous_time

ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # half an hour off
    "Asia/Kolkata",  # half an hour off, and no clock changes
    "Asia/Kathmandu",  # three quarters
    "Australia/Adelaide",  # half an hour off, southern
    "Australia/Lord_Howe",  # half an hour off, southern, and changes by half an hour
    "America/Santiago",  # southern, changes at midnight
    "Pacific/Chatham",  # three quarters, southern
    "Africa/Casablanca",  # back for Ramadan
    "America/Havana",  # changes at midnight
)
BEGIN, END = datetime(2026, 1, 1, 0, 7, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=15)  # all clock changes of these years, and all rules below, fall on quarters of an hour


@dataclass(frozen=True)
class Stated:
    """A rule in two wordings; `by_the_hour`: a repeated time counts twice."""

    cron: str
    matches: Callable[[datetime], bool]
    by_the_hour: bool = False


RULES = (
    Stated("30 2 * * *", lambda wall: (wall.hour, wall.minute) == (2, 30)),
    Stated("0 0 * * *", lambda wall: (wall.hour, wall.minute) == (0, 0)),
    Stated("45 1 * * 0", lambda wall: (wall.hour, wall.minute) == (1, 45) and wall.weekday() == 6),
    Stated("0,30 1,2,3 * * *", lambda wall: wall.hour in (1, 2, 3) and wall.minute in (0, 30)),
    Stated("15 23 1,15 * *", lambda wall: (wall.hour, wall.minute) == (23, 15) and wall.day in (1, 15)),
    Stated("0 6 13 * 5", lambda w: (w.hour, w.minute) == (6, 0) and (w.day == 13 or w.weekday() == 4)),
    Stated("0 * * * *", lambda wall: wall.minute == 0, by_the_hour=True),
    Stated("*/15 * * * *", lambda wall: True, by_the_hour=True),
    Stated("30 0-4 * 3,4,9,10,11 *", lambda w: w.minute == 30 and w.hour <= 4 and w.month in (3, 4, 9, 10, 11), True),
    Stated("45 */2 * * 0,6", lambda w: w.minute == 45 and w.hour % 2 == 0 and w.weekday() >= 5, True),
)


@dataclass(frozen=True)
class Quarter:
    """A moment and what the clock on the wall says; `skipped`: what it left out since the one before."""

    moment: datetime
    wall: datetime
    skipped: tuple[datetime, ...]
    is_repeated: bool


def walk(name: str) -> list[Quarter]:
    """Every quarter of an hour from a day before the first."""
    zone, quarters = ZoneInfo(name), []
    moment = BEGIN.replace(minute=0) - timedelta(days=1)
    before = latest = moment.astimezone(zone).replace(tzinfo=None) - STEP
    while moment <= END:
        wall = moment.astimezone(zone).replace(tzinfo=None)
        gap = range(1, round((wall - before) / STEP)) if wall - before > STEP else ()
        quarters.append(Quarter(moment, wall, tuple(before + n * STEP for n in gap), wall <= latest))
        before, latest = wall, max(latest, wall)
        moment += STEP
    return quarters


def reckoned(stated: Stated, quarters: list[Quarter]) -> list[datetime]:
    return [
        quarter.moment
        for quarter in quarters
        if quarter.moment > BEGIN
        and (
            (stated.matches(quarter.wall) and (stated.by_the_hour or not quarter.is_repeated))
            or any(map(stated.matches, quarter.skipped))
        )
    ]


@pytest.mark.parametrize("name", ZONES)
def test_two_years_of_ticks_are_those_of_the_clock_on_the_wall(name: str) -> None:
    quarters = walk(name)
    changes = sum(after.wall - before.wall != STEP for before, after in pairwise(quarters))
    assert changes == (0 if name in ("Asia/Kolkata", "Asia/Kathmandu") else 4), "these years have them"
    for stated in RULES:
        rule = Rule("cron", cron=stated.cron, zone=name)
        expected = reckoned(stated, quarters)
        assert len(expected) > 20
        assert due_times(rule, BEGIN, END, limit=100_000) == expected, stated.cron


@pytest.mark.parametrize("name", ["America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca"])
def test_stepping_from_tick_to_tick_finds_the_same(name: str) -> None:
    """As the ticker does it, and back again as data intervals are found."""
    quarters = walk(name)
    for stated in RULES[:3]:
        rule = Rule("cron", cron=stated.cron, zone=name)
        expected = reckoned(stated, quarters)
        stepped, moment = [], BEGIN
        while (moment := next_time(rule, moment)) <= END:
            stepped.append(moment)
        assert stepped == expected
        assert [previous_time(rule, tick) for tick in expected[1:]] == expected[:-1]
