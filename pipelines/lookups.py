"""Look-ups in live systems, as the web asks for them: a worker looks, the page waits.

The question travels encrypted because it may hold secrets, and the answer is forgotten once it is read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from celery import states
from django.db import transaction

from connectors import registry
from connectors.cursor import Span
from connectors.errors import ConnectorError
from connectors.options import build
from connectors.parameters import Parameter
from pipelines import broker, checks, given, schema_policies
from pipelines.fields import fernet
from pipelines.models import Connection, Pipeline
from pipelines.tasks import look_up

Parameters = Sequence[Parameter]

WAIT_S = 5.0
# A question that nobody took up is not worth answering; generous, for workers whose clock is off.
EXPIRES_S = 30
FIRST_NAP_S, LONGEST_NAP_S = 0.01, 0.1

NO_BROKER = "Start the broker, or check BROKER_URL."
NO_WORKER = "Start a worker for the queue lookups, or try again when those that run are less busy."


class LookupFailed(Exception):
    """A look-up without an answer, or with an error for one; `field` names the option or field at fault."""

    def __init__(self, code: str, message: str, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.field = code, message, hint, field


@dataclass(frozen=True)
class Finding:
    """What stands against a pipeline; not `definite` when a system could not be asked.

    `field` is a field of Pipeline.
    """

    field: str
    code: str
    message: str
    hint: str = ""
    definite: bool = True


def test_connection(kind: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Try options, saved or not; gives steps of name, passed (True, False, or None for a warning), detail, hint."""
    return _ask("test_connection", system=_system(kind, options))


def datasets(connection: Connection) -> list[str]:
    return _ask("datasets", system=_saved(connection))


def tables(connection: Connection, dataset: str) -> list[dict[str, Any]]:
    """The tables of a dataset: dataset, name, kind, rows, bytes, modified, description."""
    return _ask("tables", system=_saved(connection), dataset=dataset)


def schemas(connection: Connection) -> list[str]:
    return _ask("schemas", system=_saved(connection))


def describe(
    connection: Connection, *, table: str = "", query: str = "", parameters: Parameters = ()
) -> dict[str, Any]:
    """What a read would give, without cost: columns (name, type), rows, bytes, warnings."""
    return _ask("describe", system=_saved(connection), table=table, query=query, parameters=_sent(parameters))


def source_columns(
    connection: Connection, *, table: str = "", query: str = "", parameters: Parameters = ()
) -> list[dict[str, Any]]:
    """The columns of a read, as `column_from_json` takes them, without cost."""
    return _ask("source_columns", system=_saved(connection), table=table, query=query, parameters=_sent(parameters))


def preview(
    connection: Connection, *, table: str = "", query: str = "", parameters: Parameters = (), rules: Any = None
) -> dict[str, Any]:
    """The first 20 rows as text: columns (name, type) and rows, where None is NULL; with `rules` as a target has them.

    HMACs are made with a key of this one look.
    """
    told = {"table": table, "query": query, "parameters": _sent(parameters)}
    return _ask("preview", system=_saved(connection), rules=rules, **told)


def validate_pipeline(pipeline: Pipeline) -> list[Finding]:
    """What the live systems say against a pipeline, saved or not; see `look_ahead`."""
    return look_ahead(pipeline)[0]


def look_ahead(pipeline: Pipeline) -> tuple[list[Finding], dict[str, Any] | None]:
    """What the live systems say against a pipeline, saved or not; if nothing, what a run would do to its target.

    The pipeline takes note of its source's columns, so that a run can tell when one is gone or retyped, and of what a
    dry run says that a run bills.
    Raises LookupFailed if nobody could be asked: then nothing is known against it.
    """
    findings = []
    systems = {}
    for field in ("source", "destination"):
        try:
            systems[field] = _saved(getattr(pipeline, field))
        except LookupFailed as failure:
            findings.append(Finding(field, failure.code, failure.message, failure.hint))
    if findings:
        return findings, None
    parameters = given.sample_parameters(pipeline)
    try:
        target = given.target_of(pipeline, parameters)
    except ConnectorError as error:
        return [Finding(error.field, error.code, error.message, error.hint)], None
    answer = _ask(
        "validate",
        **systems,
        table=pipeline.source_table,
        query=pipeline.source_query,
        row_filter=pipeline.row_filter,
        schema=target.schema,
        target=target.table,
        disposition=pipeline.write_disposition,
        key=pipeline.merge_key,
        deletes=pipeline.deletes,
        cursor=pipeline.cursor_column,
        incremental=pipeline.incremental,
        initial=pipeline.initial_value,
        pipeline=str(pipeline.pk),
        adopt=pipeline.adopt_target,
        rules=pipeline.column_rules,
        options=pipeline.target_options.to_json(),
        undo_depth=pipeline.undo_depth,
        sql={name: getattr(pipeline, name) for name in ("sql_before", "sql_after", "sql_role")},
        parameters=_sent(parameters),
    )
    if answer["columns"] is not None:
        pipeline.source_columns = answer["columns"]
    pipeline.cost_estimate = answer.get("cost")
    forecast = answer["forecast"]
    if forecast is not None:
        forecast = {**forecast, "minds": [*forecast["minds"], *checks.minds(pipeline)]}
    findings = [Finding(**finding) for finding in answer["findings"]]
    return [each for each in findings if not schema_policies.is_followed(pipeline, each.code)], forecast


