"""What is usual: the middle of the last loads, and how far loads lie from it as a rule.

Median and median absolute deviation: one load out of line, or ten, do not change what is usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from runs.words import count, span

LOADS = 30
LEAST_LOADS = 10
# Of values that are spread as by chance, it makes the median deviation a standard deviation.
_TO_SIGMA = 1.4826
# Loads that are all alike would make every other one unusual: no distance below these counts.
LEAST_SHARE = 0.05
LEAST_SECONDS = 2.0
LEAST_ROWS = 10.0


@dataclass(frozen=True)
class Usual:
    """The middle of `loads` values, and the usual distance from it."""

    middle: float
    distance: float
    loads: int

    def times_off(self, value: float) -> float:
        """How many times the usual distance a value lies from the middle; negative below it."""
        return (value - self.middle) / self.distance


def usual(values: Sequence[float], least: float) -> Usual | None:
    """What is usual by these values; None while they are too few to say."""
    if len(values) < LEAST_LOADS:
        return None
    middle = median(values)
    spread = _TO_SIGMA * median(abs(value - middle) for value in values)
    return Usual(middle, max(spread, LEAST_SHARE * abs(middle), least), len(values))


def too_long(seconds: float, past: Sequence[float], limit: int) -> str:
    """In words why a duration is unusual; empty if it is not, or if nobody can say. Quick loads are never unusual."""
    found = usual(past, LEAST_SECONDS)
    if found is None or found.times_off(seconds) <= limit:
        return ""
    return f"It took {span(seconds)}. " + _in_words(found, span(found.middle), span(found.distance), seconds, limit)


def odd_rows(rows: int, past: Sequence[float], limit: int) -> str:
    """In words why a number of rows is unusual; empty if it is not, or if nobody can say."""
    found = usual(past, LEAST_ROWS)
    if found is None or abs(found.times_off(rows)) <= limit:
        return ""
    told = _in_words(found, count(found.middle), count(found.distance), rows, limit)
    return f"It moved {count(rows)} row{'' if rows == 1 else 's'}. {told}"


def _in_words(found: Usual, middle: str, distance: str, value: float, limit: int) -> str:
    return (
        f"The last {found.loads} loads were around {middle}, as a rule no further than {distance} from it. "
        f"This is {abs(found.times_off(value)):.0f} times that distance away; the rule tells from {limit} times on."
    )
