"""Hosts that are none: network namespaces on one bridge, which see this machine's servers through relays."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.relay import Relay

# Of this process's own: another's tests may run on the same machine.
NETWORK = f"10.231.{os.getpid() % 250 + 1}"
HOST = f"{NETWORK}.1"


class NotHere(Exception):
    """Namespaces cannot be made here; the message says why."""


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise NotHere(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass
class Hosts:
    """Named namespaces, each with an address on the bridge; this machine is HOST there."""

    mark: str
    names: tuple[str, ...]
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Hosts:
        if os.geteuid() != 0:
            raise NotHere("only root may make network namespaces")
        if shutil.which("ip") is None:
            raise NotHere("iproute2 is not installed")
        try:
            self._make()
        except NotHere:
            self.stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.close()

    def _make(self) -> None:
        bridge = f"dm{self.mark}"
        self._undo("link", "del", bridge)
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{HOST}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, name in enumerate(self.names, start=2):
            space, outer, inner = self.space(name), self.outer(name), f"i{self.mark}{number}"
            self._undo("netns", "del", space)
            self._undo("link", "del", outer)
            _ip("netns", "add", space)
            _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
            _ip("link", "set", inner, "netns", space)
            _ip("link", "set", outer, "master", bridge, "up")
            _ip("-n", space, "addr", "add", f"{NETWORK}.{number}/24", "dev", inner)
            _ip("-n", space, "link", "set", inner, "up")
            _ip("-n", space, "link", "set", "lo", "up")

    def _undo(self, *words: str) -> None:
        self.stack.callback(lambda: subprocess.run(["ip", *words], capture_output=True, timeout=10, check=False))

    def space(self, name: str) -> str:
        return f"dm{self.mark}-{name}"

    def outer(self, name: str) -> str:
        return f"o{self.mark}{self.names.index(name)}"

    def inside(self, name: str) -> tuple[str, ...]:
        """What runs a command on that host."""
        return ("ip", "netns", "exec", self.space(name))

    def cut_off(self, name: str) -> None:
        """Pull the plug: packets vanish, and nobody is told."""
        _ip("link", "set", self.outer(name), "down")

    def plug_in(self, name: str) -> None:
        _ip("link", "set", self.outer(name), "up")

    def reach(self, port: int) -> int:
        """The port at HOST by which hosts reach this machine's loopback `port`."""
        return self.stack.enter_context(Relay(port, host=HOST)).port

    def reach_url(self, url: str) -> str:
        """The address that hosts use for a server on this machine."""
        parts = urlsplit(url)
        login = (
            f"{parts.username or ''}:{parts.password}@"
            if parts.password
            else f"{parts.username}@"
            if parts.username
            else ""
        )
        return parts._replace(netloc=f"{login}{HOST}:{self.reach(parts.port or 0)}").geturl()


@contextmanager
def hosts(*names: str) -> Iterator[Any]:
    """Make hosts; raises NotHere."""
    with Hosts(f"{os.getpid() % 100_000}", names) as made:
        yield made
