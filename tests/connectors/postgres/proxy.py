"""A TCP proxy in front of PostgreSQL that cuts a connection at a chosen word."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Literal


class Proxy:
    """Passes bytes on until the client sends `word`; then the message is lost, or its answer is.

    `lost="request"`: the server never sees it. `lost="answer"`: the server does, the client hears
    nothing. Only the first connection that says the word is cut.
    """

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._word = b""
        self._lost: Literal["request", "answer"] = "request"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, word: bytes, lost: Literal["request", "answer"]) -> None:
        self._word, self._lost = word, lost

    def close(self) -> None:
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            self._sockets += [client, server]
            threading.Thread(target=self._to_server, args=(client, server), daemon=True).start()
            threading.Thread(target=self._to_client, args=(client, server), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(1 << 16):
                if self._word and self._word in data:
                    self._word = b""
                    if self._lost == "answer":
                        client.shutdown(socket.SHUT_RD)
                        self._drop_answers(client)
                        server.sendall(data)
                        return
                    break
                server.sendall(data)
        except OSError:
            pass  # either side closed: the tests cut connections on purpose, and both are closed below
        self._end(client, server)

    def _drop_answers(self, client: socket.socket) -> None:
        """The client sees the connection close; what the server still says goes nowhere."""
        client.shutdown(socket.SHUT_WR)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := server.recv(1 << 16):
                client.sendall(data)
        except OSError:
            pass  # either side closed: the tests cut connections on purpose, and both are closed below
        self._end(client, server)

    def _end(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
