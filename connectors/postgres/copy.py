"""One binary COPY behind reader threads: rows flow, memory does not grow.

Reader threads fill a queue that is bounded in bytes; the calling thread takes batches from it, encodes
them and sends them. Encoding needs no thread of its own: while it goes on, PostgreSQL works on what
the socket's buffers hold.
"""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self, cast

import psycopg2
import pyarrow as pa
from psycopg2 import sql

from connectors.base import StopSignal
from connectors.checks import Check
from connectors.column import Column
from connectors.columns.divert import Diverter
from connectors.columns.encode import BatchEncoder
from connectors.columns.proving import Prover
from connectors.errors import ConnectorError
from connectors.modes import TextPolicy
from connectors.postgres.names import column_names

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

# What may wait between readers and COPY. In bytes, for one batch can be 45 MB; small, for a queue only
# has to bridge hiccups and fills up whenever PostgreSQL is the slower side.
QUEUE_BYTES = 8 << 20
READERS = 4  # at a time, whatever the number of parts
STOP_POLL_S = 0.5
JOIN_S = 10


@dataclass(frozen=True)
class CopyResult:
    """Rows that PostgreSQL took, and the bytes of the stream that carried them.

    `repaired` has the number of values that the text policy changed, by column. `diverted` are rows that were read
    and left out, `proven` the marks of checks that all others pass.
    """

    rows: int
    bytes: int
    repaired: Mapping[str, int] = field(default_factory=dict)
    diverted: int = 0
    proven: frozenset[str] = frozenset()

    @property
    def read(self) -> int:
        return self.rows + self.diverted


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
    text_policy: TextPolicy = TextPolicy.FAIL,
    diverter: Diverter | None = None,
    checks: Sequence[Check] = (),
) -> CopyResult:
    """COPY what all readers yield into `table`, each reader on a thread of its own, in one statement.

    `on_batch(rows, bytes)` is called on this thread for every batch that was handed over; a batch's
    last bytes may be counted with the next one. Raises what a reader, the encoder or `on_batch`
    raised, as it is; Stopped; psycopg2.Error if PostgreSQL refused.
    The caller owns the transaction, has set client_encoding to UTF8, and cancels the statement on
    `stop`: only that ends a COPY that waits for a lock. `freeze` needs a table made in this transaction. A `diverter`
    takes rows that cannot be stored; of `checks` is noted what is proven.
    """
    with Feed(readers, stop) as feed:
        return copy_feed(
            cursor,
            table,
            columns,
            feed,
            freeze=freeze,
            on_batch=on_batch,
            stop=stop,
            text_policy=text_policy,
            diverter=diverter,
            checks=checks,
        )


def copy_feed(
    cursor: Cursor,
    table: sql.Composable,
    columns: Sequence[Column],
    feed: Iterable[pa.RecordBatch],
    *,
    freeze: bool = False,
    on_batch: Callable[[int, int], None],
    stop: StopSignal,
    text_policy: TextPolicy = TextPolicy.FAIL,
    diverter: Diverter | None = None,
    checks: Sequence[Check] = (),
) -> CopyResult:
    """COPY what `feed` yields into `table`, in one statement; see `copy_parts`."""
    prover = Prover(checks, columns)
    encoder = BatchEncoder(columns, text_policy, diverter=diverter, prover=prover)
    before = diverter.rows if diverter else 0
    stream = _Stream(feed, encoder, on_batch, cursor.connection)
    try:
        # Without notices, all that the server can send in the middle of a COPY is why it gave up.
        cursor.execute("SET LOCAL client_min_messages = error")
        cursor.copy_expert(_statement(table, columns, freeze), cast("BinaryIO", stream))
    except psycopg2.Error as error:
        # Our own error comes back as PostgreSQL's echo of what psycopg2 told it.
        if stream.error is not None:
            raise stream.error from None
        stop.check()
        if stream.answered and ".read()" in str(error):
            raise ConnectorError(
                "PostgreSQL sent a message in the middle of the COPY that was no error.",
                hint="A trigger of the table uses RAISE INFO: let it use RAISE NOTICE.",
                code="copy_interrupted",
            ) from error
        raise
    diverted = diverter.rows - before if diverter else 0
    return CopyResult(cursor.rowcount, stream.bytes, dict(encoder.repaired), diverted, prover.proven)


def _statement(table: sql.Composable, columns: Sequence[Column], freeze: bool) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary{})").format(
        table,
        sql.SQL(", ").join(map(sql.Identifier, column_names(columns))),
        sql.SQL(", FREEZE true" if freeze else ""),
    )


class _Closed(Exception):
    """The COPY is over: readers stop."""


