"""Cron text: what is read from it, and its one form in numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from croniter import croniter

from pipelines.schedules.errors import RuleError

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MAX_CRON_LENGTH = 200

_LONGEST_MONTH = dict(zip(range(1, 13), (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))
_TOKEN = re.compile(r"(\*|\d{1,2}(-\d{1,2})?)(/\d{1,2})?", re.ASCII)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES = {3: {name: n for n, name in enumerate(_MONTHS, 1)}, 4: {name: n for n, name in enumerate(_WEEKDAYS)}}
_FIELDS = (
    ("minute", "Minutes go from 0 to 59"),
    ("hour", "Hours go from 0 to 23"),
    ("day of month", "Days of the month go from 1 to 31"),
    ("month", "Months go from 1 to 12, or JAN to DEC"),
    ("day of week", "Days of the week go from 0 (Sunday) to 7 (Sunday again), or SUN to SAT"),
)
SPANS = (range(60), range(24), range(1, 32), range(1, 13), range(7))


@dataclass(frozen=True)
class Cron:
    """A cron text, read: `canonical` is its five fields in numbers, `hourly` the hours reached by `*` or a range."""

    canonical: tuple[str, str, str, str, str]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    hourly: frozenset[int]
    either_day: bool

    def has(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return in_month or in_week if self.either_day else in_month and in_week


@lru_cache(maxsize=2048)
def parse(text: str) -> Cron:
    """Read five-field cron or one of ALIASES; raises RuleError with the field at fault."""
    if len(text) > MAX_CRON_LENGTH:
        raise RuleError("cron", f"The cron text is longer than {MAX_CRON_LENGTH} characters.")
    words = ALIASES.get(text.strip().lower(), text).lower().split()
    if len(words) != 5:
        raise RuleError(
            "cron",
            f'"{text}" has {len(words)} {"field" if len(words) == 1 else "fields"}, cron text has five.'
            if words
            else "The cron text is empty.",
            "Give minute, hour, day of month, month and day of week, for example 30 6 * * 1-5.",
        )
    fields = [_numbers_for_names(index, word) for index, word in enumerate(words)]
    sets = [_expand(index, field) for index, field in enumerate(fields)]
    stars = [field.startswith("*") for field in fields]
    cron = Cron(
        canonical=tuple(_canonical(index, field, sets[index]) for index, field in enumerate(fields)),  # type: ignore[arg-type]
        minutes=tuple(sorted(sets[0])),
        hours=tuple(sorted(sets[1])),
        days=sets[2],
        months=sets[3],
        weekdays=sets[4],
        hourly=frozenset().union(*(_expand(1, p) for p in fields[1].split(",") if not p.isdigit())),
        either_day=not stars[2] and not stars[4],
    )
    if not cron.either_day and not any(day <= _LONGEST_MONTH[month] for day in cron.days for month in cron.months):
        raise RuleError("cron", f'"{text}" never comes: no such month has that day.', "Choose a day that exists.")
    return cron


def crontab_fields(text: str) -> dict[str, str]:
    """The columns of a django-celery-beat CrontabSchedule for a cron text."""
    names = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    return dict(zip(names, parse(text).canonical, strict=True))


def _numbers_for_names(index: int, word: str) -> str:
    names = _NAMES.get(index, {})
    word = re.sub("[a-z]+", lambda found: str(names.get(found[0], found[0])), word)
    if not all(_TOKEN.fullmatch(part) for part in word.split(",")):
        raise _misread(index, word)
    return word


def _expand(index: int, field: str) -> frozenset[int]:
    """The numbers one field names, by croniter."""
    alone = ["*"] * 5
    alone[index] = field
    try:
        numbers = croniter.expand(" ".join(alone))[0][index]
    except ValueError as error:
        raise _misread(index, field) from error
    return frozenset(SPANS[index] if numbers == ["*"] else (int(number) for number in numbers))


def _misread(index: int, word: str) -> RuleError:
    name, span = _FIELDS[index]
    return RuleError(
        "cron",
        f'The {name} "{word}" cannot be read.',
        f"{span}; write * for every one, 1-5 for a range, 1,15 for a list and */2 for steps.",
    )


def _canonical(index: int, field: str, numbers: frozenset[int]) -> str:
    """The same field as `*`, `*/n` or numbers and ranges: what every reader of cron understands alike."""
    span = SPANS[index]
    if len(numbers) == len(span):
        # All days written out (1-31) are not the same as *: see either_day.
        return "*" if field.startswith("*") or index not in (2, 4) else f"{span[0]}-{span[-1]}"
    if re.fullmatch(r"\*/\d+", field) and len(numbers) > 1:
        return field
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)
