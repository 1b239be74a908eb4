"""The source's own count of rows, taken while they are read if its records cannot tell, against those that arrived."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from connectors.base import Reporter, Source, StopSignal
from connectors.counts import counted as in_words
from connectors.errors import ConnectorError, Stopped, TransientError
from connectors.reading import ReadPlan, ReadRequest
from connectors.writing import Target


class Count(AbstractContextManager["Count"]):
    """Counts in a thread of its own; leaving the block ends it."""

    def __init__(self, source: Source, request: ReadRequest, plan: ReadPlan, stop: StopSignal) -> None:
        self._source = source
        self._request = request
        self._plan = plan
        self._stop = _Until(stop)
        self._rows = plan.source_rows
        self._recorded = plan.recorded_rows
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._rows is None and self._recorded is None:
            self._thread = threading.Thread(target=self._count, name="source-count", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.close()

    def result(self, reporter: Reporter, arrived: int) -> int | None:
        """The count, None where there is none to be had; raises what kept it from being taken, if that passes."""
        if self._thread is not None:
            self._thread.join()
        elif self._rows is None:
            if arrived == self._recorded:
                return arrived
            # The record may be of another moment, or of rows that not everybody may see.
            self._count()
        error = self._error
        if isinstance(error, ConnectorError) and not isinstance(error, (TransientError, Stopped)):
            # The count is a query, which a connection may not be allowed or a table may ask a filter for:
            # then the rows are taken as they came.
            reporter.log("warning", f"Rows are not compared with the source's own count: {error.message}")
            return None
        if error is not None:
            raise error
        return self._rows

    def _count(self) -> None:
        try:
            self._rows = self._source.count(self._request, self._plan, stop=self._stop)
        except Exception as error:  # noqa: BLE001 - raised again by the one who asks for the result
            self._error = error


def refuse_missing(target: Target, arrived: int, counted: int | None) -> None:
    """Raise TransientError if other rows arrived than the source has: a stream may have ended early."""
    if counted is not None and counted != arrived:
        raise TransientError(
            f"The source counts {in_words(counted)} at the snapshot, but {arrived:,} arrived for {target}.",
            hint="Nothing was published; the next attempt reads again.",
            code="rows_missing",
        )


class _Until:
    """The run's stop signal, until the block is left."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop
        self._closed = threading.Event()
        self._callbacks: list[Callable[[], None]] = []

    def check(self) -> None:
        if self._closed.is_set():
            raise Stopped("The count is of no use any more.")
        self._stop.check()

    def on_stop(self, callback: Callable[[], None]) -> Callable[[], None]:
        take_back = self._stop.on_stop(callback)
        self._callbacks.append(callback)

        def forget() -> None:
            take_back()
            self._callbacks.remove(callback)

        return forget

    def close(self) -> None:
        self._closed.set()
        for callback in list(self._callbacks):
            callback()
