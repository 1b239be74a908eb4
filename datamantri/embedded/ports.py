"""Free TCP ports on 127.0.0.1, remembered between starts and not handed out twice."""

from __future__ import annotations

import errno
import json
import random
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

from datamantri.embedded.errors import EmbeddedError
from datamantri.embedded.secrets import write_private

# Below the range from which the kernel takes ports for outgoing connections (32768 and up).
CHOICE = range(15_000, 32_000)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether nothing listens on `port`; a port that only waits out old connections counts as free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
                return False
            raise
    return True


def is_open(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


class Ports:
    """Chooses ports for one data directory.

    A chosen port is reserved by the name of an abstract socket, which the kernel frees when this process ends:
    two stacks that start together cannot choose the same one before their servers listen.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._reserved: dict[int, socket.socket] = {}
        self._guard = threading.Lock()

    def choose(self, name: str) -> int:
        """Return the port `name` had last time when it is still free, otherwise a new one."""
        with self._guard:
            known = self._read()
            preferred = [known[name]] if name in known else []
            port = self._first_free([*preferred, *random.sample(CHOICE, 200)])
            self._write({**known, name: port})
            return port

    def choose_from(self, first: int, count: int = 100) -> int:
        """Return `first` or the next free port after it."""
        with self._guard:
            return self._first_free(range(first, min(first + count, 65_536)))

    def give_back(self) -> None:
        with self._guard:
            for holder in self._reserved.values():
                holder.close()
            self._reserved.clear()

    def _first_free(self, candidates: Iterable[int]) -> int:
        for port in candidates:
            if port not in self._reserved and self._reserve(port):
                return port
        raise EmbeddedError("no_free_port", "No free port was found.", "Stop programs that listen on many ports.")

    def _reserve(self, port: int) -> bool:
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0datamantri-port-{port}")
        except OSError as error:
            holder.close()
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        if not is_free(port):
            holder.close()
            return False
        self._reserved[port] = holder
        return True

    def _read(self) -> dict[str, int]:
        if not self._memory.exists():
            return {}
        return {str(name): int(port) for name, port in json.loads(self._memory.read_text()).items()}

    def _write(self, ports: dict[str, int]) -> None:
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        write_private(self._memory, json.dumps(ports, indent=1) + "\n")
