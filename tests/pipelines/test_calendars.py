"""What the lines of a calendar close."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipelines import calendars
from pipelines.models import Calendar
from pipelines.objections import PipelineRefused
from pipelines.schedules import Closures, RuleError, tidy_lines
from tests.runs.clockwork import cron


def closed(line: str, zone: str = "UTC", *, day: str, until: str) -> list[str]:
    """The closed spans of some days, walked minute by minute on the clock of the zone."""
    closures = Closures.of(zone, [line])
    moment = datetime.fromisoformat(day).replace(tzinfo=closures.zone).astimezone(UTC)
    end = datetime.fromisoformat(until).replace(tzinfo=closures.zone).astimezone(UTC)
    spans, since = [], None
    while moment <= end:
        is_closed = closures.at(moment) is not None
        local = moment.astimezone(closures.zone)
        if is_closed and since is None:
            since = f"{local:%d %H:%M}"
        elif not is_closed and since is not None:
            spans.append(f"{since} to {local:%d %H:%M}")
            since = None
        moment += timedelta(minutes=1)
    return [*spans, f"{since} on"] if since else spans


@pytest.mark.parametrize(
    ("line", "spans"),
    [
        ("2026-12-24", ["24 00:00 to 25 00:00"]),
        ("2026-12-24 Christmas Eve", ["24 00:00 to 25 00:00"]),
        ("2026-12-24 to 2026-12-26 Christmas", ["24 00:00 to 27 00:00"]),
        ("2026-12-24 18:00 to 2026-12-26 06:00 Moving house", ["24 18:00 to 26 06:00"]),
        ("2026-12-24 to 2026-12-26 06:00", ["24 00:00 to 26 06:00"]),
        ("every 12-25", ["25 00:00 to 26 00:00"]),
        ("every Sun", ["27 00:00 to 28 00:00"]),
        ("every sat-sun", ["26 00:00 to 28 00:00"]),
        ("every Friday,Sun 02:00-04:00 Maintenance", ["25 02:00 to 25 04:00", "27 02:00 to 27 04:00"]),
        ("every Fri 22:00-04:00", ["25 22:00 to 26 04:00"]),
        ("every Sun-Mon 12:00-24:00", ["27 12:00 to 28 00:00"]),
        ("every day 23:00-00:30", [f"{d} 23:00 to {d + 1} 00:30" for d in range(23, 28)]),
        ("2025-12-24", []),
    ],
)
def test_what_a_line_closes(line: str, spans: list[str]) -> None:
    assert closed(line, "Asia/Kolkata", day="2026-12-23T12:00", until="2026-12-28T02:00") == spans


def test_the_days_are_those_of_the_calendars_zone_also_where_clocks_change() -> None:
    spans = closed("every Sun 01:00-04:00", "Europe/Berlin", day="2026-03-28T12:00", until="2026-03-29T12:00")
    assert spans == ["29 01:00 to 29 04:00"]
    closures = Closures.of("Australia/Adelaide", ["2026-04-05"])
    assert closures.at(datetime(2026, 4, 4, 13, 30, tzinfo=UTC)) is not None
    assert closures.at(datetime(2026, 4, 5, 14, 29, tzinfo=UTC)) is not None, "a day of 25 hours"
    assert closures.at(datetime(2026, 4, 5, 14, 30, tzinfo=UTC)) is None


def test_the_line_that_closes_is_told() -> None:
    found = Closures.of("UTC", ["every Sun", "2026-12-25 Christmas Day"]).at(datetime(2026, 12, 25, 6, tzinfo=UTC))
    assert found is not None
    assert found.note == "Christmas Day"


@pytest.mark.parametrize(
    "line",
    [
        "Christmas", "2026-02-30", "2026-12-26 to 2026-12-24", "2026-12-24 18:00", "2026-12-24 18:00 to 2026-12-25",
        "2026-12-24 to 2026-12-6 Christmas", "2026-12-24, 2026-12-25", "2026-12-24 9:00 to 2026-12-24 10:00",
        "every", "every 13-01", "every 02-30", "every Someday", "every Sun 25:00-26:00", "every Sun 2:00-4:00",
        "every Mon Tue", "every Mon and Tue", "every Mon Tuesday 02:00-04:00", "24.12.2026", "x" * 300,
    ],
)  # fmt: skip
def test_what_is_no_line_is_refused_in_words(line: str) -> None:
    with pytest.raises(RuleError) as caught:
        tidy_lines("UTC", ["2026-12-31", line])
    assert caught.value.field == "closed"
    assert line[:20] in caught.value.message
    assert caught.value.hint


def test_lines_are_kept_tidy_and_bounded() -> None:
    assert tidy_lines("UTC", ["  2026-12-24   Eve ", "", " "]) == ["2026-12-24 Eve"]
    with pytest.raises(RuleError, match="at most"):
        tidy_lines("UTC", ["2026-12-24"] * 1001)
    with pytest.raises(RuleError, match="time zone"):
        tidy_lines("Mars/Olympus", [])


@pytest.mark.django_db
def test_a_calendar_that_schedules_go_by_stays(make_pipeline, operator) -> None:
    calendar = calendars.save_calendar(Calendar(name="Holidays", closed=["2026-12-25"]), by=operator)
    pipeline = make_pipeline(schedules=[cron("@daily", calendar="Holidays")])
    with pytest.raises(PipelineRefused, match="Orders") as caught:
        calendars.delete_calendar(calendar)
    assert caught.value.code == "calendar_in_use"
    make_pipeline("Other", schedules=[])
    pipeline.schedules.update(ends_at="2026-01-01T00:00Z")
    calendars.delete_calendar(calendar)
    assert not Calendar.objects.exists()


@pytest.mark.django_db
def test_the_name_of_a_calendar_is_its_own(operator) -> None:
    calendars.save_calendar(Calendar(name="Holidays"), by=operator)
    with pytest.raises(PipelineRefused) as caught:
        calendars.save_calendar(Calendar(name="Holidays"), by=operator)
    assert (caught.value.code, caught.value.field) == ("name_taken", "name")


@pytest.mark.django_db
def test_a_schedule_by_a_calendar_that_is_not_there_is_refused(make_pipeline) -> None:
    with pytest.raises(RuleError) as caught:
        make_pipeline(schedules=[cron("@daily", calendar="Holidays")])
    assert caught.value.field == "calendar"


@pytest.mark.parametrize("day", ["2026-03-02", "2026-03-29", "2026-10-25", "2026-12-24"])
@pytest.mark.parametrize(
    "lines",
    [
        ["every day 02:10-02:50"], ["every Sun 22:00-02:20", "every Mon 00:30-00:40"], ["every 12-25"],
        ["2026-12-24 18:00 to 2026-12-27 06:00", "2026-03-29", "0001-01-01 to 0001-01-02"], [],
    ],
)  # fmt: skip
def test_the_next_closed_time_is_the_one_that_a_walk_comes_to(lines: list[str], day: str) -> None:
    closures = Closures.of("Europe/Berlin", lines)
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(hours=3)
    minutes = [begin + timedelta(minutes=n) for n in range(26 * 60)]
    closed = [closures.at(minute) is not None for minute in minutes]
    for start in range(0, len(minutes), 37):
        if closed[start]:
            continue
        within = range(start + 1, min(start + 361, len(minutes)))
        walked = next((minutes[n] for n in within if closed[n]), None)
        assert closures.next(minutes[start], minutes[within[-1]]) == walked


@pytest.mark.parametrize("line", ["2026-01-01 to 9999-12-31", "9999-12-31", "1899-12-31", "2026-01-01 to 2200-01-02"])
def test_a_line_far_outside_is_refused(line):
    with pytest.raises(RuleError) as caught:
        tidy_lines("America/New_York", [line])
    assert caught.value.field == "closed"
