"""The Storage Read API: sessions at one snapshot, and streams as Arrow record batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import grpc
import pyarrow as pa
from google.api_core.gapic_v1 import routing_header
from google.cloud.bigquery_storage_v1 import types

from connectors.base import StopSignal
from connectors.bigquery import messages
from connectors.bigquery.client import Clients
from connectors.bigquery.errors import Doing, explain, explained
from connectors.errors import ConnectorError, TransientError

SILENCE_S = 60.0
# Google cuts long streams now and then; their own client opens them again in the same way.
REOPEN_MOST, REOPEN_WAIT_S, REOPEN_WAIT_MOST_S = 4, 0.5, 30.0
_SILENCES_MOST = 2
_REOPEN_CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_PAST_THE_END = (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.INVALID_ARGUMENT)


@dataclass(frozen=True)
class Session:
    """An opened read: `streams` by name, none if there are no rows. `expires` is None where the server does not say."""

    name: str
    streams: tuple[str, ...]
    schema: pa.Schema | None
    rows: int | None
    bytes: int | None
    expires: datetime | None

    def row_bytes(self, rows: int | None = None) -> float | None:
        """What BigQuery scans and bills for each of the rows, `rows` where it does not count them; None if unknown."""
        rows = self.rows or rows
        return self.bytes / rows if self.bytes and rows else None


def open_session(
    clients: Clients,
    table_path: str,
    *,
    max_streams: int,
    timeout_s: float,
    doing: Doing,
    snapshot_time: datetime | None = None,
    restriction: str = "",
    columns: Sequence[str] = (),
) -> Session:
    """Open a session over `columns` (none: all), as the table was at `snapshot_time`.

    `restriction` is a condition in GoogleSQL that rows must meet. The connection's project is billed.
    """
    options = types.ReadSession.TableReadOptions(selected_fields=columns, row_restriction=restriction)
    if not clients.endpoints.storage:
        lz4 = types.ArrowSerializationOptions.CompressionCodec.LZ4_FRAME
        options.arrow_serialization_options = types.ArrowSerializationOptions(buffer_compression=lz4)
    session = types.ReadSession(table=table_path, data_format=types.DataFormat.ARROW, read_options=options)
    if snapshot_time is not None:
        session.table_modifiers = types.ReadSession.TableModifiers(snapshot_time=snapshot_time)
    request = types.CreateReadSessionRequest(
        parent=f"projects/{clients.options.project}", read_session=session, max_stream_count=max_streams
    )
    metadata = (routing_header.to_grpc_metadata((("read_session.table", table_path),)),)
    with explained(doing):
        opened = clients.storage.create_read_session(request, timeout=timeout_s, metadata=metadata)
    serialized = opened.arrow_schema.serialized_schema
    return Session(
        name=opened.name,
        streams=tuple(stream.name for stream in opened.streams),
        schema=pa.ipc.read_schema(pa.py_buffer(serialized)) if serialized else None,
        rows=opened.estimated_row_count or None,
        bytes=opened.estimated_total_bytes_scanned or None,
        expires=opened.expire_time,
    )


def read_stream(
    clients: Clients,
    stream: str,
    *,
    start: int,
    stop: StopSignal,
    schema: pa.Schema | None = None,
    reopen: bool = False,
    silence_s: float = SILENCE_S,
    doing: Doing,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `stream` from row `start` on.

    With `reopen`, a stream that the server cut is opened again behind the rows already yielded: only
    for servers that honour the offset. So is one that ends before it has told that all its rows were
    sent, until it gives no more. Raises TransientError with code source_silent after `silence_s`
    without a message, twice.
    """
    position, cuts, silences = start, 0, 0
    progress: float | None = None
    is_in_doubt = False
    while True:
        call = clients.read_rows(stream, position)
        forget = stop.on_stop(call.cancel)
        watch = _SilenceWatch(call.cancel, silence_s)
        rows = 0
        try:
            stop.check()
            for data in watch.messages(call):
                schema, batch, progress = _decode(data, schema, doing)
                if batch.num_rows:
                    yield batch
                    position, rows = position + batch.num_rows, rows + batch.num_rows
                    cuts = silences = 0
            if not reopen or (is_in_doubt and not rows) or _is_whole(position > start, progress):
                return
            is_in_doubt = True
            continue
        except grpc.RpcError as error:
            stop.check()
            failure = _failure(error, watch.is_silent, silence_s, doing)
            may_be_over = (is_in_doubt or progress == 1) and failure.code != "session_lost"
            if may_be_over and not rows and error.code() in _PAST_THE_END:
                return
            cuts, silences = cuts + 1, silences + watch.is_silent
            is_hopeless = cuts > REOPEN_MOST or silences >= _SILENCES_MOST
            if not reopen or is_hopeless or not (watch.is_silent or error.code() in _REOPEN_CODES):
                raise failure from error
            wait_s = REOPEN_WAIT_S * 2 ** (cuts - 1)
            if isinstance(failure, TransientError) and failure.retry_after_s is not None:
                wait_s = failure.retry_after_s
            if wait_s > REOPEN_WAIT_MOST_S:
                raise failure from error
        finally:
            forget()
            watch.close()
            call.cancel()
        _wait(wait_s, stop)


