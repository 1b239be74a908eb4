"""A pipeline's copy, under a free name and into a free table."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from pipelines import dependencies as graph
from pipelines import quarantines, queries
from pipelines.checks import checks_of
from pipelines.models import Pipeline, PipelineState
from pipelines.services.definitions import save_pipeline
from pipelines.specs import ScheduleSpec

MAX_NAME = 200


MAX_TABLE_BYTES = 63


def duplicate(pipeline: Pipeline, *, by: Any, name: str | None = None, target_table: str | None = None) -> Pipeline:
    """A paused copy with its schedules, writing to a table of its own."""
    copy = Pipeline(
        name=name or _free_name(pipeline.name),
        description=pipeline.description,
        state=PipelineState.PAUSED,
        source_id=pipeline.source_id,
        source_table=pipeline.source_table,
        source_query=pipeline.source_query,
        row_filter=pipeline.row_filter,
        parameters=dict(pipeline.parameters),
        destination_id=pipeline.destination_id,
        target_schema=pipeline.target_schema,
        target_table=target_table or _free_table(pipeline),
        write_disposition=pipeline.write_disposition,
        merge_key=list(pipeline.merge_key),
        deletes=pipeline.deletes,
        cursor_column=pipeline.cursor_column,
        column_rules=dict(pipeline.column_rules),
        schema_policy=pipeline.schema_policy,
        incremental=pipeline.incremental,
        lookback=pipeline.lookback,
        settle=pipeline.settle,
        initial_value=pipeline.initial_value,
        guard_zero_rows=pipeline.guard_zero_rows,
        guard_shrink_percent=pipeline.guard_shrink_percent,
        held_days=pipeline.held_days,
        undo_depth=pipeline.undo_depth,
        mode=pipeline.mode,
        poll_every_s=pipeline.poll_every_s,
        stream_every_s=pipeline.stream_every_s,
        force_read_every=pipeline.force_read_every,
        watch_every_s=pipeline.watch_every_s,
        load_method=pipeline.load_method,
        text_policy=pipeline.text_policy,
        **quarantines.fields(pipeline),
        primary_key=list(pipeline.primary_key),
        indexes=list(pipeline.indexes),
        partition_column=pipeline.partition_column,
        partition_unit=pipeline.partition_unit,
        analyze=pipeline.analyze,
        sql_before=pipeline.sql_before,
        sql_after=pipeline.sql_after,
        sql_role=pipeline.sql_role,
        sql_limit_s=pipeline.sql_limit_s,
        priority=pipeline.priority,
        pool_id=pipeline.pool_id,
        overlap=pipeline.overlap,
        missed=pipeline.missed,
        retries=pipeline.retries,
        retry_delay_s=pipeline.retry_delay_s,
        give_up_after_s=pipeline.give_up_after_s,
        time_limit_s=pipeline.time_limit_s,
        run_budget_bytes=pipeline.run_budget_bytes,
        month_budget_bytes=pipeline.month_budget_bytes,
    )
    current = queries.current_schedules().filter(pipeline=pipeline)
    specs = [ScheduleSpec.of(schedule) for schedule in current]
    waits_for, checks = graph.specs_of(pipeline), checks_of(pipeline)
    save_pipeline(copy, schedules=specs, dependencies=waits_for, checks=checks, by=by)
    return copy


def _free_name(name: str) -> str:
    for ending in _endings(" (copy)", " (copy {})"):
        candidate = name[: MAX_NAME - len(ending)] + ending
        if not Pipeline.objects.filter(name=candidate).exists():
            return candidate
    raise AssertionError("endings never run out")


def _free_table(pipeline: Pipeline) -> str:
    for ending in _endings("_copy", "_copy{}"):
        room = MAX_TABLE_BYTES - len(ending)
        candidate = pipeline.target_table.encode()[:room].decode(errors="ignore") + ending
        if queries.pipeline_writing_to(pipeline.destination, pipeline.target_schema, candidate) is None:
            return candidate
    raise AssertionError("endings never run out")


def _endings(first: str, more: str) -> Iterator[str]:
    yield first
    for number in count(2):
        yield more.format(number)
