"""How rows are to be read: fixed once, with the read session or the query job that gives them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from google.cloud import bigquery

from connectors import row_filter as filters
from connectors.base import StopSignal
from connectors.bigquery import bounds, pages, partitions, query, streams
from connectors.bigquery.client import Clients
from connectors.bigquery.errors import Doing
from connectors.bigquery.pages import PageSource
from connectors.bigquery.partitions import Ranged
from connectors.bigquery.ranges import all_of, row_bytes
from connectors.bigquery.reading import RangeReading, Reading
from connectors.bigquery.schema import TableRef
from connectors.billing import NOT_METERED, Estimate, Meter, billed_for
from connectors.column import Column
from connectors.column_rules import narrowed
from connectors.cursor import Interval
from connectors.errors import ConnectorError
from connectors.reading import Part, ReadPlan, ReadRequest

_PAGE_ROWS = 10_000
_RESULT = Doing("The query's result", permission="bigquery.readsessions.create")


class Planner:
    """Makes the plan of one request; `timeout_s` is for each call. `ignored` are columns that it leaves out."""

    def __init__(
        self,
        clients: Clients,
        request: ReadRequest,
        *,
        timeout_s: float,
        max_parts: int = 1,
        spread: bool = False,
        stop: StopSignal | None = None,
        meter: Meter = NOT_METERED,
    ) -> None:
        self._clients = clients
        self._request = request
        self._timeout_s = timeout_s
        self._max_parts = max_parts
        self._spread = spread
        self._stop = stop
        self.ignored: tuple[Column, ...] = ()
        self._meter = meter

    def of_table(self, ref: TableRef, table: bigquery.Table, columns: tuple[Column, ...]) -> ReadPlan:
        """The table at one snapshot, without the columns to skip: streams of a read session, or ranges."""
        kept = self._kept(columns, f"Table {ref}")
        request = self._request
        now = self._clients.now()
        # A table made a moment ago has no earlier snapshot, should this machine's clock be late.
        snapshot = max(now, table.created or now)
        doing = Doing(f"Table {ref}", field="table", permission="bigquery.readsessions.create")
        facts: dict[str, object] = {"table": str(ref)}
        if request.row_filter:
            facts["row_filter"] = request.row_filter
        found = None
        rows, size = (None, None) if request.row_filter else (table.num_rows, table.num_bytes)
        partitions.refuse_lacking(ref, table, request.row_filter)
        at = snapshot if table.table_type == "TABLE" else None
        source = bounds.as_of(ref.sql, at, row_filter=request.row_filter)
        if request.cursor is not None:
            ask = partial(self.ask, doing=about(ref))
            found = bounds.find(request.cursor, columns, source, snapshot, ask)
            facts |= found.facts
            rows = found.interval.rows
            size = None if rows is None or not table.num_bytes else round(rows * row_bytes(table))
        is_empty = found is not None and not found.interval.rows
        restriction = all_of(filters.condition(request.row_filter), found.restriction if found else "")
        ranged = None if is_empty else self._ranged(ref, table, columns, found)
        warnings: tuple[str, ...] = ()
        if ranged is not None:
            facts |= ranged.facts
            warnings = ranged.warnings
            ranged = ranged if ranged.parts else None
        opened = None if is_empty else self._open(ref.path, doing, snapshot, kept, restriction, ranged)
        if (found is not None or restriction) and isinstance(opened, ConnectorError):
            # Pages know no condition: the rows are read as the result of a query.
            sql = f"SELECT * FROM {source}" + (f" WHERE {found.for_query}" if found else "")
            return self.of_query(sql, about(ref), (*warnings, _by_query(ref, opened)), found)
        ranges = None
        if ranged is not None:
            names, by = tuple(column.name for column in kept), ranged.by
            if request.row_filter:
                rows, size = sum(part.rows or 0 for part in ranged.parts), sum(part.bytes or 0 for part in ranged.parts)
            ranges = RangeReading(ref.path, snapshot.isoformat(), names, restriction, by.sql, by.type)
        return self._planned(
            kept,
            opened,
            PageSource.of_table(ref),
            doing.thing,
            source,
            parts=ranged.parts if ranged else (),
            ranges=ranges,
            snapshot=snapshot,
            rows=rows,
            size=size,
            facts=facts,
            warnings=warnings,
            interval=found.interval if found else None,
            source_rows=found.interval.rows if found else _none_at_all(table, opened),
            recorded_rows=None if found or restriction or table.streaming_buffer else table.num_rows,
            version=pages.version_of(table.to_api_repr()),
        )

    def _kept(self, columns: tuple[Column, ...], thing: str) -> tuple[Column, ...]:
        """The columns to read; what is not among those to read only is skipped from here on."""
        kept, ignored = narrowed(columns, self._request)
        self.ignored = self.ignored or ignored
        skip = (*self._request.skip, *(column.name for column in ignored))
        self._request = replace(self._request, skip=skip, only=())
        return some_left(kept, thing)

    def ask(self, sql: str, doing: Doing) -> tuple[dict[str, int | None], bigquery.QueryJob]:
        """The one row of whole numbers that a query gives, by name, and the job that counted them."""
        job = self._run(sql, doing)
        page = self._page(job, doing)
        cells = [cell["v"] for cell in page.rows[0]["f"]]
        numbers = (None if value is None else int(value) for value in cells)
        return dict(zip((column.name for column in page.columns), numbers, strict=True)), job

    def _ranged(
        self, ref: TableRef, table: bigquery.Table, columns: tuple[Column, ...], found: bounds.Bounds | None
    ) -> Ranged | None:
        def list_rows(sql: str) -> tuple[list[partitions.Listed], bigquery.QueryJob]:
            job = self._run(sql, about(ref))
            page = self._page(job, about(ref))
            rows = list(page.rows)
            while page.next_token:
                page = self._page(job, about(ref), page.next_token)
                rows += page.rows
            cells = ([cell["v"] for cell in row["f"]] for row in rows)
            return [(name, int(first or 0), int(second or 0)) for name, first, second in cells], job

        if not self._clients.has_storage:
            return None
        return partitions.choose(
            ref, table, columns, found, workers=self._max_parts, spread=self._spread, list_rows=list_rows
        )

    def _page(self, job: bigquery.QueryJob, doing: Doing, token: str = "") -> pages.Page:
        source = PageSource.of_job(job)
        return pages.fetch(self._clients, source, size=_PAGE_ROWS, timeout_s=self._timeout_s, doing=doing, token=token)

    def of_query(
        self,
        sql: str,
        doing: Doing,
        warnings: tuple[str, ...] = (),
        found: bounds.Bounds | None = None,
        told: query.DryRun | None = None,
    ) -> ReadPlan:
        """A query job, whose result is then read like a table; `told` is what a dry run of it said."""
        clients, request = self._clients, self._request
        if request.cursor is not None and found is None:
            # On lines of its own: a query may end in a comment.
            source = f"(\n{sql}\n) AS t"
            columns = query.dry_run(
                clients, sql, timeout_s=self._timeout_s, parameters=request.parameters, doing=doing
            ).columns
            ask = partial(self.ask, doing=doing)
            found = bounds.find(request.cursor, columns, source, clients.now(), ask)
            sql = f"SELECT * FROM {source} WHERE {found.for_query}"
        expected = None
        if told is not None and told.known_bytes is not None and found is None:
            expected = billed_for(told.known_bytes, len(told.tables))
            self._meter.expect(Estimate(expected))
        job = self._run(sql, doing)
        pages_of_it = PageSource.of_job(job)
        result = pages.fetch(clients, pages_of_it, size=0, timeout_s=self._timeout_s, doing=doing)
        facts = {
            "job": job.job_id,
            "location": job.location,
            "bytes_processed": job.total_bytes_processed,
            "bytes_billed": job.total_bytes_billed,
            "cache_hit": job.cache_hit,
            **(found.facts if found else {}),
        }
        if expected is not None:
            facts["estimated_query_bytes"] = expected
        destination = job.destination
        path = f"projects/{destination.project}/datasets/{destination.dataset_id}/tables/{destination.table_id}"
        # The result never changes, so its session needs no snapshot.
        kept = self._kept(result.columns, "The query")
        opened = self._open(path, _RESULT, None, kept) if result.total else None
        return self._planned(
            kept,
            opened,
            pages_of_it,
            _RESULT.thing,
            is_billed=False,
            snapshot=job.started or job.created or datetime.now(UTC),
            rows=result.total,
            size=None,
            facts=facts,
            warnings=warnings,
            interval=found.interval if found else None,
            source_rows=result.total,
        )

    def _run(self, sql: str, doing: Doing) -> bigquery.QueryJob:
        request = self._request
        return query.run(
            self._clients,
            sql,
            timeout_s=self._timeout_s,
            parameters=request.parameters,
            job_key=request.job_key,
            labels=request.labels,
            maximum_bytes_billed=self._left(),
            stop=self._stop,
            doing=doing,
            meter=self._meter,
        )

    def _left(self) -> int | None:
        """What the next query may bill of what all of them may together."""
        limit = self._request.maximum_bytes_billed
        if limit is None:
            return None
        # At least what only a query without a bill keeps to: a count that the table's own record answers is free.
        return max(1, limit - self._meter.bill.query_bytes)

    def _open(
        self,
        path: str,
        doing: Doing,
        snapshot: datetime | None,
        kept: tuple[Column, ...],
        restriction: str = "",
        ranged: Ranged | None = None,
    ) -> streams.Session | ConnectorError:
        """A read session over the columns that are kept, or why the Storage Read API is not to be had here.

        Nobody reads from one over ranges: it tells what the sessions of all of them are like.
        """
        clients, names = self._clients, tuple(column.name for column in kept)
        if not clients.has_storage:
            return ConnectorError("no endpoint is set", code="not_supported")
        try:
            return streams.open_session(
                clients,
                path,
                max_streams=1 if ranged else self._max_parts,
                timeout_s=self._timeout_s,
                doing=doing,
                snapshot_time=snapshot,
                restriction=all_of(restriction, ranged.largest) if ranged else restriction,
                columns=names if ranged or self._request.skip else (),
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
        subject: str,
        counted: str = "",
        *,
        snapshot: datetime,
        rows: int | None,
        size: int | None,
        facts: dict[str, object],
        warnings: tuple[str, ...] = (),
        interval: Interval | None = None,
        source_rows: int | None = None,
        recorded_rows: int | None = None,
        version: tuple[str | None, ...] = (),
        parts: tuple[Part, ...] = (),
        ranges: RangeReading | None = None,
        is_billed: bool = True,
    ) -> ReadPlan:
        """The plan of a read that is opened; a query's result is read for nothing."""
        reading = Reading(subject=subject, counted=counted, skip=self._request.skip)
        outlives_session = ranges is not None and isinstance(opened, streams.Session)
        if isinstance(opened, streams.Session):
            reading = replace(
                reading,
                schema=opened.schema,
                geography=tuple(column.name for column in columns if column.type == "GEOGRAPHY"),
                # Only a server that lets sessions expire is known to honour offsets.
                honours_offsets=opened.expires is not None,
                ranges=ranges,
                is_billed=is_billed,
            )
        if isinstance(opened, streams.Session) and ranges is None:
            reading = replace(reading, row_bytes=opened.row_bytes(rows))
            parts = tuple(Part(stream, f"stream {i}") for i, stream in enumerate(opened.streams, 1))
            if source_rows is None or size is None:
                # Where the rows are counted, a session adds what is scanned for them: that may be the whole table.
                rows, size = opened.rows or rows, opened.bytes or size
            expires = opened.expires.isoformat() if opened.expires else None
            facts = {**facts, "session": opened.name, "session_expires": expires}
            if is_billed and opened.bytes:
                facts["estimated_storage_bytes"] = opened.bytes
        elif isinstance(opened, ConnectorError):
            reading = replace(reading, version=version)
            parts = (Part(source.text, "pages", rows, size),)
            warnings = (*warnings, _through_rest(opened))
        return ReadPlan(
            columns=columns,
            parts=parts,
            snapshot_time=snapshot,
            estimated_rows=rows,
            estimated_bytes=size,
            facts=facts,
            warnings=warnings,
            interval=interval,
            source_rows=source_rows,
            recorded_rows=recorded_rows,
            state=reading.to_json(),
            outlives_session=outlives_session,
            ignored=self.ignored,
        )