def range_bytes(pipeline: Pipeline, samples: Sequence[tuple[Parameters, Span | None]]) -> list[int | None]:
    """What reading each of these ranges scans, without cost: values of the query, and a range of its cursor."""
    return _ask(
        "range_bytes",
        system=_saved(pipeline.source),
        table=pipeline.source_table,
        query=pipeline.source_query,
        row_filter=pipeline.row_filter,
        samples=[[_sent(parameters), span and asdict(span)] for parameters, span in samples],
    )


def quarantined(pipeline: Pipeline, wanted: dict[str, Any]) -> dict[str, Any]:
    """A pipeline's quarantined rows of published runs.

    `counts` by target, column, code and state; `rows`, the newest of those wanted, `total` of them in all, in the
    `targets`.
    """
    return _ask("quarantined", system=_saved(pipeline.destination), pipeline=str(pipeline.pk), wanted=wanted)


def discard_quarantined(pipeline: Pipeline, wanted: dict[str, Any], *, by: str, note: str) -> dict[str, int]:
    """Close open rows of a pipeline's quarantine; says how many, and how many came later than `wanted` knows."""
    system = _saved(pipeline.destination)
    return _ask("discard_quarantined", system=system, pipeline=str(pipeline.pk), wanted=wanted, by=by, note=note)


def former_states(pipeline: Pipeline) -> list[dict[str, Any]]:
    """What is kept of the pipeline's targets for an undo: the fields of connectors.former.FormerState, as JSON."""
    return _ask("former_states", system=_saved(pipeline.destination), pipeline=str(pipeline.pk))


def drop_former(pipeline: Pipeline) -> dict[str, Any]:
    """Drop what is kept of the pipeline's targets: how many were `dropped`, and which are `left` (table, why)."""
    return _ask("drop_former", system=_saved(pipeline.destination), pipeline=str(pipeline.pk))


def comparison_cost(pipeline: Pipeline, parameters: Parameters | None = None) -> dict[str, Any]:
    """What comparing both sides would read, as a run with these values left it.

    `source`: bytes of one pass, least_billed, most_billed, no_snapshot (why it cannot be read as the last run read
    it; empty if it can), is_gone (it could once), is_unchanged (nothing of it changed since, by its own record);
    `target`: rows and bytes, about, None if there is no table; `snapshot_time`. Raises LookupFailed, code
    nothing_published, before the first run.
    """
    parameters = given.sample_parameters(pipeline) if parameters is None else parameters
    try:
        target = given.target_of(pipeline, tuple(parameters))
    except ConnectorError as error:
        raise LookupFailed(error.code, error.message, error.hint, error.field) from error
    return _ask(
        "comparison_cost",
        source=_saved(pipeline.source),
        destination=_saved(pipeline.destination),
        pipeline=str(pipeline.pk),
        table=pipeline.source_table,
        query=pipeline.source_query,
        row_filter=pipeline.row_filter,
        schema=target.schema,
        target=target.table,
        key=pipeline.merge_key,
        parameters=_sent(parameters),
    )


def _sent(parameters: Parameters) -> list[dict[str, Any]]:
    return [each.to_json() for each in parameters]


def _saved(connection: Connection) -> dict[str, Any]:
    if connection.has_lost_secrets:
        raise LookupFailed(
            "key_lost",
            f"The secrets of {connection.name} were encrypted with a key that is no longer set.",
            "Enter them again, or set ENCRYPTION_KEYS to include the old key.",
        )
    return _system(connection.kind, {**connection.options, **(connection.secrets or {})})


def _system(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    try:
        build(registry.options_type(kind), options)
    except ConnectorError as error:
        raise LookupFailed(error.code, error.message, error.hint, error.field) from error
    return {"kind": kind, "options": options}


def _ask(what: str, **details: Any) -> Any:
    """Put a question to the look-ups' workers and wait; raises LookupFailed."""
    deadline = time.monotonic() + WAIT_S
    question = fernet().encrypt(json.dumps({"what": what, **details}).encode()).decode()
    try:
        asked = look_up.apply_async([question], retry=False, expires=EXPIRES_S, confirm_timeout=broker.CONFIRM_S)
    except broker.failures() as error:
        raise LookupFailed(
            "broker_down", "Nobody could be asked: the message broker does not answer.", NO_BROKER
        ) from error
    nap = FIRST_NAP_S
    while True:
        meta = look_up.backend.get_task_meta(asked.id)
        if meta["status"] in states.READY_STATES:
            break
        if time.monotonic() + nap > deadline:
            # Should the answer still come, beat takes it away.
            raise _nobody_answered(started=meta["status"] == states.STARTED)
        time.sleep(nap)
        nap = min(nap * 1.5, LONGEST_NAP_S)
    with transaction.atomic():
        asked.forget()
    return _read(meta)


def _nobody_answered(*, started: bool) -> LookupFailed:
    if started:
        message = f"There was no answer within {WAIT_S:g} seconds."
        return LookupFailed("lookup_timeout", message, "Try again, or check the system's health.")
    return LookupFailed("no_worker", f"No worker took up the question within {WAIT_S:g} seconds.", NO_WORKER)


def _read(meta: dict[str, Any]) -> Any:
    answer = meta["result"] if meta["status"] == states.SUCCESS else None
    if not isinstance(answer, dict):
        raise LookupFailed("lookup_failed", "The look-up broke off.", "The log of the look-ups' worker says why.")
    if "error" in answer:
        raise LookupFailed(**answer["error"])
    return answer["ok"]
