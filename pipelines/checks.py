"""What a pipeline's rows must pass: reading, checking and writing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from django.db import Error as DatabaseError
from django.db import connection, transaction

from connectors import check_rules, column_rules
from connectors.checks import LABELS, Check, CheckKind, Severity
from connectors.column import column_from_json
from connectors.errors import ConnectorError
from pipelines import models, sql_rights, tidy
from pipelines.models import Pipeline, PipelineState
from pipelines.objections import PipelineRefused
from pipelines.schedules import span_in_words

FIELD = "checks"
# What BigQuery bills a query at least.
LEAST_BILLED = 10 << 20
NAMES = tuple(field.name for field in fields(Check))
_LISTS = ("columns", "values", "table_columns")


def spec_of(row: Any) -> Check:
    """A check as a person states it, from a row or a form's instance."""
    return from_values({name: getattr(row, name) for name in NAMES})


def from_values(given: Mapping[str, Any]) -> Check:
    """The check in plain values, in the one form it is stored in."""
    values = {name: given[name] for name in NAMES if name in given}
    values |= {name: tuple(values[name]) for name in _LISTS if name in values}
    check = Check(**{**values, "kind": CheckKind(values["kind"]), "severity": Severity(values.get("severity", "hold"))})
    return replace(
        check,
        name=" ".join(check.name.split()),
        columns=tuple(map(tidy.name, check.columns)),
        table_columns=tuple(name.strip() for name in check.table_columns),
        table=check.table.strip(),
        minimum=check.minimum.strip(),
        maximum=check.maximum.strip(),
        query=check.query.replace("\r\n", "\n").strip(),
    )


def checks_of(pipeline: Pipeline) -> list[Check]:
    return [spec_of(row) for row in models.Check.objects.filter(pipeline=pipeline)]


def for_definition(pipeline: Pipeline) -> dict[str, Any]:
    """What a definition says of checks: nothing where there are none, as before there could be any."""
    found = checks_of(pipeline)
    return {FIELD: [check.to_json() for check in found]} if found else {}


def of_definition(definition: Mapping[str, Any]) -> tuple[Check, ...]:
    return tuple(map(Check.from_json, definition.get(FIELD, ())))


def in_words(check: Check) -> str:
    """All that a check says, after its name."""
    told = [LABELS[check.kind]]
    told += [f"on {', '.join(check.columns)}"] if check.columns else []
    told += [f"one of {', '.join(check.values)}"] if check.values else []
    told += [f"from {check.minimum}"] if check.minimum else []
    told += [f"to {check.maximum}"] if check.maximum else []
    told += [f"like {check.pattern}"] if check.pattern else []
    told += [f"found in {check.table} ({', '.join(check.table_columns)})"] if check.table else []
    told += (
        [f"within {check.percent} % of the last {'run' if check.runs == 1 else f'{check.runs} runs'}"]
        if check.percent is not None
        else []
    )
    told += [f"not older than {span_in_words(check.max_age_s)}"] if check.max_age_s is not None else []
    told += [" ".join(check.query.split())] if check.query else []
    told += ["only warns"] if check.severity is Severity.WARN else []
    told += ["bad rows go into quarantine"] if check.severity is Severity.QUARANTINE else []
    return ", ".join(told)


def minds(pipeline: Pipeline) -> list[str]:
    """What a person should know of what a pipeline's checks cost, by the look-up that went before."""
    if not any(check.kind is CheckKind.CHECKSUM for check in checks_of(pipeline)):
        return []
    found: Mapping[str, Any] = pipeline.cost_estimate or {}
    known = [found.get(name) for name in ("query_bytes", "storage_bytes")]
    most = "an unknown number of bytes"
    if None not in known:
        most = f"{max(sum(known), LEAST_BILLED) / 1e6:,.0f} MB"  # type: ignore[arg-type]
    return [f"A checksum reads columns of the source once more: BigQuery bills up to {most} for it at every run."]


# Checks of checks -----------------------------------------------------------------------------


def against(pipeline: Pipeline, checks: Sequence[Check]) -> list[tuple[int, PipelineRefused]]:
    """What `replace_all` would refuse, by the number of the check; `field` is the check's own."""
    if not checks:
        return []
    found = [*check_rules.objections_of_all(checks)]
    columns = _loaded_columns(pipeline)
    masked = _masked(pipeline)
    for number, check in enumerate(checks):
        wrong = [*check_rules.objections(check)]
        if not wrong:
            wrong += [] if columns is None else [*check_rules.objections_of_columns(check, columns)]
            wrong += [*_against_skipped(check, pipeline, columns is None), *_against_masked(check, masked)]
            wrong += [*_against_pattern(check), *_against_quarantine(check, pipeline)]
        found += [(number, error) for error in wrong]
    return [(number, PipelineRefused(e.code, e.message, e.hint, e.field)) for number, e in found]


