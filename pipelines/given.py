"""What a pipeline's runs are given: parameters, the names they make, and samples of both for checks on saving."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from connectors import naming
from connectors.parameters import (
    BUILT_IN,
    INTERVAL,
    Declared,
    Kind,
    Parameter,
    declared,
    names_it,
    resolved,
    uses_built_in,
)
from connectors.writing import Target
from pipelines.models import Pipeline

# What of a target may be a template.
NAMES = ("schema", "table")
# Of a run's own values all but its id may be part of a target's name: that would be a table for each run.
_IN_NAMES = {name: Kind(type_) for name, type_ in BUILT_IN.items() if name != "run_id"}


def declared_by(pipeline: Pipeline) -> dict[str, Declared]:
    """The parameters that are declared well."""
    return declared(pipeline.parameters)[0]


def kinds_of(pipeline: Pipeline) -> dict[str, Kind]:
    """All that a target's name can be made with."""
    return {**{name: each.kind for name, each in declared_by(pipeline).items()}, **_IN_NAMES}


def uses_interval(pipeline: Pipeline) -> bool:
    """Whether what a run moves, or where to, depends on its data interval."""
    return query_uses_interval(pipeline) or name_uses_interval(pipeline)


def query_uses_interval(pipeline: Pipeline) -> bool:
    return any(names_it(pipeline.source_query, name) for name in INTERVAL)


def name_uses_interval(pipeline: Pipeline) -> bool:
    used = (*naming.names_in(pipeline.target_schema), *naming.names_in(pipeline.target_table))
    return any(name in INTERVAL for name in used)


def takes_values(pipeline: Pipeline) -> bool:
    """Whether somebody who starts a run can give it anything."""
    return bool(pipeline.parameters) or uses_interval(pipeline)


def goes_by_values(definition: Mapping[str, Any]) -> bool:
    """Whether two runs of a definition may move other rows, or to other tables, because they have other values."""
    names = definition["destination"]
    return (
        bool(definition.get("parameters"))
        or uses_built_in(definition["source"]["query"])
        or any(naming.is_template(names[name]) for name in NAMES)
    )


def sample_parameters(pipeline: Pipeline, given: Mapping[str, Any] | None = None) -> tuple[Parameter, ...]:
    """Defaults, and yesterday in UTC as the data interval: what a query is looked at with before any run."""
    return resolved_of(pipeline, given or {}, sample_of_a_run())


def resolved_of(pipeline: Pipeline, given: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[Parameter, ...]:
    """All that a run has that is given these values and has these of its own."""
    return resolved(declared_by(pipeline), given, own)


def sample_of_a_run() -> dict[str, str | None]:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return built_in(today - timedelta(days=1), today, today, "00000000-0000-0000-0000-000000000000")


def built_in(
    start: datetime | None, end: datetime | None, scheduled_for: datetime | None, run: str
) -> dict[str, str | None]:
    """What every run has, as parameters hold it."""
    times = {"data_interval_start": start, "data_interval_end": end, "scheduled_for": scheduled_for}
    return {**{name: moment and text_of(moment) for name, moment in times.items()}, "run_id": run}


def text_of(moment: datetime) -> str:
    """A moment as a TIMESTAMP parameter holds it."""
    return moment.astimezone(UTC).isoformat(sep=" ")


def sample_target(pipeline: Pipeline) -> Target:
    """The target that a run with sample values writes to; raises ConnectorError."""
    return target_of(pipeline, sample_parameters(pipeline))


def target_of(pipeline: Pipeline, parameters: tuple[Parameter, ...]) -> Target:
    return Target(
        naming.fill(pipeline.target_schema, parameters, "target_schema"),
        naming.fill(pipeline.target_table, parameters, "target_table"),
    )