def about(ref: TableRef) -> Doing:
    """What is being done with the table, for errors."""
    return Doing(f"Table {ref}", field="table", permission="bigquery.tables.getData")


def some_left(columns: tuple[Column, ...], thing: str) -> tuple[Column, ...]:
    if not columns:
        raise ConnectorError(f"{thing} has no column that is not skipped.", code="no_columns", field="table")
    return columns


def _rest_may_do(error: ConnectorError) -> bool:
    """Whether only the Storage Read API refuses, so that rows can still be had through REST."""
    if error.code == "permission_denied":
        return "bigquery.readsessions." in error.message
    return error.code in ("not_supported", "api_disabled", "not_found", "table_not_found")


def _none_at_all(table: bigquery.Table, opened: object) -> int | None:
    """0 where the table's own metadata and its read session agree that there are no rows; None asks for a count."""
    is_empty = isinstance(opened, streams.Session) and not opened.streams
    return 0 if is_empty and table.num_rows == 0 and table.streaming_buffer is None else None


def _by_query(ref: TableRef, why: ConnectorError) -> str:
    reason = why.message.rstrip(".")
    return f"The Storage Read API cannot be used: {reason}. Rows of {ref} are read with a query, which is billed."


def _through_rest(why: ConnectorError) -> str:
    reason = f"{why.message.rstrip('.')}" + (f" ({why.hint.rstrip('.')})" if why.code == "permission_denied" else "")
    return f"The Storage Read API cannot be used: {reason}. Rows are read page by page through REST, which is slower."
