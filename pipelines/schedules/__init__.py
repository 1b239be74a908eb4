"""Rules → due times: the only package that reads cron, zones and calendars.

A cron rule is reckoned on the wall clock of its zone and then mapped to UTC:

- A wall time that the clocks skip runs once, at the next instant that exists; ticks that meet there are one.
- A wall time that the clocks repeat runs twice if its hour comes from `*` or a range of the hour field, with or
  without a step (`*`, `*/2`, `8-18`): such a rule counts hours. It runs once, the first time, if the field names
  the hour (`2`, `1,2,3`): such a rule means a time of day.
- Day of month and day of week combine as crontab(5) says: a time must match both if either field begins with `*`,
  and one of them suffices if both are restricted.

An interval ticks at midnight UTC of the day it started, or at the start of its window, plus whole multiples of its
length. Ticks lie in the rule's window, both ends included. What a calendar closes still ticks, and is skipped.
"""

from __future__ import annotations

from pipelines.schedules.calendars import MAX_LINE_LENGTH, MAX_LINES, Closure, Closures, tidy_lines
from pipelines.schedules.clocks import EARLIEST, OUTSIDE, instant_of, is_outside, zone_of
from pipelines.schedules.cron import MAX_CRON_LENGTH, crontab_fields, parse
from pipelines.schedules.errors import RuleError
from pipelines.schedules.jitter import MAX_JITTER_S, start_of
from pipelines.schedules.preview import TIMES, Upcoming, next_clock_change, upcoming
from pipelines.schedules.rules import MAX_EVERY_S, Rule, check
from pipelines.schedules.ticks import covered_by, due_times, next_time, next_times, previous_time
from pipelines.schedules.words import in_words, span_in_words

__all__ = [
    "EARLIEST",
    "MAX_CRON_LENGTH",
    "MAX_EVERY_S",
    "MAX_JITTER_S",
    "MAX_LINES",
    "MAX_LINE_LENGTH",
    "OUTSIDE",
    "TIMES",
    "Closure",
    "Closures",
    "Rule",
    "RuleError",
    "Upcoming",
    "check",
    "covered_by",
    "crontab_fields",
    "due_times",
    "in_words",
    "instant_of",
    "is_outside",
    "next_clock_change",
    "next_time",
    "next_times",
    "parse",
    "previous_time",
    "span_in_words",
    "start_of",
    "tidy_lines",
    "upcoming",
    "zone_of",
]
