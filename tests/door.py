"""A small door into a process that stands for a server or a network: its functions, by name, over HTTP on loopback.

Tests and the chaos command start such a process, and tell it through the door what shall go wrong.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import urllib3

_ROOT = Path(__file__).resolve().parent.parent
_START_S, _CALL_S, _END_S = 60.0, 30.0, 20.0


class Door:
    """Answers `POST /name` with a JSON object of keywords: the function's result as JSON, or 400 and its words."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]], *, port: int = 0) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(functions))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def serve(functions: Mapping[str, Callable[..., Any]], addresses: Mapping[str, Any], *, port: int = 0) -> None:
    """Open the door, print all addresses as one line of JSON, and stay until told to end or left alone.

    It ends with SIGTERM, and when its standard input closes, as it does when its parent dies.
    """
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, lambda *_: ended.set())

    def watch_parent() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=watch_parent, daemon=True).start()
    door = Door(functions, port=port)
    print(json.dumps({**addresses, "door": door.url}), flush=True)
    # Nobody reads what else is said: once the pipe was full, whoever says something would wait for ever.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    ended.wait()
    door.close()


class Behind:
    """A process behind a door: `python -m module …`, started here; `addresses` are what it printed."""

    def __init__(self, module: str, arguments: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        # A process that hangs at its start is ended, and the line is empty.
        limit = threading.Timer(_START_S, self.process.kill)
        limit.start()
        line = self.process.stdout.readline()
        limit.cancel()
        if not line:
            raise RuntimeError(f"{module} did not start: it ended with status {self.process.wait(_END_S)}")
        self.addresses: dict[str, Any] = json.loads(line)
        self._pool = urllib3.PoolManager(retries=False, timeout=_CALL_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def call(self, name: str, **arguments: Any) -> Any:
        """Call a function of the process; raises ValueError with its words if it refuses."""
        url = f"{self.addresses['door']}/{name}"
        answer = self._pool.request("POST", url, body=json.dumps(arguments).encode())
        content = json.loads(answer.data)
        if answer.status != 200:
            raise ValueError(content["error"])
        return content["result"]

    def close(self) -> None:
        """End the process, by force if it must be."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(_END_S)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self._pool.clear()


def _handler(functions: Mapping[str, Callable[..., Any]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            name = self.path.strip("/")
            try:
                if name not in functions:
                    raise ValueError(f"there is no {name!r}; there are {', '.join(sorted(functions))}")
                status, content = 200, {"result": functions[name](**json.loads(body or b"{}"))}
            except (TypeError, ValueError) as error:
                status, content = 400, {"error": str(error)}
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            return None

    return Handler
