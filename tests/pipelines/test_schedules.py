"""Due times, against a reckoning that walks every second of the real clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter

from pipelines.schedules import (
    Rule,
    RuleError,
    check,
    due_times,
    in_words,
    next_time,
    next_times,
    previous_time,
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def cron(text: str, zone: str = "UTC") -> Rule:
    return Rule("cron", cron=text, zone=zone)


def on_the_clock(rule: Rule, after: datetime, until: datetime) -> list[str]:
    """Ticks as people in the zone read them, with the offset that tells repeated hours apart."""
    zone = ZoneInfo(rule.zone)
    return [tick.astimezone(zone).strftime("%d %H:%M %z") for tick in due_times(rule, after, until)]


# The clocks change -----------------------------------------------------------------------------

BERLIN_LOSES = (at("2026-03-28T23:30:00"), at("2026-03-29T03:00:00"))  # 02:00 becomes 03:00
BERLIN_REPEATS = (at("2026-10-24T23:30:00"), at("2026-10-25T03:00:00"))  # 03:00 becomes 02:00


@pytest.mark.parametrize(
    ("text", "ticks"),
    [
        ("30 2 * * *", ["29 03:00 +0200"]),
        ("0 2 * * *", ["29 03:00 +0200"]),
        ("0 3 * * *", ["29 03:00 +0200"]),
        ("0 2,3 * * *", ["29 03:00 +0200"]),
        ("0,30 2 * * *", ["29 03:00 +0200"]),
        ("15 3 * * *", ["29 03:15 +0200"]),
        ("0 * * * *", ["29 01:00 +0100", "29 03:00 +0200", "29 04:00 +0200", "29 05:00 +0200"]),
        ("30 * * * *", ["29 01:30 +0100", "29 03:00 +0200", "29 03:30 +0200", "29 04:30 +0200"]),
    ],
)
def test_a_time_that_the_clocks_skip_runs_once_at_the_next_that_exists(text, ticks):
    assert on_the_clock(cron(text, "Europe/Berlin"), *BERLIN_LOSES) == ticks


@pytest.mark.parametrize(
    ("text", "ticks"),
    [
        ("30 2 * * *", ["25 02:30 +0200"]),
        ("0,30 2 * * *", ["25 02:00 +0200", "25 02:30 +0200"]),
        ("0 1,2,3 * * *", ["25 02:00 +0200", "25 03:00 +0100"]),
        ("0 * * * *", ["25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100", "25 04:00 +0100"]),
        ("30 1-4 * * *", ["25 02:30 +0200", "25 02:30 +0100", "25 03:30 +0100"]),
        ("0 */2 * * *", ["25 02:00 +0200", "25 02:00 +0100", "25 04:00 +0100"]),
        ("*/20 2 * * *", ["25 02:00 +0200", "25 02:20 +0200", "25 02:40 +0200"]),
        (
            "*/30 * * * *",
            ["25 02:00 +0200", "25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100",
             "25 03:00 +0100", "25 03:30 +0100", "25 04:00 +0100"],
        ),
    ],
)  # fmt: skip
def test_a_repeated_hour_runs_twice_by_the_hour_and_once_by_the_time_of_day(text, ticks):
    assert on_the_clock(cron(text, "Europe/Berlin"), *BERLIN_REPEATS) == ticks


def test_half_an_hour_repeats_and_goes_missing_on_lord_howe():
    every = cron("*/20 * * * *", "Australia/Lord_Howe")
    # On 5 April 2026, 02:00 +11:00 becomes 01:30 +10:30.
    assert on_the_clock(every, at("2026-04-04T14:10:00"), at("2026-04-04T15:45:00")) == [
        "05 01:20 +1100", "05 01:40 +1100", "05 01:40 +1030", "05 02:00 +1030",
    ]  # fmt: skip
    once = cron("45 1 * * *", "Australia/Lord_Howe")
    assert on_the_clock(once, at("2026-04-04T12:00:00"), at("2026-04-05T00:00:00")) == ["05 01:45 +1100"]
    # On 4 October 2026, 02:00 +10:30 becomes 02:30 +11:00.
    missing = cron("15 2 * * *", "Australia/Lord_Howe")
    assert on_the_clock(missing, at("2026-10-03T12:00:00"), at("2026-10-04T00:00:00")) == ["04 02:30 +1100"]


def test_an_hour_that_repeats_across_midnight_stays_in_order():
    # Until 2011 Newfoundland went back from 00:01 to 23:01 of the day before.
    ticks = due_times(cron("*/30 * * * *", "America/St_Johns"), at("2009-11-01T01:00:00"), at("2009-11-01T04:31:00"))
    assert ticks == sorted(set(ticks))
    zone = ZoneInfo("America/St_Johns")
    assert [tick.astimezone(zone).strftime("%d %H:%M") for tick in ticks] == [
        "31 23:00", "31 23:30", "01 00:00", "31 23:30", "01 00:00", "01 00:30", "01 01:00",
    ]  # fmt: skip


def test_a_day_that_never_was_runs_once_on_the_next():
    # Samoa left out 30 December 2011.
    daily = cron("0 6 * * *", "Pacific/Apia")
    assert on_the_clock(daily, at("2011-12-29T00:00:00"), at("2012-01-01T00:00:00")) == [
        "29 06:00 -1000", "31 00:00 +1400", "31 06:00 +1400", "01 06:00 +1400",
    ]  # fmt: skip


ZONES = {
    "Europe/Berlin": ("2026-03-27", "2026-10-23"),
    "America/New_York": ("2026-03-06", "2026-10-30"),
    "America/Havana": ("2026-03-06", "2026-10-30"),
    "Australia/Lord_Howe": ("2026-04-03", "2026-10-02"),
    "Australia/Sydney": ("2026-04-03", "2026-10-02"),
    "Pacific/Chatham": ("2026-04-03", "2026-09-25"),
    "America/Santiago": ("2026-04-03", "2026-09-04"),
    "Africa/Casablanca": ("2026-02-13", "2026-03-20"),
    "Europe/Dublin": ("2026-03-27", "2026-10-23"),
    "Asia/Kolkata": ("2026-03-27", "2026-10-23"),
    "America/St_Johns": ("2009-03-06", "2009-10-30"),
    "Antarctica/Troll": ("2026-03-27", "2026-10-23"),
}
TEXTS = [
    "* * * * *", "*/7 * * * *", "0 * * * *", "30 2 * * *", "0,45 0,1,2,3,23 * * *", "15 1-3 * * *", "*/30 */2 * * *",
    "59 23 * * 6", "0 0 * * sun", "30 0 28-31 * *",
]  # fmt: skip


def reckoned(text: str, zone: ZoneInfo, after: datetime, until: datetime) -> list[datetime]:
    """Walk every minute of real time; read the wall clock; say what standard cron and the DST rule say.

    Which wall times match comes from croniter; what happens where clocks change is worked out here anew.
    """
    matches = set()
    walk = croniter(text, after.astimezone(zone).replace(tzinfo=None) - timedelta(days=2))
    end = until.astimezone(zone).replace(tzinfo=None) + timedelta(days=2)
    while (wall := walk.get_next(datetime)) <= end:
        matches.add(wall)
    by_the_hour = any(c in text.split()[1] for c in "*-")
    seen: set[datetime] = set()
    ticks = []
    moment = (after - timedelta(days=1)).replace(second=0)
    before = moment.astimezone(zone).replace(tzinfo=None) - timedelta(minutes=1)
    while moment <= until:
        wall = moment.astimezone(zone).replace(tzinfo=None)
        skipped = [w for w in matches if before < w < wall] if wall - before > timedelta(minutes=1) else []
        if skipped or (wall in matches and (by_the_hour or wall not in seen)):
            ticks.append(moment)
        seen.add(wall)
        before = wall
        moment += timedelta(minutes=1)
    return [tick for tick in ticks if after < tick]


@pytest.mark.parametrize("zone", ZONES)
def test_due_times_agree_with_a_walk_along_the_clock(zone):
    for start in ZONES[zone]:
        after = at(f"{start}T09:30:20")
        until = after + timedelta(days=4)
        for text in TEXTS:
            assert due_times(cron(text, zone), after, until, limit=10_000) == reckoned(
                text, ZoneInfo(zone), after, until
            ), (zone, start, text)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns"])
def test_where_a_search_starts_changes_nothing(zone):
    for start in ZONES[zone]:
        after = at(f"{start}T00:00:00")
        for text in ("*/30 * * * *", "30 2 * * *", "45 0-3 * * *"):
            rule, end = cron(text, zone), after + timedelta(days=4)
            ticks = due_times(rule, after, end)
            for minutes in range(0, 4 * 24 * 60, 10):
                moment = after + timedelta(minutes=minutes)
                assert next_time(rule, moment) == next(t for t in [*ticks, next_time(rule, end)] if t > moment)
                last = previous_time(rule, moment)
                assert last < moment
                assert last == max((t for t in ticks if t < moment), default=last)


# Standard cron ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("0 0 13 * 5", [2, 9, 13, 16, 23, 30]),  # the 13th, or a Friday
        ("0 0 13 * *", [13]),
        ("0 0 * * 5", [2, 9, 16, 23, 30]),
        ("0 0 */2 * 5", [9, 23]),  # an odd day that is a Friday: one of them begins with *
        ("0 0 1-7 * */7", [4]),
        ("0 0 1-31 * 5", list(range(1, 32))),
        ("0 0 * * 0-7", list(range(1, 32))),
        ("0 0 * * 7", [4, 11, 18, 25]),
        ("0 0 * * fri-MON", [2, 3, 4, 5, 9, 10, 11, 12, 16, 17, 18, 19, 23, 24, 25, 26, 30, 31]),
        ("@weekly", [4, 11, 18, 25]),
        ("@monthly", [1]),
    ],
)
def test_days_combine_as_in_standard_cron(text, days):
    rule = cron(text)
    ticks = due_times(rule, at("2025-12-31T23:59:00"), at("2026-01-31T23:59:00"))
    assert [tick.day for tick in ticks] == days


@pytest.mark.parametrize(
    ("text", "ticks"),
    [
        ("5/20 12 * * *", ["12:05", "12:25", "12:45"]),
        ("10-20/5 12 * * *", ["12:10", "12:15", "12:20"]),
        ("1,*/30 12 * * *", ["12:00", "12:01", "12:30"]),
        ("0 22-1 * * *", ["00:00", "01:00", "22:00", "23:00"]),
        ("@hourly", [f"{hour:02}:00" for hour in range(24)]),
    ],
)
def test_steps_ranges_and_lists(text, ticks):
    found = due_times(cron(text), at("2026-01-04T23:59:00"), at("2026-01-05T23:59:00"))
    assert [tick.strftime("%H:%M") for tick in found] == ticks


@pytest.mark.parametrize(
    "text",
    [
        "", "* * * *", "0 0 1 * * *", "0 0 0 1 1 * 2026", "@reboot", "@every 5m", "60 * * * *", "* 24 * * *",
        "* * 0 * *", "* * * 13 *", "* * * * 8", "*/0 * * * *", "-1 * * * *", "1- * * * *", "a * * * *",
        "* * * jam *", "* * L * *", "* * 15W * *", "* * * * 5#2", "* * * * 5L", "? * * * *", "H * * * *",
        "R * * * *", "1,,2 * * * *", "1;2 * * * *", "* * * mon *", "* jan * * *", "٣ * * * *", "1_0 * * * *",
        "0 0 31 2 *", "0 0 30,31 feb *", "0 0 31 4,6,9,11 *", "0 0 30 2 */2", "0 " * 150,
    ],
)  # fmt: skip
def test_what_is_no_cron_is_refused_in_words(text):
    with pytest.raises(RuleError) as caught:
        check(cron(text))
    assert caught.value.field == "cron"
    assert caught.value.message.endswith((".", "!"))


@pytest.mark.parametrize("text", ["0 0 29 2 *", "0 0 31 2,3 *", "0 0 31 2 1", "  0\t0 * *  * ", "@DAILY"])
def test_what_may_look_impossible_but_comes_is_taken(text):
    check(cron(text))
    assert next_time(cron(text), at("2026-01-01T00:00:00")) is not None


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "/etc/localtime", "Europe", "europe/berlin\x00"])
def test_what_is_no_zone_is_refused(zone):
    with pytest.raises(RuleError) as caught:
        check(cron("0 0 * * *", zone))
    assert caught.value.field == "zone"


def test_rare_days_are_found():
    leap = cron("0 0 29 2 *")
    assert next_time(leap, at("2096-03-01T00:00:00")) == at("2104-02-29T00:00:00")
    assert previous_time(leap, at("2104-02-29T00:00:00")) == at("2096-02-29T00:00:00")
    assert next_time(cron("0 0 29 2 */7"), at("2032-03-01T00:00:00")) == at("2060-02-29T00:00:00")


def test_the_border_belongs_to_the_end_and_the_limit_holds():
    hourly = cron("0 * * * *")
    noon = at("2026-05-01T12:00:00")
    assert due_times(hourly, noon, noon + timedelta(hours=2)) == [noon + timedelta(hours=1), noon + timedelta(hours=2)]
    assert len(due_times(hourly, noon, noon + timedelta(days=365), limit=10)) == 10
    assert previous_time(hourly, noon) == noon - timedelta(hours=1)
    assert next_times(hourly, noon + timedelta(seconds=1), 2) == [noon + timedelta(hours=h) for h in (1, 2)]


# Intervals -------------------------------------------------------------------------------------


def test_an_interval_counts_from_midnight_of_the_day_it_started():
    rule = Rule("interval", every_s=7 * 3600, starts_at=at("2026-01-01T10:20:30"))
    assert due_times(rule, at("2026-01-01T10:20:30"), at("2026-01-02T12:00:00")) == [
        at("2026-01-01T14:00:00"), at("2026-01-01T21:00:00"), at("2026-01-02T04:00:00"), at("2026-01-02T11:00:00"),
    ]  # fmt: skip
    assert previous_time(rule, at("2026-01-01T14:00:00")) == at("2026-01-01T07:00:00")
    assert previous_time(rule, at("2026-01-01T14:00:01")) == at("2026-01-01T14:00:00")
    assert next_time(rule, at("2026-03-01T00:00:00")) == at("2026-03-01T05:00:00")


def test_an_interval_knows_no_zones():
    rule = Rule("interval", every_s=86400, zone="Europe/Berlin", starts_at=at("2026-03-20T05:00:00"))
    assert {t.hour for t in due_times(rule, at("2026-03-20T05:00:00"), at("2026-04-10T00:00:00"))} == {0}


@pytest.mark.parametrize("every_s", [None, 0, -5, 366 * 86400 + 1])
def test_what_is_no_interval_is_refused(every_s):
    with pytest.raises(RuleError) as caught:
        check(Rule("interval", every_s=every_s))
    assert caught.value.field == "every_s"


# Words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("30 6 * * 1-5", "At 06:30, Monday through Friday (UTC)"),
        ("@daily", "At 00:00, every day (UTC)"),
        ("0 6,18 * * *", "At 06:00 and 18:00, every day (UTC)"),
        ("*/15 * * * *", "Every 15 minutes (UTC)"),
        ("0 * * * *", "Every hour (UTC)"),
        ("30 9-17 * * *", "Every hour from 09:30 through 17:30 (UTC)"),
        ("0 0 1 * *", "At 00:00, on day 1 of the month (UTC)"),
        ("0 0 1 * 1", "At 00:00, on day 1 of the month, or on Monday (UTC)"),
        ("0 0 1 * 1-5", "At 00:00, on day 1 of the month, or Monday through Friday (UTC)"),
        ("0 0 */10 * 1", "At 00:00, on day 1, 11, 21, and 31 of the month, only on Monday (UTC)"),
        ("*/25 * * * *", "At 0, 25, and 50 minutes past the hour (UTC)"),
        ("0 */10 * * *", "At 00:00, 10:00 and 20:00, every day (UTC)"),
        ("0 0 1 */3 *", "At 00:00, on day 1 of the month, every 3 months (UTC)"),
        ("0 12 * JAN,jul sun", "At 12:00, only on Sunday, only in January and July (UTC)"),
        ("1,*/30 * * * *", "At 0, 1, and 30 minutes past the hour (UTC)"),
    ],
)
def test_a_rule_in_words(text, words):
    assert in_words(cron(text)) == words


@pytest.mark.parametrize(
    ("every_s", "words"),
    [(900, "Every 15 minutes"), (3600, "Every hour"), (86400, "Every day"), (90, "Every 90 seconds"),
     (1, "Every second"), (5400, "Every 90 minutes"), (1209600, "Every 2 weeks")],
)  # fmt: skip
def test_an_interval_in_words(every_s, words):
    assert in_words(Rule("interval", every_s=every_s)) == words
