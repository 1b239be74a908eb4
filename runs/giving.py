"""What somebody gives a run to go by: checked before anything is queued, each problem with the field it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils import timezone

from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition
from connectors.parameters import BUILT_IN, INTERVAL, given_to, names_it
from connectors.postgres.names import check_identifier
from pipelines import deletions, given, schedules
from pipelines.models import Pipeline
from runs import intervals
from runs.intervals import Interval
from runs.models import MOVE_NOTHING, Run, Trigger

START, END = INTERVAL


@dataclass(frozen=True)
class Given:
    """Values and data interval of a run; `errors` by field: data_interval_start, data_interval_end, parameters.NAME."""

    values: dict[str, Any] = field(default_factory=dict)
    interval: Interval | None = None
    errors: dict[str, ConnectorError] = field(default_factory=dict)


def check(
    pipeline: Pipeline, action: str, values: Mapping[str, Any], start: datetime | None, end: datetime | None
) -> Given:
    """What a run of `action` would go by, and what is wrong with it."""
    if action in MOVE_NOTHING:
        return _of_no_use(action, values, start, end)
    found, wrong = given_to(given.declared_by(pipeline), values)
    errors = {f"parameters.{name}": error for name, error in wrong.items()}
    interval: Interval | None = None
    if start is not None or end is not None:
        interval = (start, end)
        errors |= _wrong_interval(start, end)
    elif given.uses_interval(pipeline):
        interval = intervals.of_the_last_tick(pipeline)
        if interval is None:
            message = f"{pipeline.name} reads a data interval, and no schedule says which."
            errors[START] = ConnectorError(message, hint="Give both ends of one.", code="interval_needed")
    if not errors:
        errors = _of_the_watermark(pipeline, found, start, end) or _of_deletions(pipeline, found)
        errors = errors or _wrong_name(pipeline, found, interval)
    return Given(found, interval, errors)


def other_values(pipeline: Pipeline, values: Mapping[str, Any]) -> list[str]:
    """The parameters that make the query give other rows than a scheduled run's."""
    declares = given.declared_by(pipeline)
    return [
        name
        for name, value in values.items()
        if value != declares[name].default and names_it(pipeline.source_query, name)
    ]


def _of_the_watermark(
    pipeline: Pipeline, values: Mapping[str, Any], start: datetime | None, end: datetime | None
) -> dict[str, ConnectorError]:
    """What would have a run read some rows beyond the watermark, and move it past the others."""
    if not pipeline.incremental:
        return {}
    fields = [f"parameters.{name}" for name in other_values(pipeline, values)]
    if start and end and given.query_uses_interval(pipeline) and not _is_of_a_schedule(pipeline, start, end):
        fields += INTERVAL
    if not fields:
        return {}
    does = "appends" if pipeline.write_disposition == WriteDisposition.APPEND else "merges"
    other = "Make a pipeline of its own for these rows."
    error = ConnectorError(
        f"{pipeline.name} {does} only new rows: with this, its watermark would move past rows that no run has read.",
        hint=other if does == "appends" else f"Fill in a range with a backfill, which leaves it alone. Or: {other}",
        code="watermark_values",
    )
    return dict.fromkeys(fields, error)


def _of_deletions(pipeline: Pipeline, values: Mapping[str, Any]) -> dict[str, ConnectorError]:
    """What would bring rows that the next run, with the defaults, takes for gone."""
    if not deletions.are_made(pipeline):
        return {}
    error = ConnectorError(
        f"{pipeline.name} takes rows that a run does not read for gone: the next run would find none of these.",
        hint="Make a pipeline of its own for these rows, or let this one keep rows that vanish.",
        code="deletes_values",
    )
    return {f"parameters.{name}": error for name in other_values(pipeline, values)}


def _is_of_a_schedule(pipeline: Pipeline, start: datetime, end: datetime) -> bool:
    """Whether a scheduled run has, or had, this interval."""
    if intervals.of_the_last_tick(pipeline) == (start, end):
        return True
    own = Run.objects.filter(pipeline=pipeline, trigger__in=[Trigger.SCHEDULE, Trigger.UPSTREAM])
    return own.filter(data_interval_start=start, data_interval_end=end).exists()


def _of_no_use(action: str, values: Mapping[str, Any], start: datetime | None, end: datetime | None) -> Given:
    error = ConnectorError(
        f"{action} moves no rows: it goes by no values.", hint="Leave it out.", code="values_of_no_use"
    )
    told = [
        *(name for name, moment in ((START, start), (END, end)) if moment),
        *(f"parameters.{name}" for name in values),
    ]
    return Given(errors=dict.fromkeys(told, error))


def _wrong_interval(start: datetime | None, end: datetime | None) -> dict[str, ConnectorError]:
    if start is None or end is None:
        missing = START if start is None else END
        return {missing: ConnectorError("A data interval has two ends.", hint="Give both.", code="interval_needed")}
    outside = [name for name, moment in ((START, start), (END, end)) if schedules.is_outside(moment)]
    if outside:
        message = "A data interval lies between the years 1900 and 2200."
        error = ConnectorError(message, hint="Give the earliest and the latest that there is.", code="interval_outside")
        return dict.fromkeys(outside, error)
    if start >= end:
        message = "A data interval ends after it starts."
        return {END: ConnectorError(message, hint="Rows at its end belong to the next one.", code="interval_empty")}
    return {}


def _wrong_name(pipeline: Pipeline, values: Mapping[str, Any], interval: Interval | None) -> dict[str, ConnectorError]:
    """What keeps these values from making the name of a target."""
    start, end = interval or (None, None)
    parameters = given.resolved_of(pipeline, values, given.built_in(start, end, timezone.now(), ""))
    try:
        target = given.target_of(pipeline, parameters)
        check_identifier(target.schema, field="target_schema")
        check_identifier(target.table, field="target_table")
    except ConnectorError as error:
        if error.field.startswith("target_"):
            return {_blamed(values): error}
        return {error.field if error.field in BUILT_IN else f"parameters.{error.field}": error}
    return {}


def _blamed(values: Mapping[str, Any]) -> str:
    """The value that makes a name too long: the longest text that was given, else the table's template."""
    texts = sorted((name for name in values if isinstance(values[name], str)), key=lambda name: len(values[name]))
    return f"parameters.{texts[-1]}" if texts else "parameters"