def _loaded_columns(pipeline: Pipeline) -> Sequence[Any] | None:
    """The source's columns as runs load them, None where nobody has seen them."""
    if not pipeline.source_columns:
        return None
    rules, _ = column_rules.from_json(pipeline.column_rules)
    return column_rules.judge([column_from_json({"columns": (), **each}) for each in pipeline.source_columns], rules)[0]


def _against_skipped(check: Check, pipeline: Pipeline, is_due: bool) -> Iterator[ConnectorError]:
    """Columns that are not there are told anyway, once the source's are known."""
    rules, _ = column_rules.from_json(pipeline.column_rules)
    skipped = {name.lower() for name in column_rules.skipped(rules)} if is_due else set()
    for name in check.columns:
        if name.lower() in skipped:
            message = f"Column {name} is skipped: it is not loaded."
            yield ConnectorError(message, hint="Read it, or leave it out.", code="check_invalid", field="columns")


def _masked(pipeline: Pipeline) -> set[str]:
    """Columns that reach the destination as something else than they are."""
    rules, _ = column_rules.from_json(pipeline.column_rules)
    return {name.lower() for name, rule in rules.items() if getattr(rule, "mask", None)}


def _against_masked(check: Check, masked: set[str]) -> Iterator[ConnectorError]:
    if check.kind in (CheckKind.NOT_NULL, CheckKind.UNIQUE):
        return
    for name in check.columns:
        if name.lower() in masked:
            message = f"Column {name} is masked: a check would see the mask, not the value."
            hint = "Only not null and unique mean something of it."
            yield ConnectorError(message, hint=hint, code="check_invalid", field="columns")


def _against_quarantine(check: Check, pipeline: Pipeline) -> Iterator[ConnectorError]:
    if check.severity is Severity.QUARANTINE and not pipeline.quarantine:
        message = "This pipeline has no quarantine that bad rows could go into."
        hint = "Tick 'put rows that cannot be stored into quarantine', or let the check hold the run."
        yield ConnectorError(message, hint=hint, code="check_invalid", field="severity")


def _against_pattern(check: Check) -> Iterator[ConnectorError]:
    """Our own database has the same regular expressions."""
    if not check.pattern:
        return
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 1000")
            cursor.execute("SELECT '' ~ %s", [check.pattern])
            transaction.set_rollback(True)
    except DatabaseError as error:
        said = str(error).splitlines()[0]
        yield ConnectorError(f"PostgreSQL does not take it: {said}.", code="check_invalid", field="pattern")


def place_of(number: int, refused: PipelineRefused) -> PipelineRefused:
    """The same refusal, at the place that a list of checks has for it."""
    return PipelineRefused(refused.code, str(refused), refused.hint, f"{FIELD}.{number}.{refused.field}")


# Writes ---------------------------------------------------------------------------------------


def keep_or_replace(
    pipeline: Pipeline, checks: Sequence[Check] | None, *, before: Pipeline | None, by: Any = None
) -> None:
    """Let a pipeline have these checks and no others, None: those it has; the caller holds the row lock.

    Raises PipelineRefused, also where those it has do not go with columns that are others than before, and where
    `by` may not write SQL.
    """
    if checks is None and (before is None or _reads(before) == _reads(pipeline)):
        return
    there = checks_of(pipeline)
    wanted = there if checks is None else list(checks)
    moves = before is not None and before.destination_id != pipeline.destination_id
    new = [check for check in wanted if check.kind is CheckKind.SQL and (moves or check not in there)]
    if new and not sql_rights.may_write(by):
        raise sql_rights.refused(FIELD)
    for number, refused in against(pipeline, wanted) if pipeline.state != PipelineState.ARCHIVED else ():
        raise place_of(number, refused)
    if there != wanted:
        models.Check.objects.filter(pipeline=pipeline).delete()
        models.Check.objects.bulk_create(models.Check(pipeline=pipeline, **_columns(check)) for check in wanted)


def _reads(pipeline: Pipeline) -> tuple[Any, ...]:
    return pipeline.source_columns, pipeline.column_rules, pipeline.destination_id, pipeline.quarantine


def _columns(check: Check) -> dict[str, Any]:
    return {name: list(value) if isinstance(value := getattr(check, name), tuple) else value for name in NAMES}
