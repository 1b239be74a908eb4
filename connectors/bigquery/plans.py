"""How rows are to be read: fixed once, with the read session or the query job that gives them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from google.cloud import bigquery

from connectors.base import Column, Part, ReadPlan, ReadRequest, StopSignal
from connectors.bigquery import bounds, pages, query, streams
from connectors.bigquery.client import Clients
from connectors.bigquery.errors import Doing
from connectors.bigquery.pages import PageSource
from connectors.bigquery.reading import Reading
from connectors.bigquery.schema import TableRef
from connectors.column_rules import without
from connectors.cursor import Interval
from connectors.errors import ConnectorError

_RESULT = Doing("The query's result", permission="bigquery.readsessions.create")


class Planner:
    """Makes the plan of one request; `timeout_s` is for each call."""

    def __init__(
        self,
        clients: Clients,
        request: ReadRequest,
        *,
        timeout_s: float,
        max_parts: int = 1,
        stop: StopSignal | None = None,
    ) -> None:
        self._clients = clients
        self._request = request
        self._timeout_s = timeout_s
        self._max_parts = max_parts
        self._stop = stop

    def of_table(self, ref: TableRef, table: bigquery.Table, columns: tuple[Column, ...]) -> ReadPlan:
        """A read session over the table at one snapshot, without the columns to skip."""
        request = self._request
        kept = some_left(without(columns, request.skip), f"Table {ref}")
        now = self._clients.now()
        # A table made a moment ago has no earlier snapshot, should this machine's clock be late.
        snapshot = max(now, table.created or now)
        doing = Doing(f"Table {ref}", field="table", permission="bigquery.readsessions.create")
        facts: dict[str, object] = {"table": str(ref)}
        found = None
        rows, size = table.num_rows, table.num_bytes
        source = bounds.as_of(ref.sql, snapshot if table.table_type == "TABLE" else None)
        if request.cursor is not None:
            ask = partial(self.ask, doing=about(ref))
            found = bounds.find(request.cursor, columns, source, snapshot, ask)
            facts |= found.facts
            rows, size = found.interval.rows, None
        is_empty = found is not None and not found.interval.rows
        restriction = found.restriction if found else ""
        opened = None if is_empty else self._open(ref.path, doing, snapshot, kept, restriction)
        if found is not None and isinstance(opened, ConnectorError):
            # Pages know no condition: the rows are read as the result of a query.
            sql = f"SELECT * FROM {source} WHERE {found.for_query}"
            return self.of_query(sql, about(ref), (_by_query(ref, opened),), found)
        return self._planned(
            kept,
            opened,
            PageSource.of_table(ref),
            doing.thing,
            source,
            snapshot=snapshot,
            rows=rows,
            size=size,
            facts=facts,
            interval=found.interval if found else None,
            source_rows=found.interval.rows if found else _none_at_all(table, opened),
            version=pages.version_of(table.to_api_repr()),
        )

    def ask(self, sql: str, doing: Doing) -> tuple[dict[str, int | None], bigquery.QueryJob]:
        """The one row of whole numbers that a query gives, by name, and the job that counted them."""
        job = self._run(sql, doing)
        page = pages.fetch(self._clients, PageSource.of_job(job), size=1, timeout_s=self._timeout_s, doing=doing)
        cells = [cell["v"] for cell in page.rows[0]["f"]]
        numbers = (None if value is None else int(value) for value in cells)
        return dict(zip((column.name for column in page.columns), numbers, strict=True)), job

    def of_query(
        self,
        sql: str,
        doing: Doing,
        warnings: tuple[str, ...] = (),
        found: bounds.Bounds | None = None,
    ) -> ReadPlan:
        """A query job, whose result is then read like a table."""
        clients, request = self._clients, self._request
        if request.cursor is not None and found is None:
            # On lines of its own: a query may end in a comment.
            source = f"(\n{sql}\n) AS t"
            columns = query.dry_run(clients, sql, timeout_s=self._timeout_s, doing=doing).columns
            ask = partial(self.ask, doing=doing)
            found = bounds.find(request.cursor, columns, source, clients.now(), ask)
            sql = f"SELECT * FROM {source} WHERE {found.for_query}"
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
        destination = job.destination
        path = f"projects/{destination.project}/datasets/{destination.dataset_id}/tables/{destination.table_id}"
        # The result never changes, so its session needs no snapshot.
        kept = some_left(without(result.columns, request.skip), "The query")
        opened = self._open(path, _RESULT, None, kept) if result.total else None
        return self._planned(
            kept,
            opened,
            pages_of_it,
            _RESULT.thing,
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
            job_key=request.job_key,
            labels=request.labels,
            maximum_bytes_billed=request.maximum_bytes_billed,
            stop=self._stop,
            doing=doing,
        )

    def _open(
        self, path: str, doing: Doing, snapshot: datetime | None, kept: tuple[Column, ...], restriction: str = ""
    ) -> streams.Session | ConnectorError:
        """A read session over the columns that are kept, or why the Storage Read API is not to be had here."""
        clients = self._clients
        if not clients.has_storage:
            return ConnectorError("no endpoint is set", code="not_supported")
        try:
            return streams.open_session(
                clients,
                path,
                max_streams=self._max_parts,
                timeout_s=self._timeout_s,
                doing=doing,
                snapshot_time=snapshot,
                restriction=restriction,
                columns=tuple(column.name for column in kept) if self._request.skip else (),
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
        version: tuple[str | None, ...] = (),
    ) -> ReadPlan:
        reading = Reading(subject=subject, counted=counted, skip=self._request.skip)
        parts: tuple[Part, ...] = ()
        if isinstance(opened, streams.Session):
            reading = replace(
                reading,
                schema=opened.schema,
                geography=tuple(column.name for column in columns if column.type == "GEOGRAPHY"),
                # Only a server that lets sessions expire is known to honour offsets.
                honours_offsets=opened.expires is not None,
            )
            parts = tuple(Part(stream, f"stream {i}") for i, stream in enumerate(opened.streams, 1))
            rows = opened.rows or rows
            size = opened.bytes or size
            expires = opened.expires.isoformat() if opened.expires else None
            facts = {**facts, "session": opened.name, "session_expires": expires}
        elif opened is not None:
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
            state=reading.to_json(),
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
    return f"The Storage Read API cannot be used: {reason}. New rows of {ref} are read with a query, which is billed."


def _through_rest(why: ConnectorError) -> str:
    reason = f"{why.message.rstrip('.')}" + (f" ({why.hint.rstrip('.')})" if why.code == "permission_denied" else "")
    return f"The Storage Read API cannot be used: {reason}. Rows are read page by page through REST, which is slower."
