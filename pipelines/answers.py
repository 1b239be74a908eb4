"""What a look-ups' worker does with a question: the only place outside of runs that opens connections."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillLooking
from dataclasses import asdict, fields, replace
from typing import Any
from uuid import UUID

from cryptography.fernet import InvalidToken

from connectors import column_rules, comparing, registry
from connectors.base import StepResult
from connectors.billing import Estimate
from connectors.column import Column, declared_to_json
from connectors.cursor import CursorRead, Span, find_column, number_of
from connectors.errors import ConnectorError, Unreachable
from connectors.forecast import Forecast
from connectors.modes import Deletes, WriteDisposition, WriteMode
from connectors.parameters import Parameter
from connectors.postgres.names import column_names
from connectors.reading import Description, ReadRequest
from connectors.row_filter import FIELD as FILTER_FIELD
from connectors.sql_around import SqlAround
from connectors.target_options import TargetOptions
from connectors.types import bigquery_type, postgres_type
from connectors.writing import Target
from pipelines import kept_answers
from pipelines.fields import fernet
from pipelines.look_ends import System
from pipelines.look_ends import destination as _destination
from pipelines.look_ends import source as _source

log = logging.getLogger(__name__)

# All stay under what the page waits for, see lookups.WAIT_S: a source that is silent must leave time for the rest.
DESCRIBE_LIMIT_S = 3.5
COLUMNS_LIMIT_S = 3.8
ANSWER_LIMIT_S = 4.6
PREVIEW_ROWS = 20

Sent = list[dict[str, Any]]  # parameters with their values


def answer(question: str) -> dict[str, Any]:
    """{"ok": what was asked for} or {"error": code, message, hint, field}; raises nothing."""
    try:
        details = json.loads(fernet().decrypt(question.encode()))
        look: Callable[..., Any] = _LOOKS[details.pop("what")]
        return {"ok": look(**details)}
    except ConnectorError as error:
        return {"error": _in_words(error)}
    except InvalidToken:
        hint = "Give all processes the same ENCRYPTION_KEYS."
        return _broke("keys_differ", "The look-ups' worker has other encryption keys.", hint)
    except Exception:  # a defect; its traceback belongs to the log, not to the page
        log.exception("A look-up failed")
        return _broke("lookup_failed", "The look-up broke off.", "The log of the look-ups' worker says why.")


def _in_words(error: ConnectorError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "hint": error.hint, "field": error.field}


def _broke(code: str, message: str, hint: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "hint": hint, "field": ""}}


# One system -----------------------------------------------------------------------------------


def _test_connection(system: System) -> list[dict[str, Any]]:
    opened = _source if registry.get(system["kind"]).source else _destination
    steps: list[dict[str, Any]] = []
    try:
        with opened(system) as end:
            steps.extend(asdict(step) for step in end.check())
    except ConnectorError as error:
        steps.append(asdict(StepResult.failed("Connect", error)))
    return steps


def _datasets(system: System) -> list[str]:
    with _source(system) as source:
        return list(source.datasets())


def _tables(system: System, dataset: str) -> list[dict[str, Any]]:
    with _source(system) as source:
        found = [asdict(table) for table in source.tables(dataset)]
    for table in found:
        table["modified"] = table["modified"] and table["modified"].isoformat()
    return found


def _schemas(system: System) -> list[str]:
    with _destination(system) as destination:
        return list(destination.schemas())


def _describe(system: System, table: str, query: str, parameters: Sent) -> dict[str, Any]:
    with _source(system) as source:
        seen = source.describe(_read(table, query, parameters))
    return {
        "columns": _columns(seen.columns),
        "rows": seen.rows,
        "bytes": seen.bytes,
        "warnings": list(seen.warnings),
    }


def _source_columns(system: System, table: str, query: str, parameters: Sent) -> list[dict[str, Any]]:
    with _source(system) as source:
        return [declared_to_json(column) for column in source.describe(_read(table, query, parameters)).columns]


def _range_bytes(system: System, table: str, query: str, samples: list[Any], row_filter: str = "") -> list[int | None]:
    found = []
    with _source(system) as source:
        for parameters, span in samples:
            cursor = CursorRead(span["column"], span=Span(**span)) if span else None
            found.append(source.describe(replace(_read(table, query, parameters, row_filter), cursor=cursor)).bytes)
    return found


def _preview(system: System, table: str, query: str, parameters: Sent, rules: Any = None) -> dict[str, Any]:
    ruled, wrong = column_rules.from_json(rules or {})
    for error in wrong:
        raise error
    with _source(system) as source:
        seen = source.preview(_read(table, query, parameters), limit=PREVIEW_ROWS, rules=ruled)
    columns = _columns(seen.columns) if rules is None else _target_columns(seen.columns)
    return {"columns": columns, "rows": [list(row) for row in seen.rows]}


def _read(table: str, query: str, parameters: Sent, row_filter: str = "") -> ReadRequest:
    values = tuple(map(Parameter.from_json, parameters))
    return ReadRequest(table=table, query=query, row_filter=row_filter, parameters=values)


def _columns(columns: tuple[Column, ...]) -> list[dict[str, str]]:
    return [{"name": column.name, "type": bigquery_type(column)} for column in columns]


def _target_columns(columns: tuple[Column, ...]) -> list[dict[str, str]]:
    named = zip(column_names(columns), columns, strict=True)
    return [{"name": name, "type": postgres_type(column)} for name, column in named]


# Both ends of a pipeline ----------------------------------------------------------------------


def _validate(
    source: System,
    destination: System,
    table: str,
    query: str,
    schema: str,
    target: str,
    disposition: str,
    key: list[str],
    deletes: str,
    cursor: str,
    incremental: bool,
    initial: str,
    pipeline: str,
    adopt: bool,
    rules: dict[str, Any],
    options: dict[str, Any],
    undo_depth: int,
    sql: dict[str, str],
    parameters: Sent,
    row_filter: str = "",
) -> dict[str, Any]:
    """What stands against a pipeline (`findings`), and its source's `columns`, None where they cannot be known.

    `forecast` is what a run would do to the target, None where something stands against it; `cost` what it would bill.

    Both ends are looked at side by side.
    """
    asked = time.monotonic()
    wanted = Target(schema, target)
    form = TargetOptions.from_json(options)
    mode = WriteMode(
        WriteDisposition(disposition), tuple(key), cursor, form, deletes=Deletes(deletes), undo_depth=undo_depth
    )
    reads = "source_query" if query else "source_table"
    findings: list[dict[str, Any]] = []
    columns: list[dict[str, Any]] | None = None
    forecast: Forecast | None = None
    ruled, wrong_rules = column_rules.from_json(rules)
    # Threads of their own: an end that hangs past its limit must not hold up the answer.
    pool = ThreadPoolExecutor(max_workers=3)

    def look_at_source() -> Description:
        with _source(source, limit_s=DESCRIBE_LIMIT_S) as end:
            return end.describe(_read(table, query, parameters, row_filter))

    def look_at_destination() -> tuple[list[ConnectorError], Forecast | None]:
        with _destination(destination) as end:
            known = set(end.schemas())
            try:
                columns = described.result(_left(asked + COLUMNS_LIMIT_S)).columns
            except (ConnectorError, StillLooking):
                # Told of by the other side. What writes into a table that is there cannot be judged without columns.
                if mode.disposition is not WriteDisposition.REPLACE:
                    return [] if schema in known else [_no_schema(schema)], None
                columns = ()
            left, _ = column_rules.judge(columns, ruled)
            against = end.validate_target(wanted, left, mode, pipeline=UUID(pipeline), adopt=adopt)
            against += end.validate_sql(SqlAround.of(sql))
            return against, None if against else end.forecast(wanted, left, mode)

    def look_at_cost() -> Estimate:
        with _source(source, limit_s=DESCRIBE_LIMIT_S) as end:
            settles = mode.disposition is WriteDisposition.APPEND
            newer = CursorRead(cursor, initial=initial, settles=settles) if incremental else None
            read = _read(table, query, parameters, row_filter)
            return end.estimate(replace(read, skip=column_rules.skipped(ruled), cursor=newer))

    costed = pool.submit(look_at_cost)
    described = pool.submit(look_at_source)
    validated = pool.submit(look_at_destination)
    try:
        seen = _result(described, asked + ANSWER_LIMIT_S, "The source")
        columns = [declared_to_json(column) for column in seen.columns]
        wrong_rules += column_rules.judge(seen.columns, ruled)[1]
        findings += _cursor_findings(seen.columns, cursor, initial) if incremental else []
    except ConnectorError as error:
        field = "source" if error.field in _option_names(source) else reads
        field = FILTER_FIELD if error.field == FILTER_FIELD else field
        findings.append(_finding(field, error))
    try:
        found, forecast = _result(validated, asked + ANSWER_LIMIT_S, "The destination")
        findings += [_finding(_TARGET_FIELDS.get(e.field, "target_table"), e) for e in found]
    except ConnectorError as error:
        field = {"schema": "target_schema", "table": "target_table"}.get(error.field, "destination")
        findings.append(_finding(field, error))
    try:
        cost = _result(costed, asked + ANSWER_LIMIT_S, "The source")
    except ConnectorError as error:
        cost = Estimate(None, None, error.message)  # what stands against it is told by those who look at the rest
    pool.shutdown(wait=False)
    findings += [_finding("column_rules", error) for error in wrong_rules]
    told = forecast and asdict(forecast)
    return {"findings": findings, "columns": columns, "forecast": told, "cost": asdict(cost)}


def _cursor_findings(columns: tuple[Column, ...], name: str, initial: str) -> list[dict[str, Any]]:
    """What stands against telling new rows by this column."""
    try:
        column = find_column(columns, name)
        if initial:
            number_of(initial, column.type, field="initial_value")
    except ConnectorError as error:
        return [_finding(error.field, error)]
    return []


def _comparison_cost(
    source: System,
    destination: System,
    pipeline: str,
    table: str,
    query: str,
    schema: str,
    target: str,
    key: list[str],
    parameters: Sent,
    row_filter: str = "",
) -> dict[str, Any]:
    wanted, read = Target(schema, target), _read(table, query, parameters, row_filter)
    with _destination(destination) as end:
        published, here = end.published(wanted), end.size(wanted)
    if published is None or str(published.pipeline) != pipeline:
        raise comparing.nothing_published(wanted)
    with _source(source) as end:
        gone = ""
        try:
            survey = comparing.survey_source(end, read, published.snapshot_time)
        except ConnectorError as error:
            if error.code != "snapshot_gone":
                raise
            survey, gone = comparing.survey_source(end, read, None), error.message
    billed = comparing.bytes_billed(survey, look_for_keys=bool(key))
    least, most = billed or (None, None)
    return {
        "snapshot_time": published.snapshot_time.isoformat(),
        "source": {
            "bytes": survey.bytes,
            "least_billed": least,
            "most_billed": most,
            "no_snapshot": gone or survey.why_not,
            "is_gone": bool(gone),
            "is_unchanged": bool(survey.unchanged),
        },
        "target": here and {"rows": here.rows, "bytes": here.bytes},
    }


_TARGET_FIELDS = (
    {"schema": "target_schema"}
    | {
        field: field
        for field in ("merge_key", "cursor_column", "primary_key", "indexes", "partition_column", "column_rules")
    }
    | {field: field for field in ("sql_before", "sql_after", "sql_role")}
)


def _result(looking: Future[Any], deadline: float, who: str) -> Any:
    try:
        return looking.result(_left(deadline))
    except StillLooking:
        raise Unreachable(f"{who} did not answer in time.", hint="Check that it is up.") from None


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _option_names(system: System) -> set[str]:
    return {option.name for option in fields(registry.options_type(system["kind"]))}


def _no_schema(schema: str) -> ConnectorError:
    return ConnectorError(
        f"There is no schema {schema} that this user may use.",
        hint="Create it, or choose another.",
        code="schema_missing",
        field="schema",
    )


def _finding(field: str, error: ConnectorError) -> dict[str, Any]:
    told = {"code": error.code, "message": error.message, "hint": error.hint}
    return {"field": field, **told, "definite": not error.transient}


_LOOKS: dict[str, Callable[..., Any]] = {
    "test_connection": _test_connection,
    "datasets": _datasets,
    "tables": _tables,
    "schemas": _schemas,
    "describe": _describe,
    "source_columns": _source_columns,
    "preview": _preview,
    "range_bytes": _range_bytes,
    "validate": _validate,
    "comparison_cost": _comparison_cost,
    "former_states": kept_answers.former_states,
    "drop_former": kept_answers.drop_former,
    "quarantined": kept_answers.quarantined,
    "discard_quarantined": kept_answers.discard_quarantined,
}
