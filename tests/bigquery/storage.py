"""The Storage Read API: sessions that keep their rows, streams that begin at any row."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
import pyarrow as pa
from google.cloud.bigquery_storage_v1 import types

from tests.bigquery import filters, sizes
from tests.bigquery.calls import Call
from tests.bigquery.faults import Faults
from tests.bigquery.jobs import Jobs
from tests.bigquery.roles import Denied, Roles, Unauthenticated
from tests.bigquery.snapshots import NoSuchTable, NoSuchTime, Snapshots
from tests.bigquery.statements import TableName
from tests.bigquery.storage_strikes import StorageStrikes
from tests.bigquery.upstream import Upstream

LIFETIME_S = 6 * 3600.0
MESSAGE_BYTES = 1 << 20
SMALL_BYTES = 1_000_000  # what is no more than this is one stream
_STREAMS_MOST = 100
_SERVICE = "/google.cloud.bigquery.storage.v1.BigQueryRead"
_LZ4 = types.ArrowSerializationOptions.CompressionCodec.LZ4_FRAME
_ZSTD = types.ArrowSerializationOptions.CompressionCodec.ZSTD
_CODECS = {_LZ4: "lz4", _ZSTD: "zstd"}
Code = grpc.StatusCode
Messages = Iterator[types.ReadRowsResponse]


@dataclass
class Stream:
    rows: pa.Table
    expires: datetime
    codec: str | None
    project: str


class Storage(grpc.GenericRpcHandler):
    """`admit` sees each call first, then the `faults` that lie in wait for it."""

    def __init__(
        self,
        upstream: Upstream,
        snapshots: Snapshots,
        jobs: Jobs,
        roles: Roles,
        faults: Faults,
        admit: Callable[[Call], str],
    ) -> None:
        self.lifetime_s = LIFETIME_S
        self.message_bytes = MESSAGE_BYTES
        self.small_bytes = SMALL_BYTES
        self.throttle_percent = 0
        self._upstream = upstream
        self._snapshots = snapshots
        self._jobs = jobs
        self._roles = roles
        self._admit = admit
        self.strikes = StorageStrikes(faults, self.expire)
        self._lock = threading.Lock()
        self._streams: dict[str, Stream] = {}
        self._server = grpc.server(
            futures.ThreadPoolExecutor(64), options=[("grpc.max_send_message_length", -1)], handlers=(self,)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait(5)

    def expire(self, session: str = "") -> None:
        """End the life of a session now, or of all."""
        with self._lock:
            for name, stream in self._streams.items():
                if name.startswith(session):
                    stream.expires = min(stream.expires, datetime.now(UTC))

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method == f"{_SERVICE}/CreateReadSession":
            return grpc.unary_unary_rpc_method_handler(
                self._create,
                request_deserializer=types.CreateReadSessionRequest.deserialize,
                response_serializer=types.ReadSession.serialize,
            )
        if details.method == f"{_SERVICE}/ReadRows":
            return grpc.unary_stream_rpc_method_handler(
                self._read,
                request_deserializer=types.ReadRowsRequest.deserialize,
                response_serializer=types.ReadRowsResponse.serialize,
            )
        return None

    def _create(self, request: types.CreateReadSessionRequest, context: grpc.ServicerContext) -> types.ReadSession:
        asked = request.read_session
        words = asked.table.split("/")
        if len(words) != 6 or words[::2] != ["projects", "datasets", "tables"]:
            context.abort(Code.INVALID_ARGUMENT, f"request failed: invalid table name '{asked.table}'")
        name, project = TableName(*words[1::2]), request.parent.removeprefix("projects/")
        call = Call("storage", "CreateReadSession", asked.table, _headers(context))
        who = self._enter(call, context)
        with self.strikes.on_a_session(call, context):
            rows = self._asked_for(who, name, project, asked, context)
            return self._open(project, asked, rows, request.max_stream_count)

    def _asked_for(
        self, who: str, name: TableName, project: str, asked: types.ReadSession, context: grpc.ServicerContext
    ) -> pa.Table:
        if asked.data_format != types.DataFormat.ARROW:
            context.abort(Code.UNIMPLEMENTED, "request failed: only ARROW is served here")
        try:
            self._roles.check_session(who, "bigquery.readsessions.create", project)
            rows = self._rows(who, name, asked.table_modifiers.snapshot_time)
            return filters.narrowed(rows, list(asked.read_options.selected_fields), asked.read_options.row_restriction)
        except Denied as error:
            context.abort(Code.PERMISSION_DENIED, str(error))
        except NoSuchTable:
            context.abort(Code.NOT_FOUND, f"request failed: Not found: Table {name}")
        except (NoSuchTime, filters.BadFilter) as error:
            context.abort(Code.INVALID_ARGUMENT, f"request failed: {error}")

    def _rows(self, who: str, name: TableName, snapshot_time: datetime | None) -> pa.Table:
        if (behind := self._jobs.behind(name)) is not None:
            return self._jobs.rows(*behind)
        self._roles.check_table(who, "bigquery.tables.getData", name)
        resource = self._upstream.resource(name)
        if resource is not None and resource.get("type") not in ("TABLE", "SNAPSHOT"):
            raise filters.BadFilter("non-table entities cannot be read with the storage API")
        return self._snapshots.at(name, snapshot_time)

    def _open(self, project: str, asked: types.ReadSession, rows: pa.Table, streams: int) -> types.ReadSession:
        name = f"projects/{project}/locations/us/sessions/{uuid.uuid4().hex}"
        expires = datetime.now(UTC) + timedelta(seconds=self.lifetime_s)
        codec = _CODECS.get(asked.read_options.arrow_serialization_options.buffer_compression)
        count = 1 if rows.nbytes < self.small_bytes else min(streams or _STREAMS_MOST, _STREAMS_MOST)
        count = min(count, rows.num_rows)
        bounds = [rows.num_rows * i // max(count, 1) for i in range(count + 1)]
        made = {
            f"{name}/streams/{i}": Stream(rows.slice(start, end - start), expires, codec, project)
            for i, (start, end) in enumerate(itertools.pairwise(bounds))
        }
        with self._lock:
            now = datetime.now(UTC)
            # Those that are over keep their names, to be refused by; their rows go.
            for stream in self._streams.values():
                if stream.expires <= now:
                    stream.rows = stream.rows.slice(0, 0)
            self._streams |= made
        size = sizes.logical_bytes(rows)
        return types.ReadSession(
            name=name,
            table=asked.table,
            data_format=asked.data_format,
            read_options=asked.read_options,
            table_modifiers=asked.table_modifiers,
            expire_time=expires,
            arrow_schema=types.ArrowSchema(serialized_schema=rows.schema.serialize().to_pybytes()),
            streams=[types.ReadStream(name=stream) for stream in made],
            estimated_row_count=rows.num_rows,
            estimated_total_bytes_scanned=size,
            estimated_total_physical_file_size=size,
        )

    def _read(self, request: types.ReadRowsRequest, context: grpc.ServicerContext) -> Messages:
        call = Call("storage", "ReadRows", request.read_stream, _headers(context), request.offset)
        who = self._enter(call, context)
        with self._lock:
            stream = self._streams.get(request.read_stream)
        operating = f"there was an error operating on '{request.read_stream}'"
        if stream is None:
            context.abort(Code.NOT_FOUND, f"{operating}: stream not found")
        try:
            self._roles.check_session(who, "bigquery.readsessions.getData", stream.project)
        except Denied as error:
            context.abort(Code.PERMISSION_DENIED, str(error))
        if request.offset > stream.rows.num_rows and stream.expires > datetime.now(UTC):
            context.abort(Code.OUT_OF_RANGE, f"{operating}: requested offset {request.offset} is past the last row")

        def messages() -> Messages:
            for message in self._messages(stream.rows, request.offset, stream.codec):
                _check_alive(stream, operating, context)
                yield message
            # As long as the call goes on, the session may end.
            _check_alive(stream, operating, context)

        _check_alive(stream, operating, context)
        yield from self.strikes.on_a_stream(call, messages(), context)

    def _messages(self, rows: pa.Table, offset: int, codec: str | None) -> Messages:
        options = pa.ipc.IpcWriteOptions(compression=codec)
        position = offset
        schema = types.ArrowSchema(serialized_schema=rows.schema.serialize().to_pybytes())
        for batch in rows.slice(offset).to_batches():
            for piece in _pieces(batch, self.message_bytes):
                data = piece.serialize() if codec is None else _compressed(piece, options)
                before, position = position, position + piece.num_rows
                response = types.ReadRowsResponse(
                    arrow_record_batch=types.ArrowRecordBatch(serialized_record_batch=data.to_pybytes()),
                    row_count=piece.num_rows,
                    stats=types.StreamStats(
                        progress=types.StreamStats.Progress(
                            at_response_start=before / rows.num_rows, at_response_end=position / rows.num_rows
                        )
                    ),
                    throttle_state=types.ThrottleState(throttle_percent=self.throttle_percent),
                    uncompressed_byte_size=piece.nbytes,
                )
                if before == offset:
                    response.arrow_schema = schema
                yield response

    def _enter(self, call: Call, context: grpc.ServicerContext) -> str:
        try:
            return self._admit(call)
        except Unauthenticated as error:
            context.abort(Code.UNAUTHENTICATED, str(error))


def _check_alive(stream: Stream, operating: str, context: grpc.ServicerContext) -> None:
    if stream.expires <= datetime.now(UTC):
        context.abort(Code.FAILED_PRECONDITION, f"{operating}: session expired at {stream.expires.isoformat()}")


def _pieces(batch: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
    """The batch in messages of about `size` bytes; a single row may be larger."""
    if batch.nbytes <= size or batch.num_rows <= 1:
        if batch.num_rows:
            yield batch
        return
    half = batch.num_rows // 2
    yield from _pieces(batch.slice(0, half), size)
    yield from _pieces(batch.slice(half), size)


def _compressed(batch: pa.RecordBatch, options: pa.ipc.IpcWriteOptions) -> pa.Buffer:
    """The batch's message with compressed buffers, without the schema that a stream begins with."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    messages = pa.ipc.MessageReader.open_stream(sink.getvalue())
    messages.read_next_message()
    return messages.read_next_message().serialize()


def _headers(context: grpc.ServicerContext) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
