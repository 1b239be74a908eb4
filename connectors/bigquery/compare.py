"""BigQuery as one side of a comparison: what reading it would cost, and the numbers themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from google.cloud import bigquery

from connectors import masks
from connectors.base import NeverStop, StopSignal
from connectors.bigquery import bounds, digest, pages, query
from connectors.bigquery.client import REUSE_ONCE, Clients
from connectors.bigquery.errors import Doing, explained
from connectors.bigquery.schema import columns_of, parse_table
from connectors.billing import NOT_METERED, Meter
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.parameters import Parameter
from connectors.reading import ReadRequest
from connectors.sides import COLUMNS_A_QUERY, Bucket, ColumnDigest, Cost, Keyed, Row, Scope, Survey, TableDigest
from connectors.types import bigquery_text

_PINNABLE = ("TABLE", "SNAPSHOT")
# So many calls of tables.get are made at most to see whether anything changed.
_TABLES_LOOKED_AT = 20
# Last-modified times are told in milliseconds, cut off.
_TOLD_TO = timedelta(milliseconds=1)
_DEPENDS_ON_MORE = re.compile(r"\b(CURRENT_\w+|RAND|GENERATE_UUID|SESSION_USER|EXTERNAL_QUERY)\b", re.IGNORECASE)


def source_of(request: ReadRequest, project: str, scope: Scope, columns: Sequence[Column]) -> str:
    """GoogleSQL for the rows of `scope`, named `t`."""
    if request.query:
        # On lines of its own: a query may end in a comment.
        rows = f"(\n{request.query}\n) AS t"
    else:
        rows = bounds.as_of(parse_table(request.table, project).sql, scope.at, row_filter=request.row_filter)
    if scope.reach is None and not scope.newest_of:
        return rows
    read = "TRUE" if scope.reach is None else bounds.reached(scope.cursor, scope.reach, columns)
    if not scope.newest_of:
        return f"(SELECT * FROM {rows} WHERE {read}) AS t"
    key = {name.lower() for name in scope.newest_of}
    # Of a masked key the values themselves tell what is one row, as their masks do.
    found = [masks.declared(column) for column in columns if column.name.lower() in key]
    texts = [str(digest.text_of(column, scope.text_policy)) for column in found]
    newest = f" ORDER BY {digest.quote(scope.cursor)} DESC NULLS LAST" if scope.cursor else ""
    only = f"ROW_NUMBER() OVER (PARTITION BY {', '.join(texts)}{newest}) = 1"
    return f"(SELECT * FROM {rows} WHERE {read} QUALIFY {only}) AS t"


class BigQuerySide:
    """A table or query at one moment; each answer is a query job, billed for the columns it reads."""

    def __init__(
        self,
        clients: Clients,
        request: ReadRequest,
        scope: Scope,
        columns: Sequence[Column],
        cost: Cost,
        *,
        timeout_s: float,
        stop: StopSignal | None = None,
        meter: Meter = NOT_METERED,
    ) -> None:
        self._clients = clients
        self._request = request
        self._policy = scope.text_policy
        self._source = source_of(request, clients.options.project, scope, columns)
        self._cost = cost
        self._timeout_s = timeout_s
        self._stop = stop or NeverStop()
        self._meter = meter
        self._doing = Doing(
            f"Comparing {request.table or 'the query'}", field="table", permission="bigquery.jobs.create"
        )

    def digest(self, columns: Sequence[Column]) -> TableDigest:
        rows = 0
        digests: list[ColumnDigest] = []
        for start in range(0, max(1, len(columns)), COLUMNS_A_QUERY):
            group = columns[start : start + COLUMNS_A_QUERY]
            (found,) = self._ask(digest.statement(self._source, group, self._policy))
            rows = found["n"]
            digests += [
                # A sum over no rows is NULL.
                ColumnDigest(column.name, found[f"z{i}"], (found[f"s{i}"] or 0) if f"s{i}" in found else None)
                for i, column in enumerate(group)
            ]
        return TableDigest(rows, tuple(digests))

    def buckets(self, keyed: Keyed) -> Mapping[int, Bucket]:
        found = self._ask(digest.bucket_statement(self._source, keyed, self._policy))
        return {row["b"]: Bucket(row["n"], row["s"]) for row in found}

    def hashes(self, keyed: Keyed, chosen: Sequence[int]) -> Iterator[tuple[int, int]]:
        for row in self._ask(digest.hash_statement(self._source, keyed, self._policy, chosen)):
            yield row["k"], row["h"]

    def rows(self, keyed: Keyed, keys: Sequence[int]) -> Sequence[Row]:
        found = self._ask(digest.row_statement(self._source, keyed, self._policy, keys))
        count = len(keyed.columns)
        return [Row(row["k"], tuple(row["h"].split(",")), tuple(row[f"t{i}"] for i in range(count))) for row in found]

    def _ask(self, sql: str) -> Iterator[dict[str, Any]]:
        """The rows of a query by name."""
        job = query.run(
            self._clients,
            sql,
            timeout_s=self._timeout_s,
            parameters=self._request.parameters,
            job_key=self._request.job_key,
            labels=self._request.labels,
            maximum_bytes_billed=self._left(),
            stop=self._stop,
            doing=self._doing,
            meter=self._meter,
        )
        self._cost.jobs.append(job.job_id)
        self._cost.bytes_processed += job.total_bytes_processed or 0
        self._cost.bytes_billed += job.total_bytes_billed or 0
        source = pages.PageSource.of_job(job)
        for batch in pages.read_pages(
            self._clients, source, start=0, stop=self._stop, timeout_s=self._timeout_s, doing=self._doing
        ):
            yield from batch.to_pylist()

    def _left(self) -> int | None:
        """What the next query may bill of what the whole comparison may."""
        limit = self._request.maximum_bytes_billed
        if limit is None:
            return None
        # What the run's other queries were billed counts as well.
        billed = max(self._cost.bytes_billed, self._meter.bill.query_bytes)
        if billed >= limit:
            raise ConnectorError(
                f"{self._doing.thing} has been billed for {billed:,} bytes, which was the limit.",
                hint="The source may have grown since the cost was told. Compare again with a higher limit.",
                code="bytes_billed_limit",
            )
        return limit - billed


def survey(clients: Clients, request: ReadRequest, at: datetime | None, *, timeout_s: float) -> Survey:
    """Find out, without cost, what a comparison would read as it was `at`, or of what is there now.

    Raises ConnectorError, code snapshot_gone, when BigQuery no longer has the table as it was then.
    """
    if request.query:
        why = "a query cannot be read as it was: BigQuery keeps the past of tables, not of queries"
        return _survey_query(clients, request.query, at, why, query.QUERY, timeout_s, request.parameters)
    ref = parse_table(request.table, clients.options.project)
    doing = Doing(f"Table {ref}", field="table", permission="bigquery.tables.getData")
    table = None
    if not ref.is_wildcard:
        with explained(Doing(f"Table {ref}", field="table", permission="bigquery.tables.get")):
            table = clients.rest.get_table(ref.reference, retry=REUSE_ONCE, timeout=timeout_s)
    if table is None or table.table_type not in _PINNABLE:
        kind = "several tables" if table is None else f"a {table.table_type.lower().replace('_', ' ')}"
        why = f"{ref} is {kind}: BigQuery keeps the past of plain tables only"
        rows = source_of(request, clients.options.project, Scope(), ())
        return _survey_query(clients, f"SELECT * FROM {rows}", at, why, doing, timeout_s)
    source = source_of(request, clients.options.project, Scope(at=at), ())
    found = query.dry_run(clients, f"SELECT * FROM {source}", timeout_s=timeout_s, doing=doing)
    # A dry run knows names and types as they were; the table, as it is, also precisions and the like.
    declared = {column.name: column for column in columns_of(table.schema)}
    columns = tuple(_more_exact(column, declared.get(column.name)) for column in found.columns)
    now = clients.now()
    return Survey(
        columns or columns_of(table.schema),
        found.bytes,
        is_pinned=at is not None,
        # A table made a moment ago has no earlier snapshot, should this machine's clock be late.
        now=max(now, table.created or now),
        unchanged=None if at is None else _is_unchanged(table, at),
    )


def _more_exact(column: Column, declared: Column | None) -> Column:
    """The column as the table declares it, unless its type is another now; what is only counted needs none."""
    if declared is None or (declared.type != column.type and bigquery_text(declared, "x") is not None):
        return column
    return declared


def _survey_query(
    clients: Clients,
    sql: str,
    at: datetime | None,
    why: str,
    doing: Doing,
    timeout_s: float,
    parameters: Sequence[Parameter] = (),
) -> Survey:
    found = query.dry_run(clients, sql, timeout_s=timeout_s, parameters=parameters, doing=doing)
    unchanged: bool | None = None
    if at is not None and found.tables and len(found.tables) <= _TABLES_LOOKED_AT and not _DEPENDS_ON_MORE.search(sql):
        unchanged = _are_unchanged(clients, found.tables, at, timeout_s)
    return Survey(found.columns, found.bytes, is_pinned=False, now=None, unchanged=unchanged, why_not=why)


def _are_unchanged(
    clients: Clients, references: Sequence[bigquery.TableReference], at: datetime, timeout_s: float
) -> bool | None:
    """Whether none of these tables changed since; None as soon as one cannot tell."""
    answers = []
    for reference in references:
        with explained(Doing(f"Table {reference}", field="table", permission="bigquery.tables.get")):
            table = clients.rest.get_table(reference, retry=REUSE_ONCE, timeout=timeout_s)
        answers.append(_is_unchanged(table, at) if table.table_type != "EXTERNAL" else None)
    return False if False in answers else None if None in answers else True


def _is_unchanged(table: bigquery.Table, at: datetime) -> bool | None:
    """By the table's own last-modified time, which lags behind rows that are streamed in."""
    if table.modified is None or table.streaming_buffer is not None:
        return None
    return bool(table.modified + _TOLD_TO <= at)
