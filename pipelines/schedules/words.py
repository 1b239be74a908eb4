"""A rule in words."""

from __future__ import annotations

from collections.abc import Sequence

from cron_descriptor import DescriptionTypeEnum, ExpressionDescriptor, Options

from pipelines.schedules.cron import SPANS, Cron, parse
from pipelines.schedules.errors import RuleError
from pipelines.schedules.rules import Rule, remembered


@remembered
def in_words(rule: Rule) -> str:
    """The rule for people, as in "At 06:30, Monday through Friday (Europe/Berlin)" or "Every 15 minutes"."""
    if rule.kind == "interval":
        return _interval_in_words(rule.every_s or 0)
    return f"{_cron_in_words(parse(rule.cron))} ({rule.zone})"


def _interval_in_words(every_s: int) -> str:
    if every_s < 1:
        raise RuleError("every_s", "An interval is at least one second.")
    return f"Every {span_in_words(every_s).removeprefix('1 ')}"


def span_in_words(seconds: int) -> str:
    """As in "90 seconds" or "2 weeks": in the largest unit that it is whole in."""
    units = ((604800, "week"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
    length, name = next((unit for unit in units if seconds >= unit[0] and seconds % unit[0] == 0), units[-1])
    count = seconds // length
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _evenly(index: int, field: str, numbers: Sequence[int]) -> str:
    """The field, its numbers written out where a step does not come round evenly: */7 is not every seven minutes."""
    even = index in (0, 1, 3) and field.startswith("*/") and len(SPANS[index]) % int(field[2:]) == 0
    return field if even or not field.startswith("*/") else ",".join(map(str, numbers))


def _cron_in_words(cron: Cron) -> str:
    numbers = (cron.minutes, cron.hours, sorted(cron.days), sorted(cron.months), sorted(cron.weekdays))
    fields = [_evenly(index, field, numbers[index]) for index, field in enumerate(cron.canonical)]
    minute, hour, day, month, weekday = fields
    several_hours = minute.isdigit() and "-" in hour
    if several_hours:
        hour = ",".join(map(str, cron.hours))
    options = Options()
    options.locale_code = "en_US"
    options.use_24hour_time_format = True
    options.throw_exception_on_parse_error = True
    describe = ExpressionDescriptor(f"{minute} {hour} {day} {month} {weekday}", options).get_description
    time = describe(DescriptionTypeEnum.TIMEOFDAY).removesuffix(", every hour")
    if several_hours and cron.hours[-1] - cron.hours[0] == len(cron.hours) - 1:
        time = f"every hour from {cron.hours[0]:02}:{minute:0>2} through {cron.hours[-1]:02}:{minute:0>2}"
    days = describe(DescriptionTypeEnum.DAYOFMONTH) if day != "*" else ""
    weekdays = describe(DescriptionTypeEnum.DAYOFWEEK)
    if cron.either_day:
        weekdays = ", or" + weekdays.removeprefix(",").replace(" only on ", " on ", 1)
    months = describe(DescriptionTypeEnum.MONTH)
    if not (days or weekdays or months) and time.lower().startswith("at ") and hour != "*":
        days = ", every day"
    text = f"{time}{days}{weekdays}{months}"
    return text[:1].upper() + text[1:]
