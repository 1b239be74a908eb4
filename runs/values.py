"""The values that a run goes by: what it was given, the defaults of its revision, and its own times.

They are fixed once it is asked for: every attempt, on whatever worker, resolves the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from connectors import naming
from connectors.errors import ConnectorError
from connectors.parameters import INTERVAL, Declared, Parameter, declared, names_it, resolved, uses_built_in
from connectors.writing import Target
from pipelines.given import NAMES, built_in, goes_by_values
from runs.models import MOVE_NOTHING, Run, RunAction
from runs.services import Claim, PartClaim
from runs.states import RunStatus

Claimed = Claim | PartClaim


def declared_in(definition: Mapping[str, Any]) -> dict[str, Declared]:
    """The parameters of a definition; one from before there were any has none."""
    return declared(definition.get("parameters") or {})[0]


def given_in(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a run was given besides its defaults."""
    return options.get("parameters") or {}


def own_values(run: Run) -> dict[str, str | None]:
    """What every run has; one by hand is scheduled for the moment when it was asked for."""
    return built_in(run.data_interval_start, run.data_interval_end, run.scheduled_for or run.created_at, str(run.pk))


def values_of(run: Run) -> tuple[Parameter, ...]:
    """All values of a run whose revision is at hand."""
    return resolved(declared_in(run.revision.definition), given_in(run.action_options), own_values(run))


def shown(run: Run) -> dict[str, Any]:
    """The declared parameters with the values that a run has, for people and programs."""
    given = given_in(run.action_options)
    return {name: given.get(name, each.default) for name, each in declared_in(run.revision.definition).items()}


def parameters_of(claimed: Claimed) -> tuple[Parameter, ...]:
    """What a claimed run's query is run with; raises ConnectorError if it names an interval that the run has not."""
    if claimed.action == RunAction.REPLAY:
        return ()  # it reads no source
    query = claimed.definition["source"]["query"]
    parameters = _resolved(claimed, uses_built_in(query))
    return _with_interval(claimed, parameters, {name for name in INTERVAL if names_it(query, name)})


def target_of(claimed: Claimed) -> Target:
    """Where a claimed run writes to; raises ConnectorError if its values make no name."""
    if claimed.action in (RunAction.UNDO, RunAction.REPLAY):
        return Target(**claimed.options["target"])
    names = claimed.definition["destination"]
    if not any(naming.is_template(names[name]) for name in NAMES):
        return Target(names["schema"], names["table"])
    parameters = _resolved(claimed, own=True)
    used = {name for template in NAMES for name in naming.names_in(names[template])}
    return named(names, _with_interval(claimed, parameters, used & set(INTERVAL)))


def _with_interval(claimed: Claimed, parameters: tuple[Parameter, ...], used: set[str]) -> tuple[Parameter, ...]:
    """The parameters of a run that has the ends which are used: NULL would be compared with, and no row be found."""
    missing = [each.name for each in parameters if each.name in used and each.value is None]
    if missing:
        raise ConnectorError(
            f"This run has no {missing[0]}, which the query or the target's name asks for.",
            hint="Run the pipeline with values, and give it both ends of a data interval.",
            code="interval_needed",
        )
    return parameters


def named(names: Mapping[str, str], parameters: Iterable[Parameter]) -> Target:
    parameters = tuple(parameters)
    schema, table = (naming.fill(names[name], parameters, f"target_{name}") for name in NAMES)
    return Target(schema, table)


def target_of_run(run: Run) -> str:
    """Where a run writes to, for people; the template itself where its values make no name."""
    names = run.revision.definition["destination"]
    try:
        return str(named(names, values_of(run)))
    except ConnectorError:
        return f"{names['schema']}.{names['table']}"


def _resolved(claimed: Claimed, own: bool) -> tuple[Parameter, ...]:
    """With its own times only where they are of use: they take a look at the control database."""
    declares = declared_in(claimed.definition)
    if not declares and not own:
        return ()
    times: Mapping[str, Any] = {}
    if own:
        fields = ("data_interval_start", "data_interval_end", "scheduled_for", "created_at")
        times = own_values(Run.objects.only(*fields).get(pk=claimed.options.get("as_run", claimed.run)))
    return resolved(declares, given_in(claimed.options), times)


def as_last_moved(claimed: Claim) -> Claim:
    """The claim of a run that moves nothing, with the values of the pipeline's last run that did."""
    if not goes_by_values(claimed.definition):
        return claimed
    moved = Run.objects.filter(pipeline=claimed.pipeline, status=RunStatus.SUCCEEDED).exclude(action__in=MOVE_NOTHING)
    return as_run(claimed, moved.order_by("-created_at").first())


def as_run(claimed: Claim, run: Run | None) -> Claim:
    """The claim with the values that `run` had."""
    if run is None:
        return claimed
    given = given_in(run.action_options)
    return replace(claimed, options={**claimed.options, "parameters": dict(given), "as_run": str(run.pk)})
