"""Saving a pipeline with its schedules, dependencies and checks, and the revisions that this makes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from django.db import transaction

from connectors import parameters
from connectors.checks import Check
from connectors.modes import WriteDisposition
from pipelines import (
    budgets,
    deletions,
    quarantines,
    queries,
    realtime,
    schema_policies,
    sql_rights,
)
from pipelines import dependencies as graph
from pipelines.checks import for_definition, keep_or_replace
from pipelines.dependencies import DependencySpec
from pipelines.models import Pipeline, PipelineState, Revision
from pipelines.objections import constraints_in_words
from pipelines.services.ticking import replace_schedules
from pipelines.signals import paused, revised
from pipelines.specs import ScheduleSpec

# What decides which rows go where: a change of these is checked against the live systems.
MOVING = frozenset(
    {
        "source", "source_table", "source_query", "row_filter", "parameters", "destination", "target_schema",
        "target_table",
        "adopt_target", "write_disposition", "merge_key", "deletes", "cursor_column", "incremental", "initial_value",
        "column_rules", "sql_before", "sql_after", "sql_role",
        "primary_key", "indexes", "partition_column", "partition_unit",
    }
)  # fmt: skip


def save_pipeline(
    pipeline: Pipeline,
    *,
    schedules: Sequence[ScheduleSpec] | None,
    dependencies: Sequence[DependencySpec] | None = None,
    checks: Sequence[Check] | None = None,
    by: Any,
    keep_state: bool = False,
) -> Revision:
    """Save a pipeline with its schedules, dependencies and checks (None: as they are), and revise it if it changed.

    With `keep_state`, a pause or resume that came in the meantime is not undone by the state of `pipeline`.
    Raises PipelineRefused or RuleError, and then nothing is saved.
    """
    specs = None if schedules is None else {spec.key: spec for spec in (raw.tidy() for raw in schedules)}
    pipeline.parameters = parameters.canonical(pipeline.parameters)
    with transaction.atomic():
        if dependencies is not None:
            graph.lock()
        before = Pipeline.objects.select_for_update(no_key=True).filter(pk=pipeline.pk).first()
        budgets.refuse(before, pipeline, by)
        now = queries.database_now()
        if before is None:
            pipeline.active_from = now
        else:
            pipeline.state = before.state if keep_state else pipeline.state
            resumed = before.state != PipelineState.ACTIVE and pipeline.state == PipelineState.ACTIVE
            pipeline.active_from = now if resumed else before.active_from
            if _reads_elsewhere(before, pipeline) and pipeline.source_columns == before.source_columns:
                pipeline.source_columns = None  # nobody has looked at the new source yet
        sql_rights.refuse(before, pipeline, by)
        with constraints_in_words():
            pipeline.save()
        if before is not None and before.state == PipelineState.ACTIVE and pipeline.state == PipelineState.PAUSED:
            paused.send(sender=Pipeline, pipelines=[pipeline.pk], by=by)
        if pipeline.state == PipelineState.ARCHIVED:
            specs, dependencies = {}, ()
        if specs is not None:
            replace_schedules(pipeline, specs, now)
        if dependencies is not None:
            graph.replace(pipeline, dependencies)
        keep_or_replace(pipeline, checks, before=before, by=by)
        return revise(pipeline, by)


def _reads_elsewhere(before: Pipeline, now: Pipeline) -> bool:
    def reads(pipeline: Pipeline) -> tuple[Any, ...]:
        return pipeline.source_id, pipeline.source_table, pipeline.source_query

    return reads(before) != reads(now)


def revise(pipeline: Pipeline, by: Any) -> Revision:
    """The current revision, or a new one if the definition is no longer what it says; the caller holds the row lock."""
    definition = definition_of(pipeline)
    latest = Revision.objects.filter(pipeline=pipeline).first()
    if latest is not None and latest.definition == definition:
        revision = latest
    else:
        revision = Revision.objects.create(
            pipeline=pipeline,
            number=latest.number + 1 if latest else 1,
            definition=definition,
            fingerprint=fingerprint_of(definition),
            created_by=by if by is not None and by.is_authenticated else None,
        )
    if pipeline.revision_id != revision.pk:
        pipeline.revision = revision
        pipeline.save(update_fields=["revision"])
        if latest is not None:
            revised.send(sender=Pipeline, pipeline=pipeline, before=latest)
    return revision


def definition_of(pipeline: Pipeline) -> dict[str, Any]:
    """What a run needs to know of a pipeline, as stored in a revision."""
    current = [ScheduleSpec.of(schedule) for schedule in queries.current_schedules().filter(pipeline=pipeline)]
    return {
        "name": pipeline.name,
        "source": {
            "connection": str(pipeline.source_id),
            "table": pipeline.source_table,
            "query": pipeline.source_query,
            "columns": pipeline.source_columns,
        },
        **({"row_filter": pipeline.row_filter} if pipeline.row_filter else {}),
        "parameters": pipeline.parameters,
        "destination": {
            "connection": str(pipeline.destination_id),
            "schema": pipeline.target_schema,
            "table": pipeline.target_table,
            "adopt": pipeline.adopt_target,
        },
        "write_disposition": str(pipeline.write_disposition),
        "merge_key": list(pipeline.merge_key),
        **deletions.said(pipeline),
        "cursor_column": pipeline.cursor_column,
        "column_rules": pipeline.column_rules,
        **schema_policies.said(pipeline),
        "incremental": pipeline.incremental,
        "lookback": pipeline.lookback,
        "settle": pipeline.settle,
        "initial_value": pipeline.initial_value,
        "guard_zero_rows": pipeline.guard_zero_rows,
        "guard_shrink_percent": pipeline.guard_shrink_percent,
        "held_days": pipeline.held_days,
        "undo_depth": pipeline.undo_depth,
        **realtime.definition_of(pipeline),
        "watch_every_s": pipeline.watch_every_s,
        "load_method": str(pipeline.load_method),
        "text_policy": str(pipeline.text_policy),
        **quarantines.said(pipeline),
        "target_options": pipeline.target_options.to_json(),
        "schedules": [spec.to_json() for spec in sorted(current, key=lambda spec: spec.key)],
        "dependencies": [spec.to_json() for spec in graph.specs_of(pipeline)],
        **for_definition(pipeline),
        **_sql_of(pipeline),
        "overlap": str(pipeline.overlap),
        "missed": str(pipeline.missed),
        "retries": pipeline.retries,
        "retry_delay_s": pipeline.retry_delay_s,
        "give_up_after_s": pipeline.give_up_after_s,
        "time_limit_s": pipeline.time_limit_s,
        **budgets.told(pipeline),
    }


def _sql_of(pipeline: Pipeline) -> dict[str, Any]:
    """The SQL around the load; a pipeline without any says nothing of it."""
    told = {name: getattr(pipeline, name) for name in ("sql_before", "sql_after", "sql_role", "sql_limit_s")}
    return told if pipeline.sql_before or pipeline.sql_after else {}


def fingerprint_of(definition: dict[str, Any]) -> str:
    """SHA-256 of what decides which rows belong in the target: source, target, key, the cursor that tells new rows."""
    keeps_history = definition["write_disposition"] == WriteDisposition.HISTORY
    merges = keeps_history or definition["write_disposition"] == WriteDisposition.MERGE
    # Named only where there are any: what was written before they could be declared is still the same.
    declared, row_filter = definition.get("parameters"), definition.get("row_filter")
    told = json.dumps(
        {
            "source": {name: definition["source"][name] for name in ("connection", "table", "query")},
            "destination": {name: definition["destination"][name] for name in ("connection", "schema", "table")},
            "key": [name.lower() for name in definition["merge_key"]] if merges else [],
            "columns": definition.get("column_rules", {}),
            "cursor": definition["cursor_column"].lower() if definition["incremental"] else "",
            **({"parameters": declared} if declared else {}),
            **({"filter": row_filter} if row_filter else {}),
            **({"history": definition["cursor_column"].lower()} if keeps_history else {}),
        },
        sort_keys=True,
    )
    return hashlib.sha256(told.encode()).hexdigest()
