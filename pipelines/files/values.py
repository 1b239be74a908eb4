"""Rows as plain values, by the names that a file has for them: all fields, defaults too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from connectors import parameters
from pipelines import tidy
from pipelines.dependencies import DependencySpec
from pipelines.files import fields
from pipelines.files.fields import Field
from pipelines.models import Connection, Dependency, Pipeline, Pool
from pipelines.services import ScheduleSpec

Values = dict[str, Any]

_NAMES = frozenset({"source_table", "cursor_column", "partition_column"})
_LISTS = frozenset({"merge_key", "primary_key"})


def canonical(name: str, value: Any) -> Any:
    """A value as the form would store it, with plain line ends: those of a browser make no difference."""
    if name in _LISTS:
        return [tidy.name(each) for each in value]
    if name == "dependencies":
        return sorted(value, key=lambda each: str(each.get("pipeline", "")))
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


def of_connection(connection: Connection) -> Values:
    """The options lie among the rest: the fields of its kind follow those that all have."""
    plain = {field.name: getattr(connection, field.name) for field in fields.CONNECTION}
    return filled(fields.CONNECTION, plain) | filled(fields.options_of(connection.kind), connection.options)


def of_pipeline(pipeline: Pipeline, schedules: Iterable[ScheduleSpec], dependencies: Iterable[Dependency]) -> Values:
    names = ((each.upstream.name, DependencySpec.of(each)) for each in dependencies)
    values: Values = {"schedules": of_schedules(schedules), "dependencies": of_dependencies(names)}
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
    if spec.kind == "interval":
        return {"every_s": spec.every_s}
    return {"cron": spec.cron, **({"zone": spec.zone} if spec.zone != "UTC" else {})}


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
    if "every_s" in schedule:
        return ScheduleSpec("interval", every_s=schedule["every_s"]).tidy()
    return ScheduleSpec("cron", cron=schedule["cron"], zone=schedule.get("zone", "UTC")).tidy()
