"""One binary COPY behind reader threads: rows flow, memory does not grow."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg2
import pyarrow as pa
from psycopg2 import sql

from connectors.base import Column, StopSignal
from connectors.columns.encode import BatchEncoder
from connectors.postgres.names import column_names

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

# Batches that wait between the readers and the COPY: bounded in bytes, for one batch can be 45 MB.
QUEUE_BYTES = 64 << 20
READ_BYTES = 1 << 20
STOP_POLL_SECONDS = 0.5
JOIN_SECONDS = 10


@dataclass(frozen=True)
class CopyResult:
    """Rows that PostgreSQL took, and the bytes of the stream that carried them."""

    rows: int
    bytes: int


def copy_batches(
    cursor: Cursor,
    table: sql.Composable,
    columns: Sequence[Column],
    batches: Iterator[pa.RecordBatch],
    *,
    freeze: bool = False,
    on_batch: Callable[[int, int], None],
    stop: StopSignal,
) -> CopyResult:
    """COPY one iterator of batches into `table`; see `copy_parts`."""
    return copy_parts(cursor, table, columns, [lambda: batches], freeze=freeze, on_batch=on_batch, stop=stop)


def copy_parts(
    cursor: Cursor,
    table: sql.Composable,
    columns: Sequence[Column],
    readers: Sequence[Callable[[], Iterator[pa.RecordBatch]]],
    *,
    freeze: bool = False,
    on_batch: Callable[[int, int], None],
    stop: StopSignal,
) -> CopyResult:
    """COPY what all readers yield into `table`, each reader on a thread of its own, in one statement.

    `on_batch(rows, bytes)` is told of every batch handed to PostgreSQL (counts of that batch, bytes
    as COPY carries them), on the calling thread. What a reader raises is raised here as it is.
    The caller owns the transaction. `freeze` needs the table to be made in it.
    """
    feed = _Feed(stop)
    stream = _Stream(feed, BatchEncoder(columns), on_batch)
    connection = cursor.connection
    withdraw = [stop.on_stop(feed.wake), stop.on_stop(connection.cancel)]
    threads = [
        threading.Thread(target=_read, args=(reader, feed), name=f"reader-{i}", daemon=True)
        for i, reader in enumerate(readers)
    ]
    feed.readers = len(threads)
    try:
        for thread in threads:
            thread.start()
        cursor.copy_expert(_statement(table, columns, freeze), stream, size=READ_BYTES)
    except psycopg2.Error as error:
        # psycopg2 tells PostgreSQL that read() failed and then reports PostgreSQL's echo of it.
        if stream.error is not None:
            raise stream.error from None
        stop.check()
        raise error
    finally:
        feed.close()
        for take_back in withdraw:
            take_back()
        for thread in threads:
            thread.join(JOIN_SECONDS)
    return CopyResult(cursor.rowcount, stream.bytes)


def _statement(table: sql.Composable, columns: Sequence[Column], freeze: bool) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary{})").format(
        table,
        sql.SQL(", ").join(map(sql.Identifier, column_names(columns))),
        sql.SQL(", FREEZE true" if freeze else ""),
    )


class _Closed(Exception):
    """The COPY is over: readers stop."""


class _Feed:
    """Batches from all readers to the one COPY, bounded in bytes; also carries what a reader raised."""

    def __init__(self, stop: StopSignal) -> None:
        self.readers = 0
        self._stop = stop
        self._batches: deque[pa.RecordBatch] = deque()
        self._bytes = 0
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, batch: pa.RecordBatch) -> None:
        """Wait for room; raises _Closed when the COPY is over."""
        with self._changed:
            while self._bytes >= QUEUE_BYTES and not self._closed:
                self._changed.wait()
            if self._closed:
                raise _Closed
            self._batches.append(batch)
            self._bytes += batch.nbytes
            self._changed.notify_all()

    def finished(self, error: BaseException | None) -> None:
        """A reader has no more batches, or failed."""
        with self._changed:
            self.readers -= 1
            self._error = self._error or error
            self._changed.notify_all()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield batches until all readers are done; raises what a reader raised, or Stopped."""
        while True:
            self._stop.check()
            with self._changed:
                if self._error is not None:
                    raise self._error
                if not self._batches:
                    if not self.readers:
                        return
                    self._changed.wait(STOP_POLL_SECONDS)
                    continue
                batch = self._batches.popleft()
                self._bytes -= batch.nbytes
                self._changed.notify_all()
            yield batch

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._batches.clear()
            self._changed.notify_all()


class _Stream:
    """The file that copy_expert reads: each read hands over one prepared buffer, whatever its size."""

    def __init__(self, feed: _Feed, encoder: BatchEncoder, on_batch: Callable[[int, int], None]) -> None:
        self.bytes = 0
        self.error: BaseException | None = None
        self._buffers = self._encode(feed, encoder, on_batch)

    def read(self, _size: int) -> bytes:
        try:
            data = next(self._buffers, b"")
        except BaseException as error:
            self.error = error
            raise
        self.bytes += len(data)
        return data

    def _encode(self, feed: _Feed, encoder: BatchEncoder, on_batch: Callable[[int, int], None]) -> Iterator[bytes]:
        yield encoder.header()
        for batch in feed:
            before = self.bytes
            yield from encoder.encode(batch)
            on_batch(batch.num_rows, self.bytes - before)
        yield encoder.finish()


def _read(reader: Callable[[], Iterator[pa.RecordBatch]], feed: _Feed) -> None:
    """Drain one reader into the feed; closes the iterator on this thread, for its network call lives here."""
    error: BaseException | None = None
    try:
        batches = reader()
        try:
            for batch in batches:
                feed.put(batch)
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()
    except _Closed:
        pass
    except BaseException as raised:  # noqa: BLE001 raised again by the COPY's thread
        error = raised
    feed.finished(error)
