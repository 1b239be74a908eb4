"""A relay that ends lets go of all that it holds: what it forgot would be told of some later test."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.relay import Relay


@pytest.fixture
def port() -> Iterator[int]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def connect(relay: Relay) -> closing[socket.socket]:
    return closing(socket.create_connection(("127.0.0.1", relay.port)))


def test_connections_that_wait_because_nothing_passes_are_closed(port: int) -> None:
    relay = Relay(port)
    relay.stall()
    with connect(relay) as client:
        while not relay._serving:
            time.sleep(0.001)
        relay.close()
        assert client.recv(1) == b""
    gc.collect()


def test_connections_that_come_as_it_ends_are_closed(port: int) -> None:
    relay = Relay(port)
    # What its loop finds in its next turn.
    relay._loop.call_soon_threadsafe(time.sleep, 0.1)
    with connect(relay), connect(relay):
        relay.close()
    gc.collect()


def test_whoever_breaks_connections_as_it_ends_is_answered(port: int) -> None:
    for _ in range(10):
        relay = Relay(port)
        with ThreadPoolExecutor(2) as pool:
            broken = [pool.submit(relay.reset) for _ in range(40)]
            relay.close()
            assert [one.result() for one in broken] == [0] * 40
    gc.collect()
