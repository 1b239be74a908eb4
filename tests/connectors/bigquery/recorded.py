"""Servers that give recorded answers: for what the emulator cannot do or will not refuse.

Google's own clients talk to them. They stand for BigQuery where it says no, says nothing, or honours
what the emulator ignores.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
import pyarrow as pa
from google.cloud.bigquery_storage_v1 import types

_SERVICE = "/google.cloud.bigquery.storage.v1.BigQueryRead"
Answer = tuple[int, dict[str, Any]]


class RestServer:
    """Answers `METHOD path-ending` with a status and JSON, or what a function of the request's body says.

    `requests` keeps method, path, body and headers of each; an answer that is a list is used up one by one.
    """

    def __init__(self) -> None:
        self.clock_s = 0.0  # how far its clock is from this machine's
        self.requests: list[tuple[str, str, dict[str, Any], dict[str, str]]] = []
        self._answers: dict[tuple[str, str], list[Answer | Callable[[dict[str, Any]], Answer]]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, ending: str, *answers: Answer | Callable[[dict[str, Any]], Answer]) -> None:
        """The last answer is given again and again."""
        self._answers[method, ending] = list(answers)

    def refuse(self, method: str, ending: str, status: int, reason: str, message: str) -> None:
        error = {"message": message, "domain": "global", "reason": reason}
        self.answer(method, ending, (status, {"error": {"code": status, "message": message, "errors": [error]}}))

    def bodies(self, method: str, ending: str) -> list[dict[str, Any]]:
        return [body for m, path, body, _ in self.requests if m == method and path.split("?")[0].endswith(ending)]

    def _find(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        for (m, ending), answers in self._answers.items():
            if m == method and path.split("?")[0].endswith(ending):
                found = answers.pop(0) if len(answers) > 1 else answers[0]
                return found(body) if callable(found) else found
        return 404, {"error": {"code": 404, "message": f"nothing recorded for {method} {path}", "errors": []}}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append((self.command, self.path, body, headers))
                status, answer = server._find(self.command, self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(time.time() + server.clock_s)

            def log_message(self, *arguments: object) -> None:
                return None

        return Handler


class StorageServer:
    """A Storage Read API whose answers are functions: `session(request)` and `rows(request, context)`."""

    def __init__(self) -> None:
        self.sessions: list[types.CreateReadSessionRequest] = []
        self.reads: list[types.ReadRowsRequest] = []
        self.session: Callable[[types.CreateReadSessionRequest, grpc.ServicerContext], types.ReadSession] | None = None
        self.rows: Callable[[types.ReadRowsRequest, grpc.ServicerContext], Iterator[types.ReadRowsResponse]] | None = (
            None
        )
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop(None).wait(30)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: StorageServer) -> None:
        self._server = server

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
        self._server.sessions.append(request)
        assert self._server.session is not None
        return self._server.session(request, context)

    def _read(self, request: types.ReadRowsRequest, context: grpc.ServicerContext) -> Iterator[types.ReadRowsResponse]:
        self._server.reads.append(request)
        assert self._server.rows is not None
        yield from self._server.rows(request, context)


def message(numbers: list[int], *, with_schema: bool = True) -> types.ReadRowsResponse:
    """A message of one batch with the column `id`."""
    batch = pa.record_batch({"id": pa.array(numbers, pa.int64())})
    rows = types.ArrowRecordBatch(serialized_record_batch=batch.serialize().to_pybytes())
    response = types.ReadRowsResponse(arrow_record_batch=rows, row_count=len(numbers))
    if with_schema:
        response.arrow_schema = types.ArrowSchema(serialized_schema=batch.schema.serialize().to_pybytes())
    return response
