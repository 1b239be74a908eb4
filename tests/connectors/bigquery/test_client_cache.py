from __future__ import annotations

import threading

from connectors.bigquery.client import ClientCache, Clients, Endpoints
from connectors.bigquery.options import BigQueryOptions

EMULATOR = Endpoints("http://127.0.0.1:9", "127.0.0.1:9")


def options(n: int) -> BigQueryOptions:
    return BigQueryOptions(f"project-{n}")


def watch(clients: Clients, closed: list[str]) -> Clients:
    clients.close = lambda: closed.append(clients.options.project)  # type: ignore[method-assign]
    return clients


def test_the_same_options_share_clients():
    cache = ClientCache()
    first = cache.borrow(options(1), EMULATOR)
    assert cache.borrow(options(1), EMULATOR) is first
    assert cache.borrow(options(2), EMULATOR) is not first
    assert cache.borrow(options(1), Endpoints("http://127.0.0.1:8")) is not first


def test_clients_are_kept_when_given_back_and_closed_when_pushed_out():
    cache, closed = ClientCache(size=2), []
    for n in (1, 2):
        cache.give_back(watch(cache.borrow(options(n), EMULATOR), closed))
    assert closed == []
    cache.give_back(cache.borrow(options(1), EMULATOR))
    cache.borrow(options(3), EMULATOR)
    assert closed == ["project-2"]


def test_clients_in_use_are_closed_only_by_their_last_user():
    cache, closed = ClientCache(size=1), []
    used = watch(cache.borrow(options(1), EMULATOR), closed)
    cache.borrow(options(1), EMULATOR)
    cache.borrow(options(2), EMULATOR)
    cache.give_back(used)
    assert closed == []
    cache.give_back(used)
    assert closed == ["project-1"]


def test_many_threads_get_the_same_clients():
    cache, got = ClientCache(), []
    threads = [threading.Thread(target=lambda: got.append(cache.borrow(options(1), EMULATOR))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(clients) for clients in got}) == 1
