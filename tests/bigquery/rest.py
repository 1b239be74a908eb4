"""The REST side: requests as they come in, what each needs, and what is added to the emulator's answer."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.bigquery.calls import Call
from tests.bigquery.faults import Faults, Pace, Strike, cannot_reset
from tests.bigquery.jobs import Jobs, written_by
from tests.bigquery.roles import NO_TOKEN, Denied, Roles, Unauthenticated
from tests.bigquery.snapshots import Snapshots
from tests.bigquery.statements import TableName
from tests.bigquery.travel import BadTime
from tests.bigquery.upstream import Answer, Upstream

_PATH = re.compile(r"/(?P<upload>upload/)?(?:bigquery/v2/)?projects/(?P<project>[^/]+)(?:/(?P<rest>.*))?")
# As Google words them: https://cloud.google.com/bigquery/docs/error-messages
_REFUSALS = {
    "unavailable": (503, "backendError", "Error encountered during execution. Retrying may solve the problem."),
    "internal": (500, "internalError", "An internal error occurred and the request could not be completed."),
    "deadline": (504, "timeout", "The operation timed out."),
    "exhausted": (429, "rateLimitExceeded", "Exceeded rate limits: too many api requests per user per method."),
}
_BROKEN = Answer(0, {}, b"", breaks="reset")
_PIECE_BYTES = 1 << 14
_ON_TABLE = {"GET": "get", "PUT": "update", "PATCH": "update", "DELETE": "delete"}


class Rest:
    """Answers one request after another, each in a thread of its own; `admit` sees all of them first.

    `reset` breaks the connection that comes from a port.
    """

    def __init__(
        self,
        upstream: Upstream,
        snapshots: Snapshots,
        jobs: Jobs,
        roles: Roles,
        faults: Faults,
        admit: Callable[[Call], str],
    ) -> None:
        self.reset: Callable[[int], object] = cannot_reset
        self._faults = faults
        self._upstream = upstream
        self._snapshots = snapshots
        self._jobs = jobs
        self._roles = roles
        self._admit = admit
        self._uploads: dict[str, list[TableName]] = {}
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, call: Call, path: str, body: bytes) -> Answer:
        """The answer, or what the faults in wait make of it."""
        try:
            who = self._admit(call)
        except Unauthenticated as error:
            return Answer.refusal(401, "required" if str(error) == NO_TOKEN else "authError", str(error))
        strikes = self._faults.meet(call)
        try:
            for strike in strikes:
                if not strike.fault.answered and (instead := self._instead(strike)) is not None:
                    return instead
            answer = self._answer_or_refuse(call, who, path, body)
            for strike in strikes:
                if strike.fault.answered and (instead := self._instead(strike)) is not None:
                    return instead
                if strike.fault.kind == "short" and strike.is_due():
                    answer.breaks = "short"
                elif strike.fault.kind == "rate" and strike.is_due():
                    answer.bytes_per_s = strike.fault.bytes_per_s
            return answer
        finally:
            for strike in strikes:
                strike.end()

    def write(self, body: bytes, bytes_per_s: float, send: Callable[[bytes], object]) -> None:
        """Send an answer's body, no faster than it may be."""
        if not bytes_per_s:
            send(body)
            return
        pace = Pace(bytes_per_s)
        for start in range(0, len(body), _PIECE_BYTES):
            piece = body[start : start + _PIECE_BYTES]
            if wait := pace.seconds(len(piece)):
                self._faults.wait(wait)
            send(piece)

    def _instead(self, strike: Strike) -> Answer | None:
        """What is answered because of a fault; None if the answer is only late, or struck on its way out."""
        fault = strike.fault
        if fault.kind in ("short", "rate") or not strike.is_due():
            return None
        if fault.kind in _REFUSALS:
            return Answer.refusal(*_REFUSALS[fault.kind])
        if fault.kind in ("silence", "slow"):
            self._faults.wait(fault.seconds, because=strike)
        return None if fault.kind == "slow" else _BROKEN

    def _answer_or_refuse(self, call: Call, who: str, path: str, body: bytes) -> Answer:
        try:
            return self._answer(call, who, path, body)
        except Denied as error:
            return Answer.refusal(403, "accessDenied", str(error))
        except BadTime as error:
            return Answer.refusal(400, "invalidQuery", str(error))

    def _answer(self, call: Call, who: str, path: str, body: bytes) -> Answer:
        split = urlsplit(path)
        found = _PATH.fullmatch(split.path)
        forward = partial(self._upstream.ask, call.method, path, call.headers, body)
        if found is None or not found["rest"]:
            return forward()
        project, words = unquote(found["project"]), [unquote(word) for word in found["rest"].split("/")]
        if found["upload"]:
            return self._upload(call, who, project, parse_qs(split.query), body, forward)
        if words[0] in ("jobs", "queries"):
            return self._job(call, who, project, words, body, path)
        if words[0] == "datasets":
            return self._dataset(call, who, project, words, forward)
        return forward()

    def _job(self, call: Call, who: str, project: str, words: list[str], body: bytes, path: str) -> Answer:
        if call.method == "POST" and len(words) == 1:
            content = json.loads(body)

            def forward() -> Answer:
                # Written anew: a job without a name has got one.
                return self._upstream.ask("POST", path, call.headers, json.dumps(content).encode())

            start = self._jobs.insert if words[0] == "jobs" else self._jobs.query
            return start(who, project, content, forward)
        same = partial(self._upstream.ask, call.method, path, call.headers, body)
        if call.method == "GET" and len(words) == 2:
            return (self._jobs.get if words[0] == "jobs" else self._jobs.results)(project, words[1], same)
        return same()

    def _upload(
        self,
        call: Call,
        who: str,
        project: str,
        query: dict[str, list[str]],
        body: bytes,
        forward: Callable[[], Answer],
    ) -> Answer:
        if call.method == "PUT":
            return self._jobs.write(who, self._uploads.get(query["upload_id"][0], []), forward)
        if query.get("uploadType") == ["multipart"]:
            return self._jobs.insert(who, project, _first_part(call.headers["content-type"], body), forward)
        # The first request of a resumable upload only says what will come.
        content = json.loads(body)
        names = written_by(content["configuration"], project)
        answer = forward()
        if answer.is_good:
            place = next(value for name, value in answer.headers.items() if name.lower() == "location")
            self._uploads[parse_qs(urlsplit(place).query)["upload_id"][0]] = names
        return answer

    def _dataset(self, call: Call, who: str, project: str, words: list[str], forward: Callable[[], Answer]) -> Answer:
        """datasets / D / tables / T / data or insertAll"""
        if len(words) >= 4 and words[2] == "tables":
            return self._table(call, who, TableName(project, words[1], words[3]), words[4:], forward)
        if len(words) == 3 and words[2] == "tables":
            verb = "list" if call.method == "GET" else "create"
            self._roles.check_dataset(who, f"bigquery.tables.{verb}", project, words[1])
            if verb == "list":
                return forward()
            return self._create_table(project, words[1], call, forward)
        if len(words) == 2:
            verb = "get" if call.method == "GET" else "update"
            self._roles.check_dataset(who, f"bigquery.datasets.{verb}", project, words[1])
            if call.method == "DELETE":
                with self._snapshots.changing(self._upstream.tables(project, words[1]), forget=True):
                    return forward()
        elif call.method == "POST" and len(words) == 1:
            self._roles.check_project(who, "bigquery.datasets.create", project)
        return forward()

    def _create_table(self, project: str, dataset: str, call: Call, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        if answer.is_good:
            name = TableName.of(answer.content["tableReference"], project)
            # Marked after the fact: only now is it sure that it was not there before.
            with self._snapshots.changing([name], forget=True):
                pass
        return answer

    def _table(self, call: Call, who: str, name: TableName, words: list[str], forward: Callable[[], Answer]) -> Answer:
        if words == ["insertAll"]:
            return self._jobs.write(who, [name], forward)
        if words:
            if self._jobs.behind(name) is None:
                self._roles.check_table(who, "bigquery.tables.getData", name)
            return forward()
        self._roles.check_table(who, f"bigquery.tables.{_ON_TABLE.get(call.method, 'update')}", name)
        if call.method != "GET":
            with self._snapshots.changing([name], forget=call.method == "DELETE"):
                return forward()
        answer = Answer.of(self._upstream.resource(name) or {}) if name in self._upstream.held else forward()
        return Answer.of(self._described(name, answer.content)) if answer.is_good else answer

    def _described(self, name: TableName, resource: dict[str, Any]) -> dict[str, Any]:
        if changed := self._snapshots.changed(name):
            resource["lastModifiedTime"] = str(int(changed.timestamp() * 1000))
        if resource.get("type") == "TABLE" and self._jobs.behind(name) is None:
            rows, size = self._snapshots.at(name, None).num_rows, str(self._snapshots.size(name))
            resource |= {"numBytes": size, "numActiveLogicalBytes": size, "numTotalLogicalBytes": size}
            # The emulator's own number forgets rows that a statement added or took away.
            resource["numRows"] = str(rows)
        return resource


def _first_part(content_type: str, body: bytes) -> dict[str, Any]:
    """The JSON that stands before the data of a multipart upload."""
    found = re.search(r'boundary="?([^";]+)"?', content_type)
    if found is None:
        return {}
    part = body.split(b"--" + found[1].encode(), 2)[1]
    return json.loads(part.replace(b"\r\n", b"\n").split(b"\n\n", 1)[1])


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # connections are broken here on purpose
            super().handle_error(request, client_address)


def _handler(rest: Rest) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            given = rest.answer(Call("rest", self.command, urlsplit(self.path).path, headers), self.path, body)
            self.close_connection = self.close_connection or bool(given.breaks)
            if given.breaks == "reset":
                rest.reset(self.client_address[1])
                return
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(given.body)))
            self.end_headers()
            sent = given.body[: len(given.body) // 2] if given.breaks else given.body
            rest.write(sent, given.bytes_per_s, self.wfile.write)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do

        def log_message(self, *arguments: object) -> None:
            return None

    return Handler
