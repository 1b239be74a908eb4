"""`python -P emulator_server.py …`: the BigQuery emulator, mended where many read from it at once.

A reader that goes away in the middle of a stream keeps one of the emulator's threads for ever, and a
machine with two cores has six of them: a few killed workers, and nobody can read any more.

Its threads share one DuckDB connection, which holds one result at a time: a query that ends between
another's `execute` and `fetch` hands that one the wrong rows. Here a result is taken before the
connection is let go.

It keeps the rows of every read session for ever: a night of schedules, and the machine is out of
memory. Here the sessions that were not used for longest make room.

It makes one message of up to 65,536 rows and copies it eight times on its way: wide rows take as much of the
processor there as at the reader. Here a message has about a megabyte, which stays in the processor's cache.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc.aio
import pyarrow as pa
from bqemulator.cli import main
from bqemulator.grpc_api import read_servicer
from bqemulator.storage.engine import DuckDBEngine, _annotate_with_duckdb_types
from bqemulator.streaming import read_session

THREADS = 512  # made when needed
SESSION_BYTES = 1 << 30
SESSIONS_KEPT = 4  # whatever their size
MESSAGE_BYTES = 1 << 20

_one_at_a_time = threading.RLock()
_sessions_change = threading.Lock()
_execute = DuckDBEngine.execute
_stream_rows = read_session.get_stream_data


class Result:
    """The rows of a finished statement, with what the emulator asks of a DuckDB cursor."""

    def __init__(self, rows: list[tuple[Any, ...]], to_arrow_table: Callable[[], pa.Table]) -> None:
        self._rows = iter(rows)
        self.to_arrow_table = to_arrow_table

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(self._rows, None)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._rows)


def execute(engine: DuckDBEngine, sql: str, parameters: list[Any] | None = None) -> Result:
    """Run a statement and take its rows; their Arrow form, asked for of queries only, runs it again."""
    with _one_at_a_time:
        rows = _execute(engine, sql, parameters).fetchall()
    return Result(rows, functools.partial(fetch_arrow, engine, sql, parameters))


def fetch_arrow(engine: DuckDBEngine, sql: str, parameters: list[Any] | None = None) -> pa.Table:
    """Run a query and take its Arrow table."""
    with _one_at_a_time:
        result = _execute(engine, sql, parameters)
        description = result.description
        return _annotate_with_duckdb_types(result.to_arrow_table(), description)


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


def stream_rows(session: str, stream: str) -> pa.Table | None:
    """The rows of a stream, cut where its messages end."""
    rows = _stream_rows(session, stream)
    if not rows:
        return rows
    step = -(-rows.num_rows // max(1, round(rows.nbytes / MESSAGE_BYTES)))
    return pa.Table.from_batches(rows.to_batches(max_chunksize=step), rows.schema)


def message_of(batch: pa.RecordBatch) -> bytes:
    """A batch as Arrow's IPC message."""
    message: bytes = batch.serialize().to_pybytes()
    return message


if __name__ == "__main__":
    grpc.aio.server = functools.partial(grpc.aio.server, migration_thread_pool=ThreadPoolExecutor(THREADS))
    DuckDBEngine.execute = execute
    DuckDBEngine.fetch_arrow = fetch_arrow
    read_session._SESSIONS = Sessions()
    read_servicer.get_stream_data = stream_rows
    read_servicer.serialize_arrow_record_batch = message_of
    main()
