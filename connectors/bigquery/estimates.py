"""What a read would bill: dry runs of the queries that it asks, and of one that scans what a read session scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from google.cloud import bigquery

from connectors.bigquery import bounds, query, ranges
from connectors.bigquery.client import Clients
from connectors.bigquery.digest import quote
from connectors.bigquery.errors import Doing
from connectors.bigquery.schema import TableRef, columns_of
from connectors.billing import LEAST_BILLED, Estimate, billed_for
from connectors.column import Column
from connectors.column_rules import narrowed
from connectors.cursor import CursorRead
from connectors.reading import ReadRequest

# From this size on a read may be divided, for which the partitions are listed.
_LISTED_FROM = 2 << 30
_NOT_TOLD = "BigQuery's dry run does not tell how many bytes it reads."


@dataclass
class _Sum:
    """Adds up what is known."""

    clients: Clients
    request: ReadRequest
    timeout_s: float
    query_bytes: int | None = 0
    storage_bytes: int | None = 0
    is_least: bool = False
    doing: Doing = field(default=query.QUERY)

    def ask(self, sql: str, *, times: int = 1) -> query.DryRun:
        """A query job, run so many times."""
        found = self.look(sql)
        known = found.known_bytes
        if known is None or self.query_bytes is None:
            self.query_bytes = None
        else:
            self.query_bytes += times * billed_for(known, len(found.tables))
        return found

    def read(self, sql: str) -> None:
        """A read session that scans what this query would."""
        self.storage_bytes = self.look(sql).known_bytes

    def look(self, sql: str) -> query.DryRun:
        found = query.dry_run(
            self.clients, sql, timeout_s=self.timeout_s, parameters=self.request.parameters, doing=self.doing
        )
        self.is_least |= found.accuracy == "LOWER_BOUND"
        return found

    def done(self) -> Estimate:
        unknown = self.query_bytes is None or self.storage_bytes is None
        return Estimate(self.query_bytes, self.storage_bytes, _NOT_TOLD if unknown else "", self.is_least)


def estimate(
    clients: Clients, request: ReadRequest, ref: TableRef | None, table: bigquery.Table | None, *, timeout_s: float
) -> Estimate:
    """What reading this bills: `ref` unless it is a query, `table` where that is a plain table.

    A query's result, and pages through REST, are read for nothing.
    """
    found = _Sum(clients, request, timeout_s)
    if ref is not None:
        found.doing = Doing(f"Table {ref}", field="table", permission="bigquery.tables.getData")
    is_paged = request.cursor is None and not request.row_filter
    if ref is not None and table is not None and (clients.has_storage or is_paged):
        _of_table(found, ref, table)
    elif ref is not None:
        _of_query(found, f"SELECT * FROM {bounds.as_of(ref.sql, None, row_filter=request.row_filter)}", request.cursor)
    else:
        _of_query(found, request.query, request.cursor)
    return found.done()


def _of_table(found: _Sum, ref: TableRef, table: bigquery.Table) -> None:
    request, columns = found.request, columns_of(table.schema)
    if not found.clients.has_storage:
        return
    source, condition = bounds.as_of(ref.sql, None, row_filter=request.row_filter), ""
    if request.cursor is not None:
        condition = _bounds(found, source, columns, request.cursor)
    elif request.row_filter:
        found.ask(f"SELECT COUNT(*) AS n FROM {source}")  # what the rows that arrive are compared with
    if condition or request.row_filter or request.skip or request.only:
        names = ", ".join(quote(column.name) for column in narrowed(columns, request)[0]) or "1"
        found.read(f"SELECT {names} FROM {source}{_where(condition)}")
    else:
        # Rows without bytes are those of a server that knows no sizes.
        found.storage_bytes = table.num_bytes if table.num_bytes or not table.num_rows else None
    is_divided = table.require_partition_filter or (table.num_bytes or 0) >= _LISTED_FROM
    if is_divided and found.query_bytes is not None and ranges.partitioning_of(table, columns) is not None:
        found.query_bytes += LEAST_BILLED


def _of_query(found: _Sum, sql: str, read: CursorRead | None) -> None:
    if read is None:
        found.ask(sql)
        return
    # On lines of its own: a query may end in a comment.
    source = f"(\n{sql}\n) AS t"
    columns = found.look(sql).columns
    condition = _bounds(found, source, columns, read)
    found.ask(f"SELECT * FROM {source}{_where(condition)}")


def _bounds(found: _Sum, source: str, columns: Sequence[Column], read: CursorRead) -> str:
    """Count in what finding the rows of a cursor bills; gives the condition that they meet, empty for all."""
    if read.span is not None:
        condition = bounds.within(read.span, columns)
        found.ask(f"SELECT COUNT(*) AS n FROM {source}{_where(condition)}")
        return condition
    condition = bounds.newer(read, columns)
    # The newest rows are counted by themselves where they wait for the next run.
    found.ask(f"SELECT COUNT(*) AS n, MAX({quote(read.column)}) AS top FROM {source}", times=2 if read.settles else 1)
    return condition


def _where(condition: str) -> str:
    return f" WHERE {condition}" if condition else ""
