"""What stands against a definition by itself, told field by field before anything is tried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import IntegrityError, transaction

from connectors import naming, parameters, sql_around, target_options
from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition
from connectors.postgres.names import check_identifier
from pipelines import column_objections, deletions, queries, realtime, schema_policies
from pipelines.given import kinds_of, sample_target
from pipelines.models import Pipeline, PipelineState


class PipelineRefused(Exception):
    """A definition that cannot be saved; `field` names the pipeline's field at fault."""

    def __init__(self, code: str, message: str, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.field = code, message, hint, field


BROKEN_CONSTRAINTS = {
    "pipeline_target_once": (
        "target_taken",
        "Another pipeline writes to this table already.",
        "Choose another table.",
        "target_table",
    ),
    "pipeline_table_or_query": (
        "table_or_query",
        "A pipeline reads either a table or a query.",
        "Fill in one of them and leave the other empty.",
        "source_table",
    ),
    "pipeline_realtime_reads_new_rows": (
        "realtime_needs_cursor",
        "Near real time reads only what is new.",
        "Read only new rows, or leave it to a schedule.",
        "mode",
    ),
    "pipelines_calendar_name_key": (
        "name_taken",
        "Another calendar has this name.",
        "Choose a name that is free.",
        "name",
    ),
    "pipelines_datasetrule_name_key": (
        "name_taken",
        "Another dataset rule has this name.",
        "Choose a name that is free.",
        "name",
    ),
    "pipelines_pool_name_key": ("name_taken", "Another pool has this name.", "Choose a name that is free.", "name"),
    "pipelines_pipeline_name_key": (
        "name_taken",
        "Another pipeline has this name.",
        "Choose a name that is free; archived pipelines keep theirs.",
        "name",
    ),
}
NAME_TAKEN = BROKEN_CONSTRAINTS["pipelines_pipeline_name_key"]


@contextmanager
def constraints_in_words() -> Iterator[None]:
    """Turn a broken constraint (somebody was faster than the form's own check) into PipelineRefused."""
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        broken = getattr(getattr(error.__cause__, "diag", None), "constraint_name", None)
        for name, words in BROKEN_CONSTRAINTS.items():
            if broken == name:
                raise PipelineRefused(*words) from error
        raise


def against(pipeline: Pipeline) -> list[PipelineRefused]:
    """What save_pipeline would refuse, told field by field before anything is tried."""
    found = []
    if bool(pipeline.source_table) == bool(pipeline.source_query):
        found.append(PipelineRefused(*BROKEN_CONSTRAINTS["pipeline_table_or_query"]))
    if pipeline.watch_every_s and not pipeline.source_table:
        message = "Of a query nobody tells when its rows change."
        found.append(PipelineRefused("watch_needs_table", message, "Read a table, or use a schedule.", "watch_every_s"))
    found += [PipelineRefused(e.code, e.message, e.hint, e.field) for e in realtime.objections(pipeline)]
    found += _merge_objections(pipeline)
    found += [PipelineRefused(e.code, e.message, e.hint, e.field) for e in deletions.objections(pipeline)]
    found += [PipelineRefused(e.code, e.message, e.hint, e.field) for e in schema_policies.objections(pipeline)]
    found += [PipelineRefused(e.code, e.message, e.hint, e.field) for e in column_objections.against(pipeline)]
    found += _form_objections(pipeline)
    found += _incremental_objections(pipeline)
    found += _sql_objections(pipeline)
    found += _parameter_objections(pipeline)
    owner = queries.pipeline_writing_to(
        pipeline.destination, pipeline.target_schema, pipeline.target_table, besides=pipeline
    )
    if owner is not None and pipeline.state != PipelineState.ARCHIVED:
        code, _, hint, field = BROKEN_CONSTRAINTS["pipeline_target_once"]
        found.append(PipelineRefused(code, f"The pipeline {owner.name} writes to this table already.", hint, field))
    return found


def _merge_objections(pipeline: Pipeline) -> Iterator[PipelineRefused]:
    key = [name.lower() for name in pipeline.merge_key]
    if len(set(key)) < len(key):
        yield PipelineRefused("merge_key_twice", "A column stands twice in the key.", field="merge_key")
    if pipeline.write_disposition in (WriteDisposition.MERGE, WriteDisposition.HISTORY):
        if not key:
            message = f"{pipeline.get_write_disposition_display()} needs to know which rows are the same."
            hint = "Name the columns that identify a row."
            yield PipelineRefused("merge_key_missing", message, hint, "merge_key")
        return
    appends = pipeline.write_disposition == WriteDisposition.APPEND
    cursor = "" if appends and pipeline.incremental else pipeline.cursor_column
    for field, value in (("merge_key", key if appends else []), ("cursor_column", cursor)):
        if value:
            hint = "Choose merge, or leave this empty."
            if appends and field == "cursor_column":
                hint = "Choose to read only new rows, or merge, or leave this empty."
            yield PipelineRefused(
                "only_for_merge", f"{pipeline.get_write_disposition_display()} has no use for it.", hint, field
            )


def _parameter_objections(pipeline: Pipeline) -> Iterator[PipelineRefused]:
    declared, errors = parameters.declared(pipeline.parameters)
    for error in errors:
        yield PipelineRefused(error.code, error.message, error.hint, "parameters")
    names = {"target_schema": pipeline.target_schema, "target_table": pipeline.target_table}
    try:
        for field, text in names.items():
            naming.check(text, kinds_of(pipeline), field)
    except ConnectorError as error:
        yield PipelineRefused(error.code, error.message, error.hint, error.field)
        return
    used = {name for text in names.values() for name in naming.names_in(text)}
    for name in sorted(used):
        if name in declared and declared[name].default is None:
            message = f"Parameter {name} is part of the target's name, and has no default."
            yield PipelineRefused("parameter", message, "Give it one: scheduled runs take it.", "parameters")
    if used and not errors:
        yield from _name_objections(pipeline)
    if used and pipeline.incremental:
        yield PipelineRefused(
            "name_template",
            "Reading only new rows needs one target: each table would begin with all rows of the source.",
            "Give the table a fixed name, or let the query say which rows a run reads.",
            "target_table",
        )


def _name_objections(pipeline: Pipeline) -> Iterator[PipelineRefused]:
    """Whether the values that are known now make a name that PostgreSQL takes."""
    try:
        target = sample_target(pipeline)
        check_identifier(target.schema, field="target_schema")
        check_identifier(target.table, field="target_table")
    except ConnectorError as error:
        field = error.field if error.field.startswith("target_") else "parameters"
        yield PipelineRefused(error.code, error.message, error.hint, field)


def _form_objections(pipeline: Pipeline) -> Iterator[PipelineRefused]:
    knows_by_key = pipeline.write_disposition in (WriteDisposition.MERGE, WriteDisposition.HISTORY)
    merge_key = pipeline.merge_key if knows_by_key else ()
    for error in target_options.objections(pipeline.target_options, merge_key):
        yield PipelineRefused(error.code, error.message, error.hint, error.field)


def _sql_objections(pipeline: Pipeline) -> Iterator[PipelineRefused]:
    texts = {"sql_before": pipeline.sql_before, "sql_after": pipeline.sql_after}
    for error in sql_around.objections(texts, pipeline.sql_role):
        yield PipelineRefused(error.code, error.message, error.hint, error.field)


def _incremental_objections(pipeline: Pipeline) -> Iterator[PipelineRefused]:
    replaces = pipeline.write_disposition == WriteDisposition.REPLACE
    if pipeline.incremental and replaces:
        yield PipelineRefused(
            "incremental_replaces",
            "A replace reads all rows: those that are not read would vanish.",
            "Choose append, merge or history to read only new rows.",
            "incremental",
        )
    elif pipeline.incremental and not pipeline.cursor_column:
        yield PipelineRefused(
            "cursor_needed",
            "Without a cursor nobody can say which rows are new.",
            "Name a column that grows with every new or changed row.",
            "cursor_column",
        )
    by_key = (WriteDisposition.MERGE, WriteDisposition.HISTORY)
    merges = pipeline.incremental and pipeline.write_disposition in by_key
    appends = pipeline.incremental and pipeline.write_disposition == WriteDisposition.APPEND
    for field, value, is_of_use, use in (
        ("lookback", pipeline.lookback, merges, "a merge or a history that reads only new rows"),
        ("settle", pipeline.settle, appends, "an append that reads only new rows"),
        ("initial_value", pipeline.initial_value, pipeline.incremental, "reading only new rows"),
    ):
        if value and not is_of_use:
            yield PipelineRefused("only_for_incremental", f"This is for {use}.", "Leave it empty.", field)
