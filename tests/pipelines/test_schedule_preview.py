"""The next times of a rule, as people see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pipelines.schedules import Closures, Rule
from pipelines.schedules.preview import next_clock_change, upcoming


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def cron(text: str, zone: str) -> Rule:
    return Rule("cron", cron=text, zone=zone)


def notes(rule: Rule, after: str, count: int = 4) -> list[tuple[str, str]]:
    return [(f"{each.local:%d %H:%M %z}", each.note) for each in upcoming(rule, at(after), count)]


def test_ten_times_on_the_clock_of_the_zone_and_in_utc() -> None:
    told = upcoming(cron("30 6 * * *", "Asia/Kolkata"), at("2026-11-26T12:00"))
    assert len(told) == 10
    assert (told[0].on_the_clock, told[0].in_utc) == ("Fri 27 Nov 2026, 06:30 IST", "Fri 27 Nov 2026, 01:00 UTC")
    assert not any(each.note or each.closed for each in told)


FORWARD, BACK = "the clocks go forward by 1 h on this day", "the clocks go back by 1 h on this day"
MOVED = "its time is left out: the first that exists"


@pytest.mark.parametrize(
    ("rule", "after", "told"),
    [
        (
            cron("30 2 * * *", "Europe/Berlin"),
            "2026-03-27T12:00",
            [("28 02:30 +0100", ""), ("29 03:00 +0200", f"{FORWARD}, {MOVED}"), ("30 02:30 +0200", "")],
        ),
        (
            cron("30 2 * * *", "Europe/Berlin"),
            "2026-10-24T12:00",
            [("25 02:30 +0200", f"{BACK}, the first of two"), ("26 02:30 +0100", "")],
        ),
        (
            cron("0 * * * *", "Europe/Berlin"),
            "2026-10-24T23:30",
            [("25 02:00 +0200", f"{BACK}, the first of two"), ("25 02:00 +0100", f"{BACK}, the second of two")],
        ),
        (
            cron("15 0 * * *", "America/Santiago"),
            "2026-09-05T12:00",
            [("06 01:00 -0300", f"{FORWARD}, {MOVED}"), ("07 00:15 -0300", "")],
        ),
        (
            cron("0 6 * * *", "America/Santiago"),
            "2026-04-03T12:00",
            # From 24:00 of the 4th back to 23:00.
            [("04 06:00 -0300", BACK), ("05 06:00 -0400", "")],
        ),
        (
            cron("15 2 * * *", "Australia/Lord_Howe"),
            "2026-10-03T00:00",
            [("04 02:30 +1100", f"the clocks go forward by 30 min on this day, {MOVED}"), ("05 02:15 +1100", "")],
        ),
    ],
)
def test_days_on_which_clocks_change_are_pointed_out(rule: Rule, after: str, told: list[tuple[str, str]]) -> None:
    assert notes(rule, after, len(told)) == told


@pytest.mark.parametrize(
    ("rule", "after", "said"),
    [
        (
            cron("30 2 * * *", "Europe/Berlin"),
            "2026-11-26",
            "On Sunday 28 March 2027 the clocks go forward by 1 h: it runs at 03:00 CEST on that day.",
        ),
        (
            cron("15 0 * * *", "America/Santiago"),
            "2026-08-01",
            "On Sunday 6 September 2026 the clocks go forward by 1 h: it runs at 01:00 -03 on that day.",
        ),
        (
            cron("0 * * * *", "America/New_York"),
            "2026-08-01",
            "On Sunday 1 November 2026 the clocks go back by 1 h: it runs 25 times on that day.",
        ),
        (
            cron("0 6 * * 1", "Europe/Berlin"),
            "2026-11-26",
            "On Sunday 28 March 2027 the clocks go forward by 1 h: it does not run on that day.",
        ),
        (cron("0 6 * * *", "Asia/Kolkata"), "2026-11-26", ""),
        (Rule("interval", every_s=3600), "2026-11-26", ""),
    ],
)
def test_the_next_change_is_told_however_far(rule: Rule, after: str, said: str) -> None:
    assert next_clock_change(rule, at(after)) == said


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/Santiago", "America/Havana", "Pacific/Chatham", "UTC"])
def test_the_days_pointed_out_are_those_of_the_zone(name: str) -> None:
    """Against the offsets of zoneinfo, hour by hour over a year."""
    zone, begin = ZoneInfo(name), at("2026-01-01T00:00")
    hours = [begin + timedelta(hours=hour) for hour in range(366 * 24)]
    days = [(hour + timedelta(hours=1)).astimezone(zone).date() for hour in hours]
    changed = {
        max(hour.astimezone(zone).date(), day) if (hour + timedelta(hours=1)).astimezone(zone).utcoffset() >
        hour.astimezone(zone).utcoffset() else day
        for hour, day in zip(hours, days, strict=True)
        if (hour + timedelta(hours=1)).astimezone(zone).utcoffset() != hour.astimezone(zone).utcoffset()
    }  # fmt: skip
    told = {each.local.date() for each in upcoming(cron("0 12 * * *", name), begin, 365) if each.note}
    assert told == changed


def test_what_a_calendar_closes_is_told_with_its_words() -> None:
    closures = Closures.of("UTC", ["2026-12-25 Christmas Day", "every Sat"])
    told = upcoming(cron("0 6 * * *", "UTC"), at("2026-12-23T12:00"), 4, closures)
    assert [each.closed for each in told] == ["", "Christmas Day", "-", ""]


def test_a_window_ends_the_list() -> None:
    rule = Rule("cron", cron="0 6 * * *", active_from=at("2026-12-01T06:00"), active_until=at("2026-12-03T06:00"))
    assert [each.local.day for each in upcoming(rule, at("2026-11-26"))] == [1, 2, 3]
