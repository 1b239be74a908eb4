"""Clocks of zones agree with Python's, whatever a government did to them."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.columns.zones import Clocks

# Half hours, a month without summer time, a day that never was, minutes and seconds of old, none at all.
ZONES = ["Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia", "America/New_York", "UTC"]
# Only whole years that both ends of a zone have.
moments = st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29)) | st.datetimes(
    dt.datetime(1970, 1, 1), dt.datetime(2060, 1, 1)
)


def around(*texts: str) -> list[dt.datetime]:
    """Every quarter of an hour, and a microsecond before it, for a day around each."""
    steps = [dt.timedelta(minutes=15 * i, microseconds=-less) for i in range(-96, 97) for less in (0, 1)]
    return [dt.datetime.fromisoformat(text) + step for text in texts for step in steps]


CHANGES = around(
    "2024-03-31T01:00", "2024-10-27T01:00", "2011-12-30", "1893-03-31T23:06:32", "2050-04-03", "2031-02-01"
)


@pytest.mark.parametrize("zone", ZONES)
def test_clocks_show_what_pythons_do(zone: str) -> None:
    @settings(deadline=None, max_examples=50, derandomize=True)
    @given(st.lists(moments, max_size=20))
    @example(CHANGES)
    def check(values: list[dt.datetime]) -> None:
        shown = Clocks(zone).local(pa.array(values, pa.timestamp("us", "UTC")))
        assert shown.to_pylist() == [
            value.replace(tzinfo=dt.UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) for value in values
        ]

    check()


def meant(moment: dt.datetime, zone: str) -> dt.datetime | None:
    """What is meant by a time on the clocks, if that is one thing."""
    first, second = (moment.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(dt.UTC) for fold in (0, 1))
    is_shown = first.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == moment
    return first if first == second and is_shown else None


@pytest.mark.parametrize("zone", ZONES)
def test_times_on_clocks_mean_what_they_mean_to_python_or_are_refused(zone: str) -> None:
    @settings(deadline=None, max_examples=50, derandomize=True)
    @given(st.lists(moments, max_size=20))
    @example(CHANGES)
    def check(values: list[dt.datetime]) -> None:
        clocks = Clocks(zone)
        expected = {value: meant(value, zone) for value in values}
        clear = [value for value in values if expected[value] is not None]
        found: list[Any] = clocks.utc(pa.array([None, *clear], pa.timestamp("us"))).to_pylist()
        assert found == [None, *(expected[value] for value in clear)]
        for value in set(values) - set(clear):
            with pytest.raises(pa.ArrowInvalid, match=zone):
                clocks.utc(pa.array([value], pa.timestamp("us")))

    check()


def test_what_no_calendar_has_is_refused() -> None:
    last = pa.array([dt.datetime(9999, 12, 31, 23, 30)], pa.timestamp("us", "UTC"))
    with pytest.raises(pa.ArrowInvalid, match="has no date in Europe/Berlin"):
        Clocks("Europe/Berlin").local(last)
    first = pa.array([dt.datetime(1, 1, 1)], pa.timestamp("us", "UTC"))
    with pytest.raises(pa.ArrowInvalid, match="has no date"):
        Clocks("America/New_York").local(first)
    assert Clocks("UTC").local(last).to_pylist() == [dt.datetime(9999, 12, 31, 23, 30)]
