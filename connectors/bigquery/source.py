"""BigQuery as a source: plans, reads, and the look-ups that forms need."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
from google.cloud import bigquery

from connectors import row_filter as filters
from connectors.base import Source, StepResult, StopSignal
from connectors.bigquery import bounds, checks, compare, estimates, pages, preview, query, streams, watching, wkb
from connectors.bigquery.client import CACHE, REUSE_ONCE, Clients, Endpoints, TimeLimit
from connectors.bigquery.errors import Doing, explained
from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.pages import PageSource
from connectors.bigquery.partitions import refuse_lacking
from connectors.bigquery.plans import Planner, about, some_left
from connectors.bigquery.ranges import Range, all_of
from connectors.bigquery.reading import Reading
from connectors.bigquery.schema import TableRef, check_project, columns_of, parse_table
from connectors.billing import Estimate
from connectors.column import Column
from connectors.column_rules import ColumnRule, narrowed
from connectors.cursor import Span
from connectors.errors import ConnectorError
from connectors.parameters import Parameter
from connectors.reading import Description, Part, Preview, ReadPlan, ReadRequest, TableInfo
from connectors.sides import Cost, Scope, Survey
from connectors.watching import TableState

FILTERING = Doing("The row filter", field=filters.FIELD, permission="bigquery.jobs.create")
PREVIEW_LIMIT_S = 4.0
# A preview of a view or query is billed like any query: more than this takes a person's decision.
PREVIEW_BYTES_BILLED = 10 * 2**30
# Everything else a query reads, and its result is then read the same way.
_DIRECT_KINDS = ("TABLE", "SNAPSHOT")


class BigQuerySource(Source):
    """Reads tables through the Storage Read API, all else through query jobs.

    `timeout_s` is for one look-up, and for each single call of a run; `silence_s` for a stream that
    sends nothing.
    """

    Options = BigQueryOptions

    def __init__(
        self,
        options: BigQueryOptions,
        *,
        endpoints: Endpoints | None = None,
        timeout_s: float = 30.0,
        silence_s: float = streams.SILENCE_S,
    ) -> None:
        self._options = options
        self._endpoints = endpoints or Endpoints.from_environment()
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self._lock = threading.Lock()
        self._borrowed: Clients | None = None
        self._reading = Reading()
        # What BigQuery bills for a row of each part that was opened here.
        self._row_bytes: dict[str, float | None] = {}

    def check(self) -> Iterator[StepResult]:
        return checks.steps(self._clients, self._timeout_s)

    def datasets(self) -> list[str]:
        clients, limit = self._clients(), self._limit()
        doing = Doing(f"Project {self._options.project}", field="project", permission="bigquery.datasets.get")
        with explained(doing):
            return sorted(d.dataset_id for d in clients.rest.list_datasets(retry=REUSE_ONCE, timeout=limit.left()))

    def tables(self, dataset: str) -> list[TableInfo]:
        clients, limit = self._clients(), self._limit()
        ref = parse_table(f"{dataset}.all", self._options.project)
        doing = Doing(f"Dataset {dataset}", field="table", permission="bigquery.tables.list")
        reference = bigquery.DatasetReference(ref.project, ref.dataset)
        with explained(doing):
            items = list(clients.rest.list_tables(reference, retry=REUSE_ONCE, timeout=limit.left()))
        return sorted((TableInfo(dataset, t.table_id, t.table_type or "TABLE") for t in items), key=lambda t: t.name)

    def describe(self, request: ReadRequest) -> Description:
        limit = self._limit()
        if request.cursor is not None and request.cursor.span is not None:
            return self._describe_span(request, request.cursor.span, limit)
        if request.query:
            filters.refuse_query(request.row_filter)
            return self._describe_query(request.query, limit, query.QUERY, parameters=request.parameters)
        ref = parse_table(request.table, self._options.project)
        table = None if ref.is_wildcard else self._get_table(ref, limit.left())
        if table is None or table.table_type not in _DIRECT_KINDS:
            sql, doing = _all_rows(ref, request.row_filter), FILTERING if request.row_filter else about(ref)
            return self._describe_query(sql, limit, doing, (_read_by_query(ref),))
        refuse_lacking(ref, table, request.row_filter)
        if request.row_filter:
            # BigQuery says whether it is a condition, and how much of the table it leaves to be scanned.
            sql = _all_rows(ref, request.row_filter)
            return replace(self._describe_query(sql, limit, FILTERING), columns=_columns(table, ref))
        return Description(_columns(table, ref), rows=table.num_rows, bytes=table.num_bytes)

    def look(self, table: str) -> TableState:
        ref = parse_table(table, self._options.project)
        return watching.look(self._clients(), ref, timeout_s=self._timeout_s)

    def tables_behind(self, request: ReadRequest) -> tuple[str, ...]:
        return watching.tables_behind(self._clients(), request, timeout_s=self._timeout_s)

    def preview(
        self, request: ReadRequest, *, limit: int = 20, rules: Mapping[str, ColumnRule] | None = None
    ) -> Preview:
        deadline = TimeLimit(min(self._timeout_s, PREVIEW_LIMIT_S))
        if not request.query:
            ref = parse_table(request.table, self._options.project)
            table = None if ref.is_wildcard else self._get_table(ref, deadline.left())
            if table is not None and table.table_type in _DIRECT_KINDS:
                # tabledata.list costs nothing, whatever the table's size.
                return self._page(PageSource.of_table(ref), limit, deadline, about(ref), _columns(table, ref), rules)
        else:
            # Looking must not change anything: what is not one SELECT is refused before it runs.
            query.dry_run(self._clients(), request.query, timeout_s=deadline.left(), parameters=request.parameters)
        doing = query.QUERY if request.query else about(ref)
        job = query.run(
            self._clients(),
            request.query or f"{_all_rows(ref)} LIMIT {limit}",
            timeout_s=deadline.left(),
            parameters=request.parameters,
            labels=request.labels,
            maximum_bytes_billed=request.maximum_bytes_billed or PREVIEW_BYTES_BILLED,
            limit=deadline,
            doing=doing,
        )
        return self._page(PageSource.of_job(job), limit, deadline, doing, (), rules)

    def plan(
        self,
        request: ReadRequest,
        *,
        max_parts: int = 10,
        spread: bool = False,
        stop: StopSignal | None = None,
    ) -> ReadPlan:
        plan = self._planned(request, max_parts, spread, stop)
        self.resume(plan)
        return plan

    def resume(self, plan: ReadPlan) -> None:
        self._reading = Reading.from_json(plan.state)

    def count(self, request: ReadRequest, plan: ReadPlan, *, stop: StopSignal) -> int | None:
        if plan.source_rows is not None:
            return plan.source_rows
        if not self._reading.counted:
            return None
        planner = Planner(self._clients(), request, timeout_s=self._timeout_s, stop=stop, meter=self.meter)
        doing = about(parse_table(request.table, self._options.project))
        found, _ = planner.ask(f"SELECT COUNT(*) AS n FROM {self._reading.counted}", doing)
        return found["n"]

    def open_part(self, part: Part, *, stop: StopSignal) -> Part | None:
        range_, reading = Range.parse(part.id), self._reading
        if range_ is None or reading.ranges is None:
            return part
        stop.check()
        how = reading.ranges
        opened = streams.open_session(
            self._clients(),
            how.table,
            max_streams=1,
            timeout_s=self._timeout_s,
            doing=Doing(reading.subject, field="table", permission="bigquery.readsessions.create"),
            snapshot_time=datetime.fromisoformat(how.snapshot),
            restriction=all_of(how.restriction, range_.condition(how.by, how.type)),
            columns=how.columns,
        )
        for stream in opened.streams:
            self._row_bytes[stream] = opened.row_bytes(part.rows)
        # One stream was asked for, and there is none where there are no rows.
        return next((Part(stream, part.name, part.rows, part.bytes) for stream in opened.streams), None)

    def read(self, part: Part, *, start: int = 0, stop: StopSignal) -> Iterator[pa.RecordBatch]:
        if Range.parse(part.id) is not None:
            if start:
                raise ValueError(f"{part.name}: rows have places in an opened part only")
            opened = self.open_part(part, stop=stop)
            if opened is None:
                return
            part = opened
        clients, paged, reading = self._clients(), PageSource.parse(part.id), self._reading
        if paged is not None:
            yield from pages.read_pages(
                clients,
                paged,
                start=start,
                stop=stop,
                timeout_s=self._timeout_s,
                doing=Doing(f"Table {paged.dataset}.{paged.table}" if paged.table else "The query's result"),
                skip=reading.skip,
                version=reading.version,
            )
            return
        batches = streams.read_stream(
            clients,
            part.id,
            start=start if reading.honours_offsets else 0,
            stop=stop,
            schema=reading.schema,
            reopen=reading.honours_offsets,
            silence_s=self._silence_s,
            doing=Doing(reading.subject, permission="bigquery.readsessions.getData"),
        )
        row_bytes = self._row_bytes.get(part.id, reading.row_bytes)
        for batch in batches if reading.honours_offsets else streams.without_first(batches, start):
            if reading.is_billed:
                self.meter.storage(batch.nbytes if row_bytes is None else batch.num_rows * row_bytes)
            yield wkb.with_text(batch, reading.geography) if reading.geography else batch

    def survey(self, request: ReadRequest, at: datetime | None) -> Survey:
        return compare.survey(self._clients(), request, at, timeout_s=self._timeout_s)

    def comparing(
        self, request: ReadRequest, scope: Scope, columns: tuple[Column, ...], cost: Cost, *, stop: StopSignal
    ) -> compare.BigQuerySide:
        return compare.BigQuerySide(
            self._clients(), request, scope, columns, cost, timeout_s=self._timeout_s, stop=stop, meter=self.meter
        )

    def estimate(self, request: ReadRequest) -> Estimate:
        ref = None if request.query else parse_table(request.table, self._options.project)
        table = None if ref is None or ref.is_wildcard else self._get_table(ref, self._timeout_s)
        plain = table if table is not None and table.table_type in _DIRECT_KINDS else None
        return estimates.estimate(self._clients(), request, ref, plain, timeout_s=self._timeout_s)

    def close(self) -> None:
        with self._lock:
            clients, self._borrowed = self._borrowed, None
        if clients is not None:
            CACHE.give_back(clients)

    def _planned(self, request: ReadRequest, max_parts: int, spread: bool, stop: StopSignal | None) -> ReadPlan:
        clients = self._clients()
        planner = Planner(
            clients,
            request,
            timeout_s=self._timeout_s,
            max_parts=max_parts,
            spread=spread,
            stop=stop,
            meter=self.meter,
        )
        if request.query:
            filters.refuse_query(request.row_filter)
            told = query.dry_run(clients, request.query, timeout_s=self._timeout_s, parameters=request.parameters)
            return planner.of_query(request.query, query.QUERY, told=told)
        ref = parse_table(request.table, self._options.project)
        table = None if ref.is_wildcard else self._get_table(ref, self._timeout_s)
        if table is None or table.table_type not in _DIRECT_KINDS:
            sql, planner.ignored = self._kept_columns(ref, table, request)
            return planner.of_query(sql, about(ref), (_read_by_query(ref),))
        return planner.of_table(ref, table, _columns(table, ref))

    def _clients(self) -> Clients:
        with self._lock:
            if self._borrowed is None:
                check_project(self._options.project)
                self._borrowed = CACHE.borrow(self._options, self._endpoints)
            return self._borrowed

    def _limit(self) -> TimeLimit:
        return TimeLimit(self._timeout_s)

    def _get_table(self, ref: TableRef, timeout_s: float) -> bigquery.Table:
        with explained(Doing(f"Table {ref}", field="table", permission="bigquery.tables.get")):
            return self._clients().rest.get_table(ref.reference, retry=REUSE_ONCE, timeout=timeout_s)

    def _describe_span(self, request: ReadRequest, span: Span, limit: TimeLimit) -> Description:
        """The rows of a past range, by a dry run: it tells how much of the table that scans."""
        columns = self.describe(replace(request, cursor=None)).columns
        if request.query:
            rows = f"(\n{request.query}\n) AS t"
        else:
            ref = parse_table(request.table, self._options.project)
            rows = bounds.as_of(ref.sql, None, row_filter=request.row_filter)
        sql = f"SELECT * FROM {rows} WHERE {bounds.within(span, columns)}"
        return self._describe_query(sql, limit, query.QUERY, parameters=request.parameters)

    def _describe_query(
        self,
        sql: str,
        limit: TimeLimit,
        doing: Doing,
        warnings: tuple[str, ...] = (),
        parameters: tuple[Parameter, ...] = (),
    ) -> Description:
        found = query.dry_run(self._clients(), sql, timeout_s=limit.left(), parameters=parameters, doing=doing)
        return Description(found.columns, bytes=found.bytes, warnings=warnings)

    def _page(
        self,
        source: PageSource,
        limit: int,
        deadline: TimeLimit,
        doing: Doing,
        columns: tuple[Column, ...],
        rules: Mapping[str, ColumnRule] | None,
    ) -> Preview:
        page = pages.fetch(self._clients(), source, size=limit, timeout_s=deadline.left(), doing=doing)
        return preview.to_preview(page.rows, columns or page.columns, rules or {})

    def _kept_columns(
        self, ref: TableRef, table: bigquery.Table | None, request: ReadRequest
    ) -> tuple[str, tuple[Column, ...]]:
        """All rows of what is no plain table, but for columns to skip or ignore: they are not even billed."""
        sql = _all_rows(ref, request.row_filter)
        if not (request.skip or request.only):
            return sql, ()
        found = columns_of(table.schema) if table is not None else ()
        found = found or query.dry_run(self._clients(), sql, timeout_s=self._timeout_s, doing=about(ref)).columns
        kept, ignored = narrowed(found, request)
        some_left(kept, f"Table {ref}")
        gone = ", ".join(f"`{column.name}`" for column in found if column not in kept)
        return sql.replace("*", f"* EXCEPT ({gone})", 1) if gone else sql, ignored


def _all_rows(ref: TableRef, row_filter: str = "") -> str:
    """All rows that the filter lets through; written as people do where there is none."""
    if not row_filter:
        return f"SELECT * FROM {ref.sql}"
    return f"SELECT * FROM {ref.sql} AS datamantri_rows WHERE {filters.condition(row_filter)}"


def _columns(table: bigquery.Table, ref: TableRef) -> tuple[Column, ...]:
    columns = columns_of(table.schema)
    if not columns:
        raise ConnectorError(f"Table {ref} has no columns.", code="no_columns", field="table")
    return columns


def _read_by_query(ref: TableRef) -> str:
    return f"{ref} is not a plain table: it is read with a query, which is billed for what it scans."
