"""Revisions as people read them: what differs between two, and going back to one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from connectors.checks import Check
from pipelines import checks as checked
from pipelines import dependencies, objections, services
from pipelines.dependencies import DependencySpec
from pipelines.files import fields
from pipelines.files.changes import FieldChange, between, first
from pipelines.files.fields import Field
from pipelines.files.values import Values, filled, of_dependencies, of_schedules
from pipelines.models import Connection, Pipeline, PipelineState, Revision
from pipelines.objections import PipelineRefused
from pipelines.specs import ScheduleSpec

# Fields of a pipeline that its definition has under other names.
_SOURCE = {"source_table": "table", "source_query": "query", "source_columns": "columns"}
_DESTINATION = {"target_schema": "schema", "target_table": "table", "adopt_target": "adopt"}
_ENDS = frozenset({"source", "destination"})
# How a pipeline is run and described is in no revision.
_NOT_IN_A_REVISION = frozenset({"description", "state", "priority", "pool"})
_NAME = Field("name", "Name", "", {}, required=True)
_COLUMNS = Field("source_columns", "Columns of the source, as they were seen", "", {})
FIELDS = (_NAME, *(field for field in fields.PIPELINE if field.name not in _NOT_IN_A_REVISION))


def changes(before: Revision | None, after: Revision) -> tuple[FieldChange, ...]:
    """What differs, in the words of the form; of a first revision, all that goes not without saying."""
    if before is None:
        (values,) = _named([after.definition])
        return first(FIELDS, values)
    return differences([(before.definition, after.definition)])[0]


def differences(
    pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]], of: Iterable[Field] = (*FIELDS, _COLUMNS)
) -> list[tuple[FieldChange, ...]]:
    """What differs in each pair of definitions; the connections of all are looked up at once."""
    pairs = list(pairs)
    values = iter(_named([definition for pair in pairs for definition in pair]))
    return [between(of, next(values), next(values)) for _ in pairs]


def _named(definitions: list[Mapping[str, Any]]) -> list[Values]:
    """The values of definitions, connections by the names that they have now."""
    found = [_values(definition) for definition in definitions]
    keys = {values[end] for values in found for end in _ENDS}
    names = {str(pk): name for pk, name in Connection.objects.filter(pk__in=keys).values_list("pk", "name")}
    awaited = {each["pipeline"] for values in found for each in values["dependencies"]}
    pipelines = Pipeline.objects.filter(pk__in=awaited).values_list("pk", "name") if awaited else ()
    upstreams = {str(pk): name for pk, name in pipelines}
    for values in found:
        for each in values["dependencies"]:
            each["pipeline"] = upstreams.get(each["pipeline"], f"a pipeline that was deleted ({each['pipeline'][:8]})")
        for end in _ENDS:
            values[end] = names.get(values[end], f"a connection that was deleted ({values[end][:8]})")
    return found


def _values(definition: Mapping[str, Any]) -> Values:
    """A definition by the names of the form, to be compared; what one from before lacks has its default."""
    given = _given(definition)
    return {**filled(FIELDS, given), "source_columns": given.get("source_columns")}


def _given(definition: Mapping[str, Any]) -> Values:
    """A definition by the names of the form, as it was."""
    source, destination = definition["source"], definition["destination"]
    return {
        **{name: value for name, value in definition.items() if name not in ("source", "destination")},
        **definition.get("target_options", {}),
        **{name: source[key] for name, key in _SOURCE.items() if key in source},
        **{name: destination[key] for name, key in _DESTINATION.items() if key in destination},
        "source": source["connection"],
        "destination": destination["connection"],
        "schedules": of_schedules(_specs(definition)),
        "dependencies": of_dependencies((str(spec.upstream), spec) for spec in _waits_for(definition)),
        "checks": definition.get("checks", []),
    }


def _specs(definition: Mapping[str, Any]) -> list[ScheduleSpec]:
    return [ScheduleSpec.from_json(schedule) for schedule in definition.get("schedules", ())]


def _waits_for(definition: Mapping[str, Any]) -> list[DependencySpec]:
    return [DependencySpec.from_json(dependency) for dependency in definition.get("dependencies", ())]


# Going back -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Return:
    """The pipeline as it would be again, and what stands against it."""

    pipeline: Pipeline
    schedules: list[ScheduleSpec]
    dependencies: list[DependencySpec]
    checks: tuple[Check, ...]
    refused: list[PipelineRefused]
    # Whether it moves other rows than now: then the live systems have a say.
    moves: bool


def prepare(revision: Revision) -> Return:
    """What going back to a revision comes to; nothing is saved."""
    now = revision.pipeline
    before, after = _values(services.definition_of(now)), _values(revision.definition)
    # As it was to the letter, so that its fingerprint is, too.
    exactly = {**after, **_given(revision.definition)}
    different = {field.name for field in FIELDS if before[field.name] != after[field.name]}
    candidate = copy.copy(now)
    refused = []
    for name in different - {*_ENDS, "schedules", "dependencies", "checks"}:
        setattr(candidate, name, exactly[name])
    for end in different & _ENDS:
        connection = Connection.objects.filter(pk=after[end]).first()
        if connection is None:
            message = f"The {end} of revision {revision.number} was deleted."
            refused.append(PipelineRefused("connection_missing", message, "Choose another in the form.", end))
        else:
            setattr(candidate, end, connection)
    if different & {"source", "source_table", "source_query"}:
        candidate.source_columns = after["source_columns"]
    if now.state == PipelineState.ARCHIVED:
        refused.append(PipelineRefused("pipeline_archived", f"{now.name} is archived.", "Restore it first.", "state"))
    if Pipeline.objects.exclude(pk=now.pk).filter(name=candidate.name).exists():
        refused.append(PipelineRefused(*objections.NAME_TAKEN))
    refused += objections.against(candidate)
    waits_for = _waits_for(revision.definition)
    if "dependencies" in different:
        refused += dependencies.against(now, waits_for)
    checks = checked.of_definition(revision.definition)
    refused += [checked.place_of(number, each) for number, each in checked.against(candidate, checks)]
    moves = bool(different & services.MOVING)
    return Return(candidate, _specs(revision.definition), waits_for, checks, refused, moves)


def would_change(revision: Revision) -> tuple[FieldChange, ...]:
    """What going back to a revision changes; which columns the source had is no part of that."""
    return differences([(services.definition_of(revision.pipeline), revision.definition)], FIELDS)[0]


def revert(prepared: Return, *, by: Any) -> Revision:
    """Go back, as a new revision; state, description, priority and pool stay. Raises PipelineRefused or RuleError."""
    for refused in prepared.refused:
        raise refused
    return services.save_pipeline(
        prepared.pipeline,
        schedules=prepared.schedules,
        dependencies=prepared.dependencies,
        checks=prepared.checks,
        by=by,
        keep_state=True,
    )
