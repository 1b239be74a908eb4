"""Whether a table is better read in ranges of its partitions than in streams, and in which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.cloud import bigquery

from connectors import row_filter as filters
from connectors.bigquery import ranges
from connectors.bigquery.bounds import Bounds
from connectors.bigquery.ranges import Partitioning, Range
from connectors.bigquery.schema import TableRef
from connectors.column import Column
from connectors.errors import ConnectorError, Stopped
from connectors.reading import Part

Listed = tuple[str | None, int, int]
List = Callable[[str], tuple[list[Listed], bigquery.QueryJob]]


@dataclass(frozen=True)
class Ranged:
    """Parts that are ranges of `by`, or none; `largest` is the condition that the rows of the first one meet.

    `facts` go to the receipt, `warnings` to the log.
    """

    by: Partitioning
    parts: tuple[Part, ...] = ()
    largest: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def choose(
    ref: TableRef,
    table: bigquery.Table,
    columns: Sequence[Column],
    found: Bounds | None,
    *,
    workers: int,
    spread: bool,
    list_rows: List,
) -> Ranged | None:
    """Ranges where the rows are to be spread over workers and there are enough of them, or where a filter is required.

    `list_rows` runs a query; it is asked only where ranges may come of it.
    """
    by = ranges.partitioning_of(table, columns)
    must = bool(table.require_partition_filter)
    if by is None or not (must or (spread and _is_large(table, found, workers))):
        return None
    try:
        rows, job = list_rows(ranges.listing(ref))
    except ConnectorError as error:
        if error.transient or isinstance(error, Stopped):
            raise
        return Ranged(by, warnings=(_not_listed(ref, error),))
    facts = {"partitions_job": job.job_id, "partitions_bytes_billed": job.total_bytes_billed}
    interval = found.interval if found is not None and found.restriction else None
    by_cursor = interval is not None and interval.column == by.column
    is_required = any(column.name == by.column and column.required for column in columns)
    partitions = ranges.listed(rows, by, table, interval if by_cursor else None)
    parts = ranges.divide(partitions, by, workers=workers, reads_nulls=not by_cursor and not is_required, must=must)
    first = Range.parse(parts[0].id) if parts else None
    if first is None:
        return Ranged(by, facts=facts)
    return Ranged(by, parts, first.condition(by.sql, by.type), {**facts, "parts_by": by.column})


def refuse_lacking(ref: TableRef, table: bigquery.Table, row_filter: str) -> None:
    """Raise ConnectorError, code partition_filter_required, where the table asks for a filter that is not there."""
    if not table.require_partition_filter:
        return
    by, time = table.range_partitioning, table.time_partitioning
    column = by.field if by is not None else time.field if time is not None else None
    filters.refuse_lacking(row_filter, f"Table {ref}", column or ranges.PSEUDO_COLUMN)


def _is_large(table: bigquery.Table, found: Bounds | None, workers: int) -> bool:
    """Whether there may be as many parts of a sensible size as workers."""
    rows = table.num_rows if found is None or found.interval.rows is None else found.interval.rows
    return 2 * (rows or 0) * ranges.row_bytes(table) >= workers * ranges.PART_BYTES_LEAST


def _not_listed(ref: TableRef, why: ConnectorError) -> str:
    reason = why.message.rstrip(".")
    return f"The partitions of {ref} cannot be listed: {reason}. It is read in streams, which last six hours."
