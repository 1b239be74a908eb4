"""From the clocks of a zone to UTC and back, in numpy.

Arrow's own conversion knows no daylight saving time after 2037, and asks the system for a zone database.
Python's zones know both, one moment at a time: so they are asked about each day that occurs, once.
"""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from connectors.columns.buffers import Mask, Numbers, is_valid

_SECOND, _DAY = 1_000_000, 86_400_000_000
_EPOCH = dt.datetime(1970, 1, 1)
# The days that Python knows, but for those at whose ends a zone's clocks would leave them.
_FIRST, _LAST = (dt.date(1, 1, 2) - _EPOCH.date()).days, (dt.date(9999, 12, 30) - _EPOCH.date()).days
# What a DATETIME of BigQuery can be.
_EARLIEST, _LATEST = -62_135_596_800 * _SECOND, 253_402_300_800 * _SECOND - 1


class Clocks:
    """The clocks of one zone; a day with more than one change of them is not foreseen."""

    def __init__(self, zone: str) -> None:
        self._name = zone
        self._zone = ZoneInfo(zone)
        # By day of UTC: the offset at its beginning, the moment it changes, the offset after that.
        self._days: dict[int, tuple[int, int, int]] = {}

    def local(self, array: pa.Array) -> pa.Array:
        """What the clocks show at timestamp[us, UTC], as timestamp[us]; ArrowInvalid outside of years 1 to 9999."""
        moments, valid = _micros(array), is_valid(array)
        shown = moments + self._offsets(moments)
        _refuse(moments, valid & ((shown < _EARLIEST) | (shown > _LATEST)), f"has no date in {self._name}")
        return _timestamps(shown, valid, None)

    def utc(self, array: pa.Array) -> pa.Array:
        """When the clocks show timestamp[us], as timestamp[us, UTC]; ArrowInvalid if they never do, or twice."""
        shown, valid = _micros(array), is_valid(array)
        before, after = self._offsets(shown - _DAY), self._offsets(shown + _DAY)
        is_before, is_after = (self._offsets(shown - offset) == offset for offset in (before, after))
        _refuse(shown, valid & ~is_before & ~is_after, f"is skipped by the clocks of {self._name}")
        _refuse(shown, valid & is_before & is_after & (before != after), f"is shown twice by those of {self._name}")
        return _timestamps(shown - np.where(is_before, before, after), valid, "UTC")

    def _offsets(self, moments: Numbers) -> Numbers:
        """The offset of the zone at each moment of UTC; all in microseconds."""
        days, places = np.unique(moments // _DAY, return_inverse=True)
        known = [self._days.get(day) or self._look_at(day) for day in days.tolist()]
        first, change, last = np.array(known, np.int64).reshape(-1, 3).T
        offsets: Numbers = np.where(moments < change[places], first[places], last[places])
        return offsets

    def _look_at(self, day: int) -> tuple[int, int, int]:
        low, high = (86_400 * min(max(one, _FIRST), _LAST) for one in (day, day + 1))
        first, last = self._offset(low), self._offset(high)
        while first != last and high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle) == first:
                low = middle
            else:
                high = middle
        found = self._days[day] = first * _SECOND, high * _SECOND, last * _SECOND
        return found

    def _offset(self, second: int) -> int:
        moment = _EPOCH + dt.timedelta(seconds=second)
        local = self._zone.fromutc(moment.replace(tzinfo=self._zone)).replace(tzinfo=None)
        return round((local - moment).total_seconds())


def _micros(array: pa.Array) -> Numbers:
    micros: Numbers = array.cast(pa.int64()).fill_null(0).to_numpy()
    return micros


def _timestamps(micros: Numbers, valid: Mask, zone: str | None) -> pa.Array:
    return pa.array(micros, pa.int64(), mask=~valid).cast(pa.timestamp("us", zone))


def _refuse(micros: Numbers, is_wrong: Mask, why: str) -> None:
    wrong = micros[is_wrong]
    if len(wrong):
        raise pa.ArrowInvalid(f"{_EPOCH + dt.timedelta(microseconds=int(wrong[0]))} {why}")
