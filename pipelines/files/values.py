"""Rows as plain values, by the names that a file has for them: all fields, defaults too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from connectors import parameters
from pipelines import checks, schedules, tidy
from pipelines.dependencies import DependencySpec
from pipelines.files import fields
from pipelines.files.fields import Field
from pipelines.models import Calendar, Connection, Dependency, Pipeline, Pool
from pipelines.specs import WINDOW, ScheduleSpec

Values = dict[str, Any]

_NAMES = frozenset({"source_table", "cursor_column", "partition_column"})
_LISTS = frozenset({"merge_key", "primary_key"})


def canonical(name: str, value: Any) -> Any:
    """A value as the form would store it, with plain line ends: those of a browser make no difference."""
    if name in _LISTS:
        return [tidy.name(each) for each in value]
    if name == "dependencies":
        return sorted(value, key=lambda each: str(each.get("pipeline", "")))
    if name == "checks":
        return [checks.from_values(each).to_json() for each in value]
    if name == "closed":
        return [" ".join(line.split()) for line in value if line.strip()]
    if name == "indexes":
        return [_index(index) for index in value]
    if name == "parameters":
        return dict(sorted(parameters.canonical(value).items()))
    if name == "column_rules":
        return dict(sorted(value.items()))
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    if name == "source_query":
        return tidy.query(text)
    if name == "row_filter":
        return tidy.condition(text)
    if name == "name_prefix":
        return text  # a blank at its end is meant
    return tidy.name(text) if name in _NAMES else text.strip()


def _index(index: Mapping[str, Any]) -> Values:
    columns = [tidy.name(name) for name in index["columns"]]
    return {"columns": columns, **({"unique": True} if index.get("unique") else {})}


def filled(of: Iterable[Field], given: Mapping[str, Any]) -> Values:
    """What is given, in its canonical form, and the default of what is not."""
    return {field.name: canonical(field.name, given.get(field.name, field.default)) for field in of}


def spared(of: Iterable[Field], values: Mapping[str, Any]) -> Values:
    """Only what is not as it would be if nothing were said."""
    return {field.name: values[field.name] for field in of if field.required or values[field.name] != field.default}


def of_pool(pool: Pool) -> Values:
    return filled(fields.POOL, {field.name: getattr(pool, field.name) for field in fields.POOL})


def of_calendar(calendar: Calendar) -> Values:
    return filled(fields.CALENDAR, {field.name: getattr(calendar, field.name) for field in fields.CALENDAR})


def of_connection(connection: Connection) -> Values:
    """The options lie among the rest: the fields of its kind follow those that all have."""
    plain = {field.name: getattr(connection, field.name) for field in fields.CONNECTION}
    return filled(fields.CONNECTION, plain) | filled(fields.options_of(connection.kind), connection.options)


def of_pipeline(pipeline: Pipeline, schedules: Iterable[ScheduleSpec], dependencies: Iterable[Dependency]) -> Values:
    """Of a pipeline that was read with its parts."""
    names = ((each.upstream.name, DependencySpec.of(each)) for each in dependencies)
    current: Iterable[Any] = pipeline.current_checks  # type: ignore[attr-defined]
    values: Values = {
        "schedules": of_schedules(schedules),
        "dependencies": of_dependencies(names),
        "checks": [checks.spec_of(row).to_json() for row in current],
    }
    for field in fields.PIPELINE:
        if field.name in values:
            continue
        value = getattr(pipeline, field.name)
        if field.name in fields.WORDS:
            value = fields.WORDS[field.name](value).name.lower()
        elif isinstance(value, Connection | Pool):
            value = value.name
        values[field.name] = str(value) if isinstance(value, str) else value
    return filled(fields.PIPELINE, values)


def of_schedules(specs: Iterable[ScheduleSpec]) -> list[Values]:
    """In one order, however they came about."""
    return [_of_schedule(spec) for spec in sorted(specs, key=lambda spec: spec.key)]


def _of_schedule(spec: ScheduleSpec) -> Values:
    is_cron = spec.kind == "cron"
    values: Values = {"cron": spec.cron} if is_cron else {"every_s": spec.every_s}
    if is_cron and spec.zone != "UTC":
        values["zone"] = spec.zone
    for name in WINDOW:
        if moment := getattr(spec, name):
            values[name] = _on_the_clock(moment, spec.zone)
    return values | {name: value for name in ("calendar", "jitter_s") if (value := getattr(spec, name))}


def _on_the_clock(moment: datetime, zone: str) -> str:
    """A wall time of the zone, with its offset only where it would mean another instant without."""
    local = moment.astimezone(schedules.zone_of(zone))
    wall = local.replace(tzinfo=None)
    is_plain = schedules.instant_of(wall, schedules.zone_of(zone)) == moment
    return (wall if is_plain else local).isoformat(timespec="auto" if wall.second or wall.microsecond else "minutes")


def of_dependencies(named: Iterable[tuple[str, DependencySpec]]) -> list[Values]:
    """By the names of the upstreams, and in their order."""
    return [_of_dependency(name, spec) for name, spec in sorted(named, key=lambda each: each[0])]


def _of_dependency(name: str, spec: DependencySpec) -> Values:
    usual = DependencySpec(spec.upstream).to_json()
    return {"pipeline": name, **{key: value for key, value in spec.to_json().items() if value != usual[key]}}


def dependency_of(upstream: UUID, entry: Mapping[str, Any]) -> DependencySpec:
    """What a file's entry means, of the pipeline that it names."""
    return DependencySpec(upstream, **{key: value for key, value in entry.items() if key != "pipeline"})


def spec_of(schedule: Mapping[str, Any]) -> ScheduleSpec:
    """The rule that a file's entry means; raises RuleError if it is none."""
    kind = "interval" if "every_s" in schedule else "cron"
    zone = schedules.zone_of(schedule.get("zone", "UTC"))
    window = {name: _moment(name, schedule[name], zone) for name in WINDOW if name in schedule}
    return ScheduleSpec(**{"kind": kind, **schedule, **window}).tidy()


def _moment(name: str, text: str, zone: ZoneInfo) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        hint = "Write for example 2026-12-01T06:00, on the clocks of the zone."
        raise schedules.RuleError(name, f"{text[:40]} is no date and time.", hint) from None
    return moment if moment.tzinfo else schedules.instant_of(moment, zone)
