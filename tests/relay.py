"""A TCP relay: passes bytes between clients and one server, and does what bad networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Self, TypeVar

T = TypeVar("T")
_READ_BYTES = 1 << 18
_CALL_S = 30.0
# Turns of the loop within which a connection that was accepted has begun to be served.
_TURNS = 5


class Link:
    """One client's connection, and the one to the server that is made for it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.client_port: int = client.get_extra_info("peername")[1]
        # By this port the server knows the client.
        self.server_port: int = server.get_extra_info("sockname")[1]

    def reset(self) -> None:
        """Both sides see "connection reset by peer"."""
        for side in (self.client, self.server):
            connection = side.get_extra_info("socket")
            with suppress(OSError):  # closed by the other side at this moment
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            side.transport.abort()

    def close(self) -> None:
        """Both sides see the end of the connection, after what is on its way."""
        for side in (self.client, self.server):
            side.close()

    async def has_closed(self) -> None:
        """Until what is on its way has gone."""
        for side in (self.client, self.server):
            with suppress(OSError):
                await side.wait_closed()


class Relay:
    """Listens at `port`, on loopback unless told, for the server at `server_port` of this machine.

    `delay_s` and `bytes_per_s` may be set at any time. A subclass sees and changes what passes: what
    `to_server` and `to_client` return goes on.
    """

    def __init__(self, server_port: int, *, port: int = 0, host: str = "127.0.0.1") -> None:
        self.delay_s = 0.0
        self.bytes_per_s = 0.0
        self._server_port = server_port
        self._links: set[Link] = set()
        self._serving: set[asyncio.Task[Any]] = set()
        self._asking = threading.Lock()
        self._has_ended = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()
        self._passing = asyncio.Event()
        self._passing.set()
        self._listener = self._ask(asyncio.start_server(self._serve, host, port)).result(_CALL_S)
        self.port: int = self._listener.sockets[0].getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def reset(self, server_port: int | None = None) -> int:
        """Break all connections, or the one that the server sees coming from `server_port`; returns how many."""

        async def reset() -> int:
            chosen = [link for link in self._links if server_port in (None, link.server_port)]
            for link in chosen:
                link.reset()
            return len(chosen)

        with self._asking:
            if self._has_ended:
                return 0
            asked = self._ask(reset())
        return asked.result(_CALL_S)

    def stall(self) -> None:
        """From now on nothing passes: connections stay open, new ones are taken, and both sides hear nothing."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def resume(self) -> None:
        """What was kept back goes on its way."""
        self._loop.call_soon_threadsafe(self._passing.set)

    @property
    def connections(self) -> int:
        return len(self._links)

    def close(self) -> None:
        async def end() -> None:
            for listening in self._listener.sockets:
                self._loop.remove_reader(listening.fileno())
            # Nobody closes what was accepted just before, unless it is served before the listener is gone.
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            self._listener.close()
            serving = list(self._serving)
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

        # What another thread asked for before has its answer.
        with self._asking:
            if self._has_ended:
                return
            self._has_ended = True
            ended = self._ask(end())
        ended.result(_CALL_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def to_server(self, link: Link, data: bytes) -> bytes:
        return data

    async def to_client(self, link: Link, data: bytes) -> bytes:
        return data

    def _ask(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _serve(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._pass_on(from_client, client)
        except asyncio.CancelledError:  # the relay ends; asyncio reports a cancelled connection as an error
            pass
        finally:
            client.transport.abort()
            self._serving.discard(task)

    async def _pass_on(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        await self._passing.wait()
        try:
            from_server, server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            return
        link = Link(client, server)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump(link, from_client, server, self.to_server),
                self._pump(link, from_server, client, self.to_client),
            )
            self._links.discard(link)
            link.close()
            await link.has_closed()
        except asyncio.CancelledError:
            link.reset()
            raise
        finally:
            self._links.discard(link)
            link.close()

    async def _pump(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        see: Callable[[Link, bytes], Awaitable[bytes]],
    ) -> None:
        try:
            while data := await reader.read(_READ_BYTES):
                began = time.monotonic()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._passing.wait()
                writer.write(await see(link, data))
                await writer.drain()
                if self.bytes_per_s:
                    await asyncio.sleep(max(0.0, len(data) / self.bytes_per_s - (time.monotonic() - began)))
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:  # one side is gone, and the other must hear of it
            link.close()
