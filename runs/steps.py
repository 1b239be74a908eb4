"""How a range is cut: into days, months, hours of a zone's clocks, or units of a whole number."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from zoneinfo import ZoneInfo

from connectors import cursor
from connectors.errors import ConnectorError

MAX_SLICES = 1000
_STEP = re.compile(r"(?:(\d{1,6})\s*)?(minute|hour|day|week|month|year)s?", re.IGNORECASE)
_LENGTHS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1)}
_MONTHS = {"month": 1, "year": 12}
_DAYS = {"day": 1, "week": 7}


@dataclass(frozen=True)
class Step:
    """`count` times `unit`; without a unit, units of a whole number."""

    count: int
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.count} {self.unit}{'' if self.count == 1 else 's'}" if self.unit else str(self.count)


def read(text: str, type_: str) -> Step:
    """The step that `text` names for a cursor of this type; raises ConnectorError, code backfill_step."""
    text = text.strip()
    if type_ == "INT64":
        if text.isascii() and text.isdigit() and 0 < int(text) < 2**63:
            return Step(int(text))
        raise _wrong(text, "Give a whole number of units, such as 100000.")
    match = _STEP.fullmatch(text)
    step = Step(int(match[1] or 1), match[2].lower()) if match else Step(0)
    if not step.count:
        raise _wrong(text, "Write it like 1 day, 6 hours, 1 week, 1 month.")
    if type_ == "DATE" and step.unit in _LENGTHS:
        raise _wrong(text, "A date has no hours: a day is the smallest step.")
    return step


def cut(low: str, high: str, step: Step, type_: str, zone: str) -> list[tuple[str, str]]:
    """The slices of [low, high), as texts of the type; the last may be shorter.

    Raises ConnectorError: backfill_range, backfill_too_many, cursor_value.
    """
    first, end = cursor.number_of(low, type_, field="low"), cursor.number_of(high, type_, field="high")
    if first >= end:
        raise ConnectorError(
            f"From {low} to {high} there is nothing.",
            hint="The end comes after the start, and is not part of the range.",
            code="backfill_range",
            field="high",
        )
    bounds = [first]
    for bound in _bounds(first, step, type_, zone):
        bounds.append(min(bound, end))
        if bound >= end:
            break
        if len(bounds) > MAX_SLICES:
            raise ConnectorError(
                f"These are more than {MAX_SLICES:,} slices of {step}.",
                hint="Choose a longer step, or a shorter range.",
                code="backfill_too_many",
                field="step",
            )
    return [(cursor.text_of(a, type_), cursor.text_of(b, type_)) for a, b in pairwise(bounds)]


def _bounds(first: int, step: Step, type_: str, zone: str) -> Iterator[int]:
    """Where slices end, from the first on; each is reckoned from the start, so that months do not shrink."""
    if type_ == "INT64":
        yield from count(first + step.count, step.count)
    elif type_ == "DATE":
        start = datetime.fromisoformat(cursor.text_of(first, type_))
        yield from (cursor.number_of(_later(start, step, n).date().isoformat(), type_) for n in count(1))
    else:
        yield from _moments(first, step, type_, zone)


def _moments(first: int, step: Step, type_: str, zone: str) -> Iterator[int]:
    start = datetime.fromisoformat(cursor.text_of(first, type_))
    number: Callable[[datetime], int] = lambda moment: cursor.number_of(moment.isoformat(sep=" "), type_)  # noqa: E731
    if step.unit in _LENGTHS:
        yield from (number(start + n * step.count * _LENGTHS[step.unit]) for n in count(1))
    elif type_ == "DATETIME":
        yield from (number(_later(start, step, n)) for n in count(1))
    else:
        # Days and months are those of the zone's clocks: 23 or 25 hours where these change.
        clocks = ZoneInfo(zone)
        wall = start.astimezone(clocks).replace(tzinfo=None)
        for n in count(1):
            yield number(_later(wall, step, n).replace(tzinfo=clocks).astimezone(UTC))


def _later(start: datetime, step: Step, times: int) -> datetime:
    try:
        if step.unit in _DAYS:
            return start + timedelta(days=times * step.count * _DAYS[step.unit])
        months = start.year * 12 + start.month - 1 + times * step.count * _MONTHS[step.unit]
        year, month = divmod(months, 12)
        day = min(start.day, monthrange(year, month + 1)[1])
        return start.replace(year=year, month=month + 1, day=day)
    except (OverflowError, ValueError) as error:
        raise ConnectorError("The range leaves the calendar.", code="backfill_range", field="high") from error


def _wrong(text: str, hint: str) -> ConnectorError:
    return ConnectorError(f"{text[:40]!r} is no step.", hint=hint, code="backfill_step", field="step")
