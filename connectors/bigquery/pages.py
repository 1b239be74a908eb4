"""Rows through REST, page by page: slower than the Storage Read API, and always there."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import quote

import pyarrow as pa
from google.cloud import bigquery

from connectors.base import StopSignal
from connectors.bigquery.cells import to_batch
from connectors.bigquery.client import Clients
from connectors.bigquery.errors import Doing, explained
from connectors.bigquery.schema import TableRef, columns_of
from connectors.column import Column
from connectors.column_rules import without
from connectors.errors import ConnectorError, Stopped, TransientError

T = TypeVar("T")

# A page's cells are Python objects for a moment: some tens of megabytes.
_PAGE_CELLS, _PAGE_ROWS_MOST = 200_000, 20_000


@dataclass(frozen=True)
class PageSource:
    """A table, or the result of a query job, that is read in pages; `text` is the form that a Part carries."""

    project: str
    dataset: str = ""
    table: str = ""
    job: str = ""
    location: str = ""

    @classmethod
    def of_table(cls, ref: TableRef) -> PageSource:
        return cls(project=ref.project, dataset=ref.dataset, table=ref.table)

    @classmethod
    def of_job(cls, job: bigquery.QueryJob) -> PageSource:
        return cls(project=job.project, job=job.job_id, location=job.location or "")

    @classmethod
    def parse(cls, text: str) -> PageSource | None:
        """The source that a Part's id names; None if it names a stream."""
        kind, _, rest = text.partition("|")
        parts = rest.split("|")
        if kind == "table":
            return cls(project=parts[0], dataset=parts[1], table=parts[2])
        if kind == "job":
            return cls(project=parts[0], job=parts[1], location=parts[2])
        return None

    @property
    def text(self) -> str:
        if self.job:
            return f"job|{self.project}|{self.job}|{self.location}"
        return f"table|{self.project}|{self.dataset}|{self.table}"

    @property
    def path(self) -> str:
        if self.job:
            return f"projects/{quote(self.project)}/queries/{quote(self.job)}"
        return f"{self.table_path}/data"

    @property
    def table_path(self) -> str:
        return f"projects/{quote(self.project)}/datasets/{quote(self.dataset)}/tables/{quote(self.table)}"

    @property
    def parameters(self) -> dict[str, Any]:
        place = {"location": self.location} if self.location else {}
        return {"formatOptions.useInt64Timestamp": "true", "prettyPrint": "false", **place}


@dataclass(frozen=True)
class Page:
    rows: Sequence[dict[str, Any]]
    total: int
    next_token: str
    columns: tuple[Column, ...]


def fetch(
    clients: Clients,
    source: PageSource,
    *,
    size: int,
    timeout_s: float,
    doing: Doing,
    start: int = 0,
    token: str = "",
) -> Page:
    """One page; `columns` are filled for a query job only, whose pages carry their schema."""
    where = {"pageToken": token} if token else ({"startIndex": start} if start else {})
    answer = _get(clients, source.path, {**source.parameters, **where, "maxResults": size}, timeout_s, doing)
    if source.job and not answer.get("jobComplete", True):
        raise TransientError(f"{doing.thing}: the query job is not done.", code="timeout")
    return Page(
        rows=answer.get("rows") or (),
        total=int(answer.get("totalRows") or 0),
        next_token=answer.get("pageToken") or "",
        columns=_columns(answer),
    )


def read_pages(
    clients: Clients,
    source: PageSource,
    *,
    start: int,
    stop: StopSignal,
    timeout_s: float,
    doing: Doing,
    skip: Sequence[str] = (),
    version: Sequence[str | None] = (),
) -> Iterator[pa.RecordBatch]:
    """Yield the rows from row `start` on; raises TransientError if the table is not, or does not stay, at `version`.

    Columns to `skip` are sent all the same, but not looked at.
    """

    def look() -> Mapping[str, Any]:
        return _get(clients, source.table_path, {"prettyPrint": "false"}, timeout_s, doing)

    def get(size: int, token: str = "") -> Page:
        try:
            return fetch(clients, source, size=size, start=start, token=token, timeout_s=timeout_s, doing=doing)
        except ConnectorError as error:
            if source.job and error.code in ("job_not_found", "table_not_found"):
                # The job was there when the plan was made: another one finds the rows again.
                raise TransientError(f"{doing.thing} is gone: {error.message}", code="session_lost") from error
            raise

    def refuse_changed(table: Mapping[str, Any], version: Sequence[str | None]) -> None:
        if version_of(table) != tuple(version):
            raise TransientError(f"{doing.thing} changed while it was read.", code="source_changed")

    before: Mapping[str, Any] = {} if source.job else _Ahead(look).wait(stop)
    if version and not source.job:
        refuse_changed(before, version)
    columns = _Ahead(partial(get, 0)).wait(stop).columns if source.job else _columns(before)
    kept = without(columns, skip)
    size = max(1, min(_PAGE_ROWS_MOST, _PAGE_CELLS // max(1, len(columns))))
    position = start
    ahead: _Ahead[Page] | None = _Ahead(partial(get, size))
    while ahead is not None:
        page = ahead.wait(stop)
        # The next page is fetched while this one is on its way to the destination.
        ahead = _Ahead(partial(get, size, page.next_token)) if page.next_token else None
        position += len(page.rows)
        if page.rows:
            yield to_batch(page.rows, kept, [columns.index(column) for column in kept])
        if ahead is None and position < page.total:
            raise TransientError(f"{doing.thing}: BigQuery sent fewer rows than it said.", code="source_changed")
    if not source.job:
        refuse_changed(_Ahead(look).wait(stop), version_of(before))


def version_of(table: Mapping[str, Any]) -> tuple[str | None, ...]:
    """What of a table's description changes with its rows."""
    return tuple(table.get(name) for name in ("lastModifiedTime", "numRows"))


def _columns(answer: Mapping[str, Any]) -> tuple[Column, ...]:
    fields = answer.get("schema", {}).get("fields", [])
    return columns_of(bigquery.SchemaField.from_api_repr(field) for field in fields)


def _get(clients: Clients, path: str, parameters: dict[str, Any], timeout_s: float, doing: Doing) -> dict[str, Any]:
    with explained(doing):
        answer: dict[str, Any] = clients.get(path, parameters, timeout_s)
        return answer


class _Ahead(Generic[T]):
    """Work begun in a thread, waited for until it is done or `stop` says so: a socket cannot be woken from outside.

    A thread that nobody waits for any more ends by itself at its time limit.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._done: queue.SimpleQueue[Callable[[], T] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="bigquery-page", daemon=True).start()

    def wait(self, stop: StopSignal) -> T:
        forget = stop.on_stop(lambda: self._done.put(None))
        try:
            stop.check()
            outcome = self._done.get()
            stop.check()
        finally:
            forget()
        if outcome is None:
            raise Stopped("Reading was stopped.")
        return outcome()

    def _run(self) -> None:
        try:
            result = self._work()
        except Exception as error:  # noqa: BLE001 (raised again by the one who waits)
            self._done.put(partial(_raise, error))
        else:
            self._done.put(lambda: result)


def _raise(error: Exception) -> NoReturn:
    raise error