class Feed:
    """Batches on their way to the one COPY, and the threads that read them; carries what a reader raised.

    One thread at first, and another whenever the COPY has to wait for rows. As many as there are
    readers would share the source and all be late with their first batch; and where PostgreSQL is the
    slower side, each would hold memory for rows that nobody waits for.
    Rows flow inside a `with` block. With `keeps`, what a reader raises only ends the rows: those before it are
    good, and `error` has it. Once `is_over` says so, no more rows come either; nor, until it is moved, when nothing has
    come by the monotonic time `pauses_at`.
    """

    def __init__(
        self,
        readers: Sequence[Callable[[], Iterator[pa.RecordBatch]]],
        stop: StopSignal,
        *,
        keeps: bool = False,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self.error: BaseException | None = None
        self.is_drained = False
        self.pauses_at: float | None = None
        self._keeps = keeps
        self._is_over = is_over
        self._stop = stop
        self._waiting = deque(readers)
        self._reading: list[threading.Thread] = []
        self._opening: threading.Thread | None = None  # the newest, until its second batch shows its pace
        self._batches: deque[pa.RecordBatch] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self._take_back = self._stop.on_stop(self.wake)
        with self._changed:
            self._start_another()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._take_back()
        self._join()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield batches until all readers are done; raises what one of them raised, or Stopped.

        Iterating again goes on where it was left.
        """
        while (batch := self._next()) is not None:
            yield batch

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _close(self) -> None:
        with self._changed:
            self._closed = True
            self._batches.clear()
            self._changed.notify_all()

    def _join(self) -> None:
        """Wait for all threads; the feed is closed, so none starts any more."""
        with self._changed:
            threads = list(self._reading)
        for thread in threads:
            thread.join(JOIN_S)

    def _next(self) -> pa.RecordBatch | None:
        with self._changed:
            while True:
                # A reader that was stopped may raise what its broken call looks like: the reason comes first.
                self._stop.check()
                if self.error is not None and not self._keeps:
                    raise self.error
                if self._is_over():
                    return None
                if self._batches:
                    batch = self._batches.popleft()
                    self._bytes -= batch.nbytes
                    self._changed.notify_all()
                    return batch
                if self.error is None:
                    self._start_another()
                if not self._reading:
                    self.is_drained = self.error is None
                    return None
                if self.pauses_at is not None and time.monotonic() > self.pauses_at:
                    return None
                self._changed.wait(STOP_POLL_S)

    def _start_another(self) -> None:
        """Start a reader unless the newest has yet to bring something; with the lock held."""
        if self._waiting and self._opening is None and not self._closed and len(self._reading) < READERS:
            thread = threading.Thread(target=self._read, args=(self._waiting.popleft(),), name="reader", daemon=True)
            self._opening = thread
            self._reading.append(thread)
            thread.start()

    def _read(self, reader: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        """Drain one reader, on this thread to the last: its network call lives here."""
        error: BaseException | None = None
        try:
            batches = reader()
            try:
                for number, batch in enumerate(batches):
                    if number == 1:
                        self._has_opened()
                    self._put(batch)
            finally:
                close = getattr(batches, "close", None)
                if close is not None:
                    close()
        except _Closed:
            error = None
        except BaseException as raised:  # noqa: BLE001 - raised again by the COPY's thread
            error = raised
        self._finish(error)

    def _put(self, batch: pa.RecordBatch) -> None:
        """Wait for room; raises _Closed when the COPY is over."""
        size = batch.nbytes
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < QUEUE_BYTES or self._closed)
            if self._closed:
                raise _Closed
            self._batches.append(batch)
            self._bytes += size
            self._changed.notify_all()

    def _finish(self, error: BaseException | None) -> None:
        """This thread has no more batches, or failed; another takes its place, unless there are rows enough."""
        with self._changed:
            self._has_opened()
            self._reading.remove(threading.current_thread())
            self.error = self.error or error
            if self.error is None and (not self._reading or self._bytes < QUEUE_BYTES // 2):
                self._start_another()
            self._changed.notify_all()

    def _has_opened(self) -> None:
        with self._changed:
            if self._opening is threading.current_thread():
                self._opening = None


class _Stream:
    """The file that copy_expert reads: each read hands over one prepared buffer, whatever size was asked for."""

    def __init__(
        self,
        feed: Iterable[pa.RecordBatch],
        encoder: BatchEncoder,
        on_batch: Callable[[int, int], None],
        connection: Connection,
    ) -> None:
        self.bytes = 0
        self.answered = False
        self.error: BaseException | None = None
        self._buffers = self._encode(feed, encoder, on_batch)
        self._socket = select.poll()
        self._socket.register(connection.fileno(), select.POLLIN)

    def read(self, size: int = -1, /) -> bytes:
        try:
            data = next(self._buffers, b"")
        except BaseException as error:
            self.error = error
            raise
        # libpq would send to the end what PostgreSQL no longer wants to hear, and may have said so while rows were
        # waited for. It still does where it took the answer from the socket itself, which it may when a send blocks:
        # that costs time, nothing else.
        if self._socket.poll(0):
            self.answered = True
            raise _Closed
        self.bytes += len(data)
        return data

    def _encode(
        self, feed: Iterable[pa.RecordBatch], encoder: BatchEncoder, on_batch: Callable[[int, int], None]
    ) -> Iterator[bytes]:
        yield encoder.header()
        for batch in feed:
            before = self.bytes
            yield from encoder.encode(batch)
            on_batch(batch.num_rows, self.bytes - before)
        yield encoder.finish()
