"""What a backfill would do: whether this pipeline can be filled in, from where to where, in which slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from connectors import cursor
from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition
from connectors.parameters import given_to
from pipelines import given, queries, schedules
from pipelines.models import Pipeline, PipelineState
from runs import giving, steps
from runs.models.backfills import Backfill, BackfillKind
from runs.page_queries import watermark_of


@dataclass(frozen=True)
class Wish:
    """What somebody asks for: [low, high) in steps; without ends, all there is to fill in."""

    low: str = ""
    high: str = ""
    step: str = "1 day"
    zone: str = "UTC"
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What it comes to. `remarks` say where the range is not what was asked for."""

    kind: str
    type: str
    step: steps.Step
    zone: str
    slices: list[tuple[str, str]]
    parameters: Mapping[str, Any]
    remarks: tuple[str, ...] = ()

    @property
    def low(self) -> str:
        return self.slices[0][0]

    @property
    def high(self) -> str:
        return self.slices[-1][1]


class Refused(Exception):
    """What stands against a backfill, field by field; "" is the whole."""

    def __init__(self, errors: Mapping[str, ConnectorError]) -> None:
        super().__init__("refused")
        self.errors = dict(errors)


def kind_of(pipeline: Pipeline) -> str:
    """What a slice of this pipeline is a range of; raises ConnectorError, with a hint, where it has no slices."""
    if pipeline.state == PipelineState.ARCHIVED:
        raise ConnectorError(f"{pipeline.name} is archived.", hint="Restore it first.", code="pipeline_archived")
    if pipeline.incremental:
        return BackfillKind.CURSOR
    if not given.query_uses_interval(pipeline):
        raise ConnectorError(
            f"Every run of {pipeline.name} reads all rows: there is no range to fill in.",
            hint="Run it once, or start a full refresh. Ranges are for pipelines that read only new rows by a cursor,"
            " and for queries that name @data_interval_start and @data_interval_end.",
            code="backfill_no_range",
        )
    if pipeline.write_disposition == WriteDisposition.APPEND:
        raise ConnectorError(
            f"{pipeline.name} appends what its query gives for an interval: a second time, rows would be there twice.",
            hint="Read only new rows by a cursor, which tells the rows of a range; or merge by a key; or replace, into"
            " a table for each interval.",
            code="backfill_would_double",
        )
    if pipeline.write_disposition == WriteDisposition.REPLACE and not given.name_uses_interval(pipeline):
        raise ConnectorError(
            f"Every run of {pipeline.name} replaces its whole table: only the last range would be left.",
            hint="Give each interval a table, such as events_{data_interval_start:%Y%m%d}; or merge by a key.",
            code="backfill_would_replace",
        )
    return BackfillKind.INTERVAL


def plan(pipeline: Pipeline, wish: Wish) -> Plan:
    """Cut the range that is asked for into slices; raises Refused."""
    try:
        kind = kind_of(pipeline)
    except ConnectorError as error:
        raise Refused({"": error}) from error
    values, wrong = given_to(given.declared_by(pipeline), wish.parameters)
    errors = {f"parameters.{name}": error for name, error in wrong.items()} | _of_an_append(pipeline, kind, values)
    try:
        ZoneInfo(wish.zone)
    except (LookupError, ValueError, OSError):
        errors["zone"] = ConnectorError(
            f"{wish.zone} is no time zone.", hint="Write it like Europe/Berlin.", code="bad_rule", field="zone"
        )
    if errors:
        raise Refused(errors)
    try:
        type_ = _type_of(pipeline) if kind == BackfillKind.CURSOR else "TIMESTAMP"
        step = steps.read(wish.step, type_)
        limit, why = _limit(pipeline, kind, type_)
        low, high, remarks = _ends(wish, type_, limit, why)
        slices = steps.cut(low, high, step, type_, wish.zone)
        found = Plan(kind, type_, step, wish.zone, slices, values, remarks)
        _refuse_same_names(pipeline, slices, values)
    except ConnectorError as error:
        raise Refused({error.field if error.field in ("low", "high", "step") else "": error}) from error
    return found


def objection(backfill: Backfill, pipeline: Pipeline, slices: list[tuple[str, str]]) -> str:
    """Why no further slice may start of a backfill whose pipeline was changed meanwhile; empty if one may.

    `slices` are those whose names are to be told apart.
    """
    try:
        kind = kind_of(pipeline)
        values, wrong = given_to(given.declared_by(pipeline), backfill.parameters)
        for error in (wrong | _of_an_append(pipeline, kind, values)).values():
            raise error
        if kind != backfill.kind:
            raise ConnectorError(f"What a slice of {pipeline.name} is has changed.", hint="Cancel, and start another.")
        _refuse_same_names(pipeline, slices, values)
    except ConnectorError as error:
        return f"The pipeline was changed: {error.message} {error.hint}".strip()
    return ""