def without_first(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The batches from row `rows` on: for servers that send a stream from its beginning whatever they are asked."""
    for batch in batches:
        if rows < batch.num_rows:
            yield batch.slice(rows) if rows else batch
        rows = max(0, rows - batch.num_rows)


def _is_whole(has_rows: bool, progress: float | None) -> bool:
    """Whether a stream that ended has told that it is at its end; a server that tells no progress is believed."""
    return progress == 1 if progress is not None else has_rows


def _failure(error: grpc.RpcError, is_silent: bool, silence_s: float, doing: Doing) -> ConnectorError:
    if is_silent:
        return TransientError(f"{doing.thing}: BigQuery sent nothing for {silence_s:g} s.", code="source_silent")
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return TransientError(f"{doing.thing}: BigQuery no longer knows the read session.", code="session_lost")
    return explain(error, doing)


def _wait(seconds: float, stop: StopSignal) -> None:
    woken = threading.Event()
    forget = stop.on_stop(woken.set)
    try:
        stop.check()
        woken.wait(seconds)
        stop.check()
    finally:
        forget()


def _decode(data: bytes, schema: pa.Schema | None, doing: Doing) -> tuple[pa.Schema, pa.RecordBatch, float | None]:
    """A message's rows, the schema that they and those after them have, and the progress it tells."""
    try:
        message = messages.parse(data)
        if message.schema:
            schema = pa.ipc.read_schema(pa.py_buffer(message.schema))
        if schema is None:
            raise TransientError(f"{doing.thing}: BigQuery sent rows without their schema.", code="bad_answer")
        return schema, pa.ipc.read_record_batch(_aligned(message.batch), schema), message.progress
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        raise ConnectorError(f"{doing.thing}: a batch of rows cannot be decoded: {error}", code="bad_answer") from error


def _aligned(data: memoryview) -> pa.Buffer:
    """A copy that begins where Arrow's own buffers may: inside a message, numbers lie at odd addresses."""
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return buffer


class _SilenceWatch:
    """Cancels a call when somebody has waited for its next message longer than `limit_s`.

    Time that the reader spends on a message does not count. gRPC itself has a limit for a whole call only.
    """

    def __init__(self, cancel: Callable[[], object], limit_s: float) -> None:
        self.is_silent = False
        self._cancel = cancel
        self._limit_s = limit_s
        self._waiting_since: float | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="bigquery-silence", daemon=True).start()

    def messages(self, call: Iterator[bytes]) -> Iterator[bytes]:
        while True:
            self._waiting_since = time.monotonic()
            message = next(call, None)
            self._waiting_since = None
            if message is None:
                return
            yield message

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(self._limit_s / 4, 5.0)):
            since = self._waiting_since
            if since is not None and time.monotonic() - since > self._limit_s:
                self.is_silent = True
                self._cancel()
                return
