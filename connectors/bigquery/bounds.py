"""How far a cursor column reaches, and which rows are new: counted by BigQuery at the snapshot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from google.cloud import bigquery

from connectors import cursor
from connectors import row_filter as filters
from connectors.bigquery.digest import quote
from connectors.column import Column
from connectors.counts import counted
from connectors.cursor import CursorRead, Interval, Span
from connectors.errors import ConnectorError
from connectors.sides import Reach

Ask = Callable[[str], tuple[dict[str, int | None], bigquery.QueryJob]]


@dataclass(frozen=True)
class Bounds:
    """What to read: rows that all of `conditions` hold for, where `{c}` is the cursor; `facts` go to the receipt."""

    interval: Interval
    conditions: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def restriction(self) -> str:
        """As the Storage Read API takes it, which knows no name of the table; empty for all rows."""
        return _all(self.conditions, quote(self.interval.column).removeprefix("t."))

    @property
    def for_query(self) -> str:
        """As a query over the source takes it, with the upper bound that rows must not pass meanwhile."""
        interval = self.interval
        if not interval.high:
            upper = "{c} IS NULL"
        else:
            upper = _up_to(interval.type, cursor.number_of(interval.high, interval.type))
            upper = upper if interval.low else f"({upper} OR {{c}} IS NULL)"
        return _all((*self.conditions, upper), quote(interval.column))


def find(read: CursorRead, columns: tuple[Column, ...], source: str, snapshot: datetime, ask: Ask) -> Bounds:
    """Fix which rows of `source` (GoogleSQL for a table named `t`) a run reads.

    Raises ConnectorError: cursor_column_missing, cursor_type, cursor_value, or null_cursor where rows
    without a cursor could never be told apart from new ones.
    """
    column = cursor.find_column(columns, read.column)
    name, type_ = quote(column.name), column.type
    if read.span is not None:
        return _find_span(read, column, source, ask)
    watermark = cursor.number_of(read.watermark, type_) if read.watermark else None
    low = _low(read, type_)
    above = _above(type_, low, is_initial=watermark is None)
    found, job = ask(
        f"SELECT COUNT(*) AS n, COUNTIF({name} IS NULL) AS z, {cursor.number_sql(f'MAX({name})', type_)} AS top,"
        f" {_count(name, _up_to(type_, watermark))} AS below, {_count(name, above)} AS above FROM {source}"
    )
    jobs = [job]
    rows, nulls, top = found["n"] or 0, found["z"] or 0, found["top"]
    if nulls and read.settles:
        raise ConnectorError(
            f"{counted(nulls)} {'has' if nulls == 1 else 'have'} no {column.name}: appending by cursor would never know"
            " which of them are new.",
            hint=f"Fill {column.name} in, leave such rows out with a query, or merge by a key.",
            code="null_cursor",
            field=cursor.FIELD,
        )
    high = None if top is None else cursor.settled(top, type_, read, snapshot)
    interval = Interval(
        column.name,
        type_,
        low="" if low is None else cursor.text_of(low, type_),
        high="" if high is None else cursor.text_of(high, type_),
        includes_low=watermark is None and low is not None,
        rows=found["above"] if low is not None else rows,
        through=rows - nulls,
        below=found["below"] or 0,
        nulls=nulls,
    )
    conditions = [above] if above else []
    if high is not None and high != top:
        # The newest rows stay for the next run: they are counted by themselves.
        upper = _up_to(type_, high)
        found, job = ask(
            f"SELECT {_count(name, upper)} AS through, {_count(name, above, upper)} AS fresh FROM {source}"
        )
        jobs.append(job)
        through = found["through"] or 0
        interval = replace(interval, rows=found["fresh"] or 0, through=through, left=rows - nulls - through)
        conditions.append(upper)
    facts = {
        "cursor_jobs": [job.job_id for job in jobs],
        "cursor_bytes_billed": sum(job.total_bytes_billed or 0 for job in jobs),
    }
    return Bounds(interval, tuple(conditions), facts)


def _find_span(read: CursorRead, column: Column, source: str, ask: Ask) -> Bounds:
    """A past range, whole: its ends are given, its rows are counted."""
    name, type_ = quote(column.name), column.type
    low, last = cursor.span_numbers(read, type_)
    conditions = (_above(type_, low, is_initial=True), _up_to(type_, last))
    found, job = ask(f"SELECT COUNT(*) AS n FROM {source} WHERE {_all(conditions, name)}")
    interval = Interval(
        column.name,
        type_,
        low=cursor.text_of(low, type_),
        high=cursor.text_of(last, type_),
        includes_low=True,
        rows=found["n"] or 0,
    )
    return Bounds(
        interval, conditions, {"cursor_jobs": [job.job_id], "cursor_bytes_billed": job.total_bytes_billed or 0}
    )


def newer(read: CursorRead, columns: Sequence[Column]) -> str:
    """The condition that a row is not known yet, as it stands in GoogleSQL; empty for all rows."""
    column = cursor.find_column(tuple(columns), read.column)
    above = _above(column.type, _low(read, column.type), is_initial=not read.watermark)
    return _all((above,), quote(column.name))


def _low(read: CursorRead, type_: str) -> int | None:
    """Where reading begins; None for all rows."""
    if read.watermark:
        return cursor.number_of(read.watermark, type_) - cursor.reach(read.lookback, type_)
    return cursor.number_of(read.initial, type_, field="initial_value") if read.initial else None


def within(span: Span, columns: Sequence[Column]) -> str:
    """The condition that a row is of a past range, as it stands in GoogleSQL."""
    column = cursor.find_column(tuple(columns), span.column)
    low, high = cursor.number_of(span.low, column.type), cursor.number_of(span.high, column.type)
    conditions = (_above(column.type, low, is_initial=True), _up_to(column.type, high - 1))
    return _all(conditions, quote(column.name))


def reached(name: str, reach: Reach, columns: Sequence[Column]) -> str:
    """The condition that a row was read by some run, if it was there then."""
    column = cursor.find_column(tuple(columns), name)
    quoted, type_ = quote(column.name), column.type
    upper = _up_to(type_, cursor.number_of(reach.watermark, type_) if reach.watermark else None)
    if reach.initial:
        low = _above(type_, cursor.number_of(reach.initial, type_, field="initial_value"), is_initial=True)
        return _all((low, upper or "FALSE"), quoted)
    return _all((f"({upper} OR {{c}} IS NULL)" if upper else "{c} IS NULL",), quoted)


def as_of(table_sql: str, snapshot: datetime | None, *, row_filter: str = "") -> str:
    """Those rows of the table that the filter lets through, named `t`, as they were at `snapshot`; None: as they are.

    A filter names columns as they are, whatever they are called: nothing beside them may have a likely name.
    """
    condition = filters.condition(row_filter)
    named = f"{table_sql} AS {'datamantri_rows' if condition else 't'}"
    if snapshot is not None:
        moment = snapshot.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
        named += f" FOR SYSTEM_TIME AS OF TIMESTAMP '{moment}'"
    return f"(SELECT * FROM {named} WHERE {condition}) AS t" if condition else named


def _above(type_: str, low: int | None, *, is_initial: bool) -> str:
    return "" if low is None else f"{{c}} {'>=' if is_initial else '>'} {cursor.literal(low, type_)}"


def _up_to(type_: str, high: int | None) -> str:
    return "" if high is None else f"{{c}} <= {cursor.literal(high, type_)}"


def _all(conditions: Sequence[str], name: str) -> str:
    return " AND ".join(dict.fromkeys(filter(None, conditions))).replace("{c}", name)


def _count(name: str, *conditions: str) -> str:
    text = _all(conditions, name)
    return f"COUNTIF({text})" if text else "0"