def _of_an_append(pipeline: Pipeline, kind: str, values: Mapping[str, Any]) -> dict[str, ConnectorError]:
    """An append's slice deletes all rows of its range, those too that its query does not give with other values."""
    if kind != BackfillKind.CURSOR or pipeline.write_disposition != WriteDisposition.APPEND:
        return {}
    error = ConnectorError(
        f"A backfill of {pipeline.name} deletes all rows of its range: with this, other rows would not come back.",
        hint="Fill the range in with the defaults, or make a pipeline of its own for these rows.",
        code="backfill_values",
    )
    return {f"parameters.{name}": error for name in giving.other_values(pipeline, values)}


def _type_of(pipeline: Pipeline) -> str:
    for column in pipeline.source_columns or ():
        if column["name"].lower() == pipeline.cursor_column.lower():
            return str(column["type"])
    raise ConnectorError(
        f"What type {pipeline.cursor_column} has is not known here.",
        hint="Save the pipeline once while its source answers.",
        code="backfill_columns_unknown",
    )


def _limit(pipeline: Pipeline, kind: str, type_: str) -> tuple[int, str]:
    """Where the past ends, and what it is called."""
    if kind == BackfillKind.INTERVAL:
        now = queries.database_now().replace(microsecond=0)
        return cursor.number_of(now.isoformat(), type_), "now"
    watermark = watermark_of(pipeline)
    if not watermark:
        raise ConnectorError(
            "Nothing was loaded yet: there is no past to fill in.",
            hint="Run the pipeline first; its first run reads all rows from its initial value on.",
            code="backfill_no_watermark",
        )
    return cursor.number_of(watermark, type_) + 1, f"the watermark, {watermark}"


def _ends(wish: Wish, type_: str, limit: int, why: str) -> tuple[str, str, tuple[str, ...]]:
    """The range, which ends where the past does."""
    _refuse_too_early(wish.low, type_)
    low = cursor.number_of(_with_zone(wish.low, wish.zone, type_), type_, field="low")
    high = (
        cursor.number_of(_with_zone(wish.high, wish.zone, type_), type_, field="high") if wish.high.strip() else limit
    )
    if low >= limit:
        raise ConnectorError(
            f"{wish.low} is beyond {why}: that is no past.",
            hint="What comes then is for the next runs.",
            code="backfill_beyond_watermark",
            field="low",
        )
    if high <= limit:
        return cursor.text_of(low, type_), cursor.text_of(high, type_), ()
    remark = f"It ends at {why}: what is beyond comes with the next runs."
    return cursor.text_of(low, type_), cursor.text_of(limit, type_), (remark,)


def _refuse_too_early(low: str, type_: str) -> None:
    """Too late is beyond the watermark, or now."""
    try:
        moment = datetime.fromisoformat(low.strip()).replace(tzinfo=UTC)
    except ValueError:
        return  # no time, which is told elsewhere
    if type_ != "INT64" and moment < schedules.EARLIEST:
        raise ConnectorError(
            schedules.OUTSIDE, hint="Give the earliest that there is.", code="interval_outside", field="low"
        )


def _with_zone(text: str, zone: str, type_: str) -> str:
    """A TIMESTAMP that was typed without a zone is meant on the clocks of the one that was chosen."""
    if type_ != "TIMESTAMP":
        return text
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return text
    aware = moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))
    try:
        return aware.astimezone(UTC).isoformat(sep=" ")
    except OverflowError:
        return moment.replace(tzinfo=UTC).isoformat(sep=" ")  # the last hours that there are


def _refuse_same_names(pipeline: Pipeline, slices: list[tuple[str, str]], values: Mapping[str, Any]) -> None:
    """Slices that replace must each have a table of their own."""
    if pipeline.write_disposition != WriteDisposition.REPLACE:
        return
    names: dict[str, str] = {}
    for low, high in slices:
        own = given.built_in(
            datetime.fromisoformat(low), datetime.fromisoformat(high), datetime.fromisoformat(high), ""
        )
        target = str(given.target_of(pipeline, given.resolved_of(pipeline, values, own)))
        other = names.setdefault(target, low)
        if other != low:
            raise ConnectorError(
                f"The slices from {other} and from {low} would both replace {target}.",
                hint="Choose a step as long as the name tells apart: one table for each slice.",
                code="backfill_same_target",
                field="step",
            )
