"""This installation's definitions as the text of a file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pipelines import queries
from pipelines.files import alert_rules, dataset_rules, fields, text, values
from pipelines.files.schema import VERSION
from pipelines.models import Calendar, Connection, PipelineState, Pool
from pipelines.specs import ScheduleSpec

SECTIONS = ("connections", "calendars", "pools", "pipelines", "dataset_rules", "alert_rules")
HEAD = """\
Definitions of DataMantri, for `manage.py apply`. Secrets are never in here.
What is not said is as usual; `manage.py export --schema` tells all that can be said."""


def export(only: Collection[str] = SECTIONS) -> str:
    """All but secrets and what is archived; sections and names in one order."""
    made: dict[str, Any] = {"version": VERSION}
    writers = {"connections": _connections, "calendars": _calendars, "pools": _pools, "pipelines": _pipelines}
    writers |= {"dataset_rules": dataset_rules.export, "alert_rules": alert_rules.export}
    for name, section in writers.items():
        if name in only and (found := section()):
            made[name] = dict(sorted(found.items()))
    return text.write(made, HEAD)


def _connections() -> dict[str, Any]:
    return {each.name: _connection(each) for each in Connection.objects.defer("secrets")}


def _connection(connection: Connection) -> dict[str, Any]:
    has = values.of_connection(connection)
    spared = values.spared(fields.CONNECTION, has)
    options = values.spared(fields.options_of(connection.kind), has)
    return {"kind": spared.pop("kind"), "options": options, **spared}


def _calendars() -> dict[str, Any]:
    return {each.name: values.spared(fields.CALENDAR, values.of_calendar(each)) for each in Calendar.objects.all()}


def _pools() -> dict[str, Any]:
    return {each.name: values.spared(fields.POOL, values.of_pool(each)) for each in Pool.objects.all()}


def _pipelines() -> dict[str, Any]:
    kept = queries.pipelines_with_parts().exclude(state=PipelineState.ARCHIVED).select_related("pool")
    found = {}
    for pipeline in kept.defer("source__secrets", "destination__secrets"):
        specs = [ScheduleSpec.of(schedule) for schedule in pipeline.current_schedules]  # type: ignore[attr-defined]
        waits_for = pipeline.current_dependencies  # type: ignore[attr-defined]
        found[pipeline.name] = values.spared(fields.PIPELINE, values.of_pipeline(pipeline, specs, waits_for))
    return found
