"""`python -P emulator_server.py …`: the BigQuery emulator, mended where many read from it at once.

A reader that goes away in the middle of a stream keeps one of the emulator's threads for ever, and a
machine with two cores has six of them: a few killed workers, and nobody can read any more.

Its threads share one DuckDB connection, which holds one result at a time: a query that ends between
another's `execute` and `fetch` hands that one the wrong rows. Here a result is taken before the
connection is let go. And who waits for the connection inside DuckDB waits with Python's own lock, which the one
that has it may need to go on: here they wait outside.

It keeps the rows of every read session for ever: a night of schedules, and the machine is out of
memory. Here the sessions that were not used for longest make room.

It makes one message of up to 65,536 rows, copies it eight times on its way, and hands it from thread to thread:
wide rows take as much of the processor there as at the reader. Here a message has about a megabyte, which stays in
the processor's cache, is put together in one piece, and is sent by the thread that made it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc.aio
import pyarrow as pa
from bqemulator.cli import main
from bqemulator.grpc_api import read_servicer
from bqemulator.storage.engine import DuckDBEngine, _annotate_with_duckdb_types
from bqemulator.streaming import read_session
from google.cloud.bigquery_storage_v1 import types

THREADS = 512  # made when needed
SESSION_BYTES = 1 << 30
SESSIONS_KEPT = 4  # whatever their size
# As many as DuckDB stores together. It makes batches as large as it is told, and copies a large one as it grows.
BATCH_ROWS = 122_880
MESSAGE_BYTES = 1 << 20
# The emulator's own: every message of a stream tells that it is the last.
AT_THE_END = types.StreamStats(progress=types.StreamStats.Progress(at_response_start=0.0, at_response_end=1.0))

_one_at_a_time = threading.RLock()
_sessions_change = threading.Lock()
_execute = DuckDBEngine.execute
_connection_of = DuckDBEngine.connection.fget
_read_rows = read_servicer.BigQueryReadHandler._handle_read_rows


class Result:
    """The rows of a finished statement, with what the emulator asks of a DuckDB cursor."""

    def __init__(self, rows: list[tuple[Any, ...]], to_arrow_table: Callable[[], pa.Table]) -> None:
        self._rows = iter(rows)
        self.to_arrow_table = to_arrow_table

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(self._rows, None)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._rows)


class Guarded:
    """The engine's DuckDB connection, for one thread at a time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            with _one_at_a_time:
                return found(*arguments, **named)

        return call


def execute(engine: DuckDBEngine, sql: str, parameters: list[Any] | None = None) -> Result:
    """Run a statement and take its rows; their Arrow form, asked for of queries only, runs it again."""
    with _one_at_a_time:
        rows = _execute(engine, sql, parameters).fetchall()
    return Result(rows, functools.partial(fetch_arrow, engine, sql, parameters))


def fetch_arrow(engine: DuckDBEngine, sql: str, parameters: list[Any] | None = None) -> pa.Table:
    """Run a statement and take its Arrow table."""
    with _one_at_a_time:
        # Of a SELECT that is only looked at before, all of DuckDB's threads make the table.
        is_select = parameters is None and sql.startswith("SELECT ")
        result = engine.connection.sql(sql) if is_select else _execute(engine, sql, parameters)
        description = result.description
        return _annotate_with_duckdb_types(result.to_arrow_table(BATCH_ROWS), description)


class Sessions(dict[str, read_session.ReadSessionState]):
    """Read sessions by name, the one used last at the end; those at the front go when there are too many bytes."""

    def __setitem__(self, name: str, session: read_session.ReadSessionState) -> None:
        with _sessions_change:
            super().__setitem__(name, session)
            held = sum(kept.table.nbytes for kept in self.values())
            for oldest in list(self)[:-SESSIONS_KEPT]:
                if held <= SESSION_BYTES:
                    return
                held -= self.pop(oldest).table.nbytes

    def get(self, name: str, default: Any = None) -> Any:
        with _sessions_change:
            if name not in self:
                return default
            session = self.pop(name)
            super().__setitem__(name, session)
            return session


async def read_rows(handler: Any, request: bytes, context: Any) -> AsyncIterator[bytes]:
    """The messages of a stream; Avro is left to the emulator."""
    stream = types.ReadRowsRequest.deserialize(request).read_stream
    session = read_session.get_session(stream.rpartition("/streams/")[0])
    if session is None or session.data_format != read_session.FORMAT_ARROW:
        for message in _read_rows(handler, request, context):
            yield message
        return
    rows = read_session.get_stream_data(session.session_name, stream)
    schema = types.ArrowSchema(serialized_schema=session.arrow_schema_bytes)
    for batch in rows.to_batches(max_chunksize=rows_of_a_message(rows)):
        about = types.ReadRowsResponse(row_count=batch.num_rows, stats=AT_THE_END, arrow_schema=schema)
        schema = None
        yield with_batch(types.ReadRowsResponse.serialize(about), batch)
    handler._ctx.metrics.read_streams_active.dec(1)


def rows_of_a_message(rows: pa.Table) -> int:
    return max(1, -(-rows.num_rows // max(1, round(rows.nbytes / MESSAGE_BYTES))))


def with_batch(response: bytes, batch: pa.RecordBatch) -> bytes:
    """A serialized ReadRowsResponse that has a batch as well: fields of a message may stand in any order."""
    data = batch.serialize()
    field = b"\x0a" + varint(data.size)  # ArrowRecordBatch.serialized_record_batch
    return b"".join((response, b"\x22", varint(len(field) + data.size), field, data))  # .arrow_record_batch


def varint(number: int) -> bytes:
    """A whole number as protocol buffers write it: seven bits per byte, the low ones first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*written, number))


if __name__ == "__main__":
    grpc.aio.server = functools.partial(grpc.aio.server, migration_thread_pool=ThreadPoolExecutor(THREADS))
    DuckDBEngine.connection = property(lambda engine: Guarded(_connection_of(engine)))
    DuckDBEngine.execute = execute
    DuckDBEngine.fetch_arrow = fetch_arrow
    read_session._SESSIONS = Sessions()
    read_servicer.BigQueryReadHandler._handle_read_rows = read_rows
    main()
