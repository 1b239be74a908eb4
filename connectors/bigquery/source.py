"""BigQuery as a source: plans, reads, and the look-ups that forms need."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa
from google.cloud import bigquery

from connectors.base import (
    Column,
    Description,
    Part,
    Preview,
    ReadPlan,
    ReadRequest,
    Source,
    StepResult,
    StopSignal,
    TableDigest,
    TableInfo,
)
from connectors.bigquery import checks, digest, pages, preview, query, streams, wkb
from connectors.bigquery.client import CACHE, REUSE_ONCE, Clients, Endpoints, TimeLimit
from connectors.bigquery.errors import Doing, explained
from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.pages import PageSource
from connectors.bigquery.schema import TableRef, check_project, columns_of, parse_table
from connectors.column_rules import without
from connectors.errors import ConnectorError

PREVIEW_LIMIT_S = 4.0
# A preview of a view or query is billed like any query: more than this takes a person's decision.
PREVIEW_BYTES_BILLED = 10 * 2**30
# Everything else a query reads, and its result is then read the same way.
_DIRECT_KINDS = ("TABLE", "SNAPSHOT")

_RESULT = Doing("The query's result", permission="bigquery.readsessions.create")


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
        self._schema: pa.Schema | None = None
        self._geography: frozenset[str] = frozenset()
        self._skip: tuple[str, ...] = ()
        self._honours_offsets = False
        self._subject = "The read stream"

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
        if request.query:
            return self._describe_query(request.query, limit, query.QUERY)
        ref = parse_table(request.table, self._options.project)
        table = None if ref.is_wildcard else self._get_table(ref, limit.left())
        if table is None or table.table_type not in _DIRECT_KINDS:
            return self._describe_query(_all_rows(ref), limit, _of(ref), (_read_by_query(ref),))
        return Description(_columns(table, ref), rows=table.num_rows, bytes=table.num_bytes)

    def preview(self, request: ReadRequest, *, limit: int = 20) -> Preview:
        deadline = TimeLimit(min(self._timeout_s, PREVIEW_LIMIT_S))
        if not request.query:
            ref = parse_table(request.table, self._options.project)
            table = None if ref.is_wildcard else self._get_table(ref, deadline.left())
            if table is not None and table.table_type in _DIRECT_KINDS:
                # tabledata.list costs nothing, whatever the table's size.
                return self._page(PageSource.of_table(ref), limit, deadline, _of(ref), _columns(table, ref))
        else:
            # Looking must not change anything: what is not one SELECT is refused before it runs.
            query.dry_run(self._clients(), request.query, timeout_s=deadline.left())
        doing = query.QUERY if request.query else _of(ref)
        job = query.run(
            self._clients(),
            request.query or f"{_all_rows(ref)} LIMIT {limit}",
            timeout_s=deadline.left(),
            labels=request.labels,
            maximum_bytes_billed=request.maximum_bytes_billed or PREVIEW_BYTES_BILLED,
            limit=deadline,
            doing=doing,
        )
        return self._page(PageSource.of_job(job), limit, deadline, doing, ())

    def plan(self, request: ReadRequest, *, max_parts: int = 10, stop: StopSignal | None = None) -> ReadPlan:
        self._skip = request.skip
        if request.query:
            query.dry_run(self._clients(), request.query, timeout_s=self._timeout_s)
            return self._plan_query(request, request.query, max_parts, stop, query.QUERY)
        ref = parse_table(request.table, self._options.project)
        table = None if ref.is_wildcard else self._get_table(ref, self._timeout_s)
        if table is None or table.table_type not in _DIRECT_KINDS:
            sql = self._kept_columns(ref, table, request.skip)
            return self._plan_query(request, sql, max_parts, stop, _of(ref), (_read_by_query(ref),))
        return self._plan_table(ref, table, max_parts, request.skip)

    def read(self, part: Part, *, start: int = 0, stop: StopSignal) -> Iterator[pa.RecordBatch]:
        clients, paged = self._clients(), PageSource.parse(part.id)
        if paged is not None:
            doing = Doing(f"Table {paged.dataset}.{paged.table}" if paged.table else "The query's result")
            yield from pages.read_pages(
                clients, paged, start=start, stop=stop, timeout_s=self._timeout_s, doing=doing, skip=self._skip
            )
            return
        batches = streams.read_stream(
            clients,
            part.id,
            start=start,
            stop=stop,
            schema=self._schema,
            reopen=self._honours_offsets,
            silence_s=self._silence_s,
            doing=Doing(self._subject, permission="bigquery.readsessions.getData"),
        )
        for batch in batches:
            yield wkb.with_text(batch, self._geography) if self._geography else batch

    def digest(self, request: ReadRequest, columns: tuple[Column, ...]) -> TableDigest:
        return digest.digest(self._clients(), request, columns, timeout_s=self._timeout_s)

    def close(self) -> None:
        with self._lock:
            clients, self._borrowed = self._borrowed, None
        if clients is not None:
            CACHE.give_back(clients)

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

    def _describe_query(self, sql: str, limit: TimeLimit, doing: Doing, warnings: tuple[str, ...] = ()) -> Description:
        found = query.dry_run(self._clients(), sql, timeout_s=limit.left(), doing=doing)
        return Description(found.columns, bytes=found.bytes, warnings=warnings)

    def _page(
        self, source: PageSource, limit: int, deadline: TimeLimit, doing: Doing, columns: tuple[Column, ...]
    ) -> Preview:
        page = pages.fetch(self._clients(), source, size=limit, timeout_s=deadline.left(), doing=doing)
        return preview.to_preview(page.rows, columns or page.columns)

    def _kept_columns(self, ref: TableRef, table: bigquery.Table | None, skip: tuple[str, ...]) -> str:
        """All rows of what is no plain table, but for columns to skip: they are not even billed."""
        sql = _all_rows(ref)
        if not skip:
            return sql
        found = columns_of(table.schema) if table is not None else ()
        found = found or query.dry_run(self._clients(), sql, timeout_s=self._timeout_s, doing=_of(ref)).columns
        kept = _some_left(without(found, skip), f"Table {ref}")
        gone = ", ".join(f"`{column.name}`" for column in found if column not in kept)
        return f"SELECT * EXCEPT ({gone}) FROM {ref.sql}" if gone else sql

    def _plan_table(self, ref: TableRef, table: bigquery.Table, max_parts: int, skip: tuple[str, ...] = ()) -> ReadPlan:
        columns = _some_left(without(_columns(table, ref), skip), f"Table {ref}")
        now = self._clients().now()
        # A table made a moment ago has no earlier snapshot, should this machine's clock be late.
        snapshot = max(now, table.created or now)
        doing = Doing(f"Table {ref}", field="table", permission="bigquery.readsessions.create")
        self._subject = doing.thing
        opened = self._open(ref.path, max_parts, doing, snapshot, columns if skip else ())
        return self._planned(
            columns,
            opened,
            PageSource.of_table(ref),
            snapshot=snapshot,
            rows=table.num_rows,
            size=table.num_bytes,
            facts={"table": str(ref)},
        )

    def _plan_query(
        self,
        request: ReadRequest,
        sql: str,
        max_parts: int,
        stop: StopSignal | None,
        doing: Doing,
        warnings: tuple[str, ...] = (),
    ) -> ReadPlan:
        clients = self._clients()
        job = query.run(
            clients,
            sql,
            timeout_s=self._timeout_s,
            job_key=request.job_key,
            labels=request.labels,
            maximum_bytes_billed=request.maximum_bytes_billed,
            stop=stop,
            doing=doing,
        )
        source = PageSource.of_job(job)
        result = pages.fetch(clients, source, size=0, timeout_s=self._timeout_s, doing=doing)
        facts = {
            "job": job.job_id,
            "location": job.location,
            "bytes_processed": job.total_bytes_processed,
            "bytes_billed": job.total_bytes_billed,
            "cache_hit": job.cache_hit,
        }
        destination = job.destination
        path = f"projects/{destination.project}/datasets/{destination.dataset_id}/tables/{destination.table_id}"
        self._subject = _RESULT.thing
        # The result never changes, so its session needs no snapshot.
        columns = _some_left(without(result.columns, request.skip), "The query")
        selected = columns if request.skip else ()
        opened = self._open(path, max_parts, _RESULT, None, selected) if result.total else None
        return self._planned(
            columns,
            opened,
            source,
            snapshot=job.started or job.created or datetime.now(UTC),
            rows=result.total,
            size=None,
            facts=facts,
            warnings=warnings,
        )

    def _open(
        self, path: str, max_parts: int, doing: Doing, snapshot: datetime | None, columns: tuple[Column, ...]
    ) -> streams.Session | ConnectorError:
        """A read session over `columns` (none: all), or why the Storage Read API is not to be had here."""
        clients = self._clients()
        if not clients.has_storage:
            return ConnectorError("no endpoint is set", code="not_supported")
        try:
            return streams.open_session(
                clients,
                path,
                max_streams=max_parts,
                timeout_s=self._timeout_s,
                doing=doing,
                snapshot_time=snapshot,
                columns=tuple(column.name for column in columns),
            )
        except ConnectorError as error:
            if not _rest_may_do(error):
                raise
            return error

    def _planned(
        self,
        columns: tuple[Column, ...],
        opened: streams.Session | ConnectorError | None,
        source: PageSource,
        *,
        snapshot: datetime,
        rows: int | None,
        size: int | None,
        facts: dict[str, object],
        warnings: tuple[str, ...] = (),
    ) -> ReadPlan:
        parts: tuple[Part, ...] = ()
        if isinstance(opened, streams.Session):
            self._schema = opened.schema
            self._geography = frozenset(c.name for c in columns if c.type == "GEOGRAPHY")
            # Only a server that lets sessions expire is known to honour offsets.
            self._honours_offsets = opened.expires is not None
            parts = tuple(Part(stream) for stream in opened.streams)
            rows = opened.rows or rows
            size = opened.bytes or size
            expires = opened.expires.isoformat() if opened.expires else None
            facts = {**facts, "session": opened.name, "session_expires": expires}
        elif opened is not None:
            parts = (Part(source.text),)
            warnings = (*warnings, _through_rest(opened))
        return ReadPlan(
            columns=columns,
            parts=parts,
            snapshot_time=snapshot,
            estimated_rows=rows,
            estimated_bytes=size,
            facts=facts,
            warnings=warnings,
        )


def _of(ref: TableRef) -> Doing:
    return Doing(f"Table {ref}", field="table", permission="bigquery.tables.getData")


def _all_rows(ref: TableRef) -> str:
    return f"SELECT * FROM {ref.sql}"


def _columns(table: bigquery.Table, ref: TableRef) -> tuple[Column, ...]:
    columns = columns_of(table.schema)
    if not columns:
        raise ConnectorError(f"Table {ref} has no columns.", code="no_columns", field="table")
    return columns


def _some_left(columns: tuple[Column, ...], thing: str) -> tuple[Column, ...]:
    if not columns:
        raise ConnectorError(f"{thing} has no column that is not skipped.", code="no_columns", field="table")
    return columns


def _rest_may_do(error: ConnectorError) -> bool:
    """Whether only the Storage Read API refuses, so that rows can still be had through REST."""
    if error.code == "permission_denied":
        return "bigquery.readsessions." in error.message
    return error.code in ("not_supported", "api_disabled", "not_found", "table_not_found")


def _read_by_query(ref: TableRef) -> str:
    return f"{ref} is not a plain table: it is read with a query, which is billed for what it scans."


def _through_rest(why: ConnectorError) -> str:
    reason = f"{why.message.rstrip('.')}" + (f" ({why.hint.rstrip('.')})" if why.code == "permission_denied" else "")
    return f"The Storage Read API cannot be used: {reason}. Rows are read page by page through REST, which is slower."
