"""Data intervals that an append has loaded, or is about to: a second time, its rows would be there twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition
from connectors.parameters import names_it
from pipelines import given
from pipelines.models import Pipeline
from runs.models import MOVE_NOTHING, Run, RunAction
from runs.services.errors import RunRefused
from runs.states import RunStatus

# Overlapping runs that are looked at: the newest.
MOST = 100


def refuse_twice(
    pipeline: Pipeline,
    action: str,
    options: Mapping[str, Any],
    interval: tuple[Any, Any],
    *,
    but: UUID | None = None,
) -> None:
    """Raise RunRefused if rows of the interval are in the target by another run than `but`, with the same values.

    Within a transaction: of two that ask at once, the second one sees the first's run. `but` is there to be seen.
    """
    if not _may_double(pipeline, action) or None in interval:
        return
    if but is None:
        Pipeline.objects.select_for_update(no_key=True).filter(pk=pipeline.pk).first()
    start, end = interval
    others = Run.objects.filter(pipeline=pipeline, data_interval_start__lt=end, data_interval_end__gt=start)
    others = others.exclude(status__in=[RunStatus.FAILED, RunStatus.CANCELLED]).exclude(action__in=MOVE_NOTHING)
    others = others.exclude(pk=but) if but else others
    mine = _of(pipeline, options.get("parameters") or {}, interval)
    for run in others.select_related("revision").order_by("-created_at")[:MOST]:
        if _of_run(pipeline, run) == mine:
            does = "loaded" if run.status == RunStatus.SUCCEEDED else "is to load"
            low, high = (f"{moment:%Y-%m-%d %H:%M}" for moment in (run.data_interval_start, run.data_interval_end))
            raise RunRefused(
                "interval_loaded",
                f"Run {run.pk} {does} {low} to {high} UTC, and {pipeline.name} appends:"
                " a second time, rows would be there twice.",
                "If its rows are gone from the target, run with values and confirm it; in the API, with force.",
            )


def _may_double(pipeline: Pipeline, action: str) -> bool:
    return (
        action in (RunAction.LOAD, RunAction.KEEP)
        and pipeline.write_disposition == WriteDisposition.APPEND
        and not pipeline.incremental
        and given.query_uses_interval(pipeline)
    )


def _of(pipeline: Pipeline, values: Mapping[str, Any], interval: tuple[Any, Any]) -> tuple[str, dict[str, Any]]:
    """Where a run writes to, and the values that its query names."""
    declares = given.declared_by(pipeline)
    named = {
        name: values.get(name, each.default) for name, each in declares.items() if names_it(pipeline.source_query, name)
    }
    try:
        parameters = given.resolved_of(pipeline, values, given.built_in(*interval, interval[1], ""))
        return str(given.target_of(pipeline, parameters)), named
    except ConnectorError:
        return "", named  # no name, which is told elsewhere


def _of_run(pipeline: Pipeline, run: Run) -> tuple[str, dict[str, Any]]:
    from runs.values import shown, target_of_run  # knows the services' claims

    values = shown(run)
    names = [name for name in given.declared_by(pipeline) if names_it(pipeline.source_query, name)]
    return target_of_run(run), {name: values.get(name) for name in names}
