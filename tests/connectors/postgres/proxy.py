"""A relay in front of PostgreSQL that cuts connections at chosen words, also as a process of its own.

python -m tests.connectors.postgres.proxy --server-port 5432
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any, Literal, get_args

from tests import door
from tests.occasions import Occasions
from tests.relay import Link, Relay

Lost = Literal["request", "answer", "nothing"]
# A COMMIT as psycopg2 sends it: a row of a COPY may hold the word too.
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"


class Proxy(Relay):
    """Passes bytes on until a client sends the word that `cut` was told; then its connection ends.

    `hits` counts the connections that were cut since the last `cut`.
    """

    def __init__(self, server_port: int, *, port: int = 0) -> None:
        super().__init__(server_port, port=port)
        self._word = b""
        self._lost: Lost = "request"
        self._ports: Collection[int] | None = None
        self._occasions = Occasions()
        self._waiting: dict[Link, Lost] = {}

    def cut(self, word: bytes, lost: Lost, *, ports: Collection[int] | None = None, **when: Any) -> None:
        """Cut a connection that says `word`; the first only, unless Occasions' arguments say another.

        With `ports` only connections count that clients made from one of these.

        `lost`: "request", the server never sees it; "answer", the server acts on it and the client hears
        nothing; "nothing", the client hears the answer, and then the connection ends.
        """
        if lost not in get_args(Lost):
            raise ValueError(f"lost is one of {', '.join(get_args(Lost))}")
        self._occasions = Occasions(**when)
        self._lost = lost
        self._ports = ports
        self._word = word

    @property
    def hits(self) -> int:
        return self._occasions.hits

    async def to_server(self, link: Link, data: bytes) -> bytes:
        if not self._word or self._word not in data:
            return data
        if self._ports is not None and link.client_port not in self._ports:
            return data
        if not self._occasions.strikes():
            return data
        if self._lost == "request":
            link.close()
            return b""
        self._waiting[link] = self._lost
        return data

    async def to_client(self, link: Link, data: bytes) -> bytes:
        lost = self._waiting.pop(link, None)
        if lost is None:
            return data
        # The server has answered, so it has done what it was asked.
        if lost == "nothing":
            link.client.write(data)
        link.close()
        return b""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server-port", type=int, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--door-port", type=int, default=0)
    chosen = parser.parse_args()
    with Proxy(chosen.server_port, port=chosen.port) as proxy:

        def slow_down(delay_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
            proxy.delay_s, proxy.bytes_per_s = delay_s, bytes_per_s

        functions = {
            "cut_commit": lambda lost, **when: proxy.cut(COMMIT, lost, **when),
            "cut": lambda word, lost, **when: proxy.cut(word.encode(), lost, **when),
            "hits": lambda: proxy.hits,
            "connections": lambda: proxy.connections,
            "reset": lambda: proxy.reset(),
            "stall": proxy.stall,
            "resume": proxy.resume,
            "slow_down": slow_down,
        }
        door.serve(functions, {"port": proxy.port}, port=chosen.door_port)


if __name__ == "__main__":
    main()
