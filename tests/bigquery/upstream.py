"""The emulator behind the proxy: its REST answers, and its tables as Arrow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import pyarrow as pa
import urllib3
from google.cloud.bigquery_storage_v1 import types

from tests.bigquery.statements import TableName

CALL_S = 120.0
_SERVICE = "/google.cloud.bigquery.storage.v1.BigQueryRead"
_ANY_SIZE = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
_NOT_PASSED_ON = frozenset(
    ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server", "accept-encoding")
)


@dataclass
class Answer:
    """`breaks`: "reset" for no answer but a broken connection, "short" for the first half of one."""

    status: int
    headers: dict[str, str]
    body: bytes
    breaks: str = ""
    bytes_per_s: float = 0.0

    @classmethod
    def of(cls, content: Mapping[str, Any], status: int = 200) -> Answer:
        return cls(status, {"Content-Type": "application/json"}, json.dumps(content).encode())

    @classmethod
    def refusal(cls, status: int, reason: str, message: str) -> Answer:
        states = {
            **{400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 409: "ALREADY_EXISTS"},
            **{429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"},
        }
        error = {"message": message, "domain": "global", "reason": reason}
        content = {"code": status, "message": message, "errors": [error], "status": states[status]}
        return cls.of({"error": content}, status)

    @property
    def content(self) -> dict[str, Any]:
        return json.loads(self.body) if self.body else {}

    @property
    def is_good(self) -> bool:
        return self.status < 300


class Upstream:
    """`held` are tables that the emulator does not know: their resource, and their rows."""

    def __init__(self, rest: str, storage: str) -> None:
        self.held: dict[TableName, tuple[dict[str, Any], pa.Table]] = {}
        self._rest = rest.rstrip("/")
        self._pool = urllib3.PoolManager(maxsize=16, retries=False, timeout=urllib3.Timeout(CALL_S, connect=5))
        self._channel = grpc.insecure_channel(storage, options=_ANY_SIZE)

    def close(self) -> None:
        self._pool.clear()
        self._channel.close()

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        kept = {name: value for name, value in (headers or {}).items() if name.lower() not in _NOT_PASSED_ON}
        answer = self._pool.request(method, self._rest + path, headers=kept, body=body, redirect=False)
        passed = {name: value for name, value in answer.headers.items() if name.lower() not in _NOT_PASSED_ON}
        return Answer(answer.status, passed, answer.data)

    def resource(self, name: TableName) -> dict[str, Any] | None:
        """The table as REST describes it; None if there is none."""
        if name in self.held:
            return dict(self.held[name][0])
        answer = self.ask("GET", f"/bigquery/v2/{name.path}")
        return answer.content if answer.is_good else None

    def tables(self, project: str, dataset: str) -> list[TableName]:
        path = f"/bigquery/v2/projects/{project}/datasets/{dataset}/tables?maxResults=10000"
        found = self.ask("GET", path).content.get("tables", [])
        return [TableName.of(item["tableReference"], project) for item in found]

    def rows(self, name: TableName) -> pa.Table:
        """All rows of a table, in the emulator's order."""
        if name in self.held:
            return self.held[name][1]
        create = self._channel.unary_unary(
            f"{_SERVICE}/CreateReadSession",
            request_serializer=types.CreateReadSessionRequest.serialize,
            response_deserializer=types.ReadSession.deserialize,
        )
        read = self._channel.unary_stream(
            f"{_SERVICE}/ReadRows",
            request_serializer=types.ReadRowsRequest.serialize,
            response_deserializer=types.ReadRowsResponse.deserialize,
        )
        session = create(
            types.CreateReadSessionRequest(
                parent=f"projects/{name.project}",
                read_session=types.ReadSession(table=name.path, data_format=types.DataFormat.ARROW),
                max_stream_count=1,
            ),
            timeout=CALL_S,
        )
        schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
        batches = [
            pa.ipc.read_record_batch(pa.py_buffer(message.arrow_record_batch.serialized_record_batch), schema)
            for stream in session.streams
            for message in read(types.ReadRowsRequest(read_stream=stream.name), timeout=CALL_S)
        ]
        return pa.Table.from_batches(batches, schema)
