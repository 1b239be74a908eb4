"""The relay does what it says, here and as a process of its own."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg2
import pytest

from tests.connectors.postgres.proxy import COMMIT, Proxy
from tests.door import Behind


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    with Proxy(server.port) as made:
        yield made


@pytest.fixture
def through(options) -> Callable[[int], psycopg2.extensions.connection]:
    def connect(port: int):
        return psycopg2.connect(
            host="127.0.0.1", port=port, dbname=options.dbname, user=options.user, password=options.password
        )

    return connect


def insert(connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS kept (x text); INSERT INTO kept VALUES ('COMMIT')")
    connection.commit()


def kept(admin) -> int:
    admin.execute("SELECT to_regclass('kept')")
    if admin.fetchone()[0] is None:
        return 0
    admin.execute("SELECT count(*) FROM kept")
    return admin.fetchone()[0]


@pytest.mark.parametrize(("lost", "rows"), [("request", 0), ("answer", 1)])
def test_a_commit_is_lost_before_or_after_the_server_has_seen_it(proxy, through, admin, lost, rows):
    with closing(through(proxy.port)) as connection:
        proxy.cut(COMMIT, lost)
        with pytest.raises(psycopg2.OperationalError):
            insert(connection)
    assert (kept(admin), proxy.hits) == (rows, 1)


def test_only_connections_of_one_process_are_cut(proxy, through, admin):
    with closing(through(proxy.port)) as one, closing(through(proxy.port)) as other:
        with closing(socket.socket(fileno=os.dup(other.fileno()))) as its:
            proxy.cut(COMMIT, "request", ports={its.getsockname()[1]})
        insert(one)
        assert (kept(admin), proxy.hits) == (1, 0)
        with pytest.raises(psycopg2.OperationalError):
            insert(other)
    assert (kept(admin), proxy.hits) == (1, 1)


def test_the_answer_to_a_commit_is_heard_and_then_the_connection_ends(proxy, through, admin):
    with closing(through(proxy.port)) as connection:
        proxy.cut(COMMIT, "nothing")
        insert(connection)
        with pytest.raises(psycopg2.OperationalError):
            insert(connection)
    assert kept(admin) == 1


def test_some_commits_pass_and_some_are_cut(proxy, through, admin):
    proxy.cut(COMMIT, "answer", skip=2, times=2)
    outcomes = []
    for _ in range(6):
        with closing(through(proxy.port)) as connection:
            try:
                insert(connection)
                outcomes.append("heard")
            except psycopg2.OperationalError:
                outcomes.append("lost")
    assert outcomes == ["heard", "heard", "lost", "lost", "heard", "heard"]
    assert (kept(admin), proxy.hits) == (6, 2)


def test_nothing_passes_while_it_is_stalled(proxy, through):
    answered = threading.Event()
    with closing(through(proxy.port)) as connection, connection.cursor() as cursor:
        proxy.stall()

        def ask() -> None:
            cursor.execute("SELECT 1")
            answered.set()

        asking = threading.Thread(target=ask)
        asking.start()
        assert not answered.wait(0.3)
        proxy.resume()
        assert answered.wait(30)
        asking.join()


def test_a_reset_reaches_both_sides(proxy, through, admin):
    with closing(through(proxy.port)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
        assert proxy.connections == 1
        assert proxy.reset() == 1
        with pytest.raises(psycopg2.OperationalError, match=r"reset by peer|server closed the connection"):
            cursor.execute("SELECT 1")
    for _ in range(1000):
        admin.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid])
        if not admin.fetchone()[0]:
            return
        time.sleep(0.03)
    pytest.fail("the server still has the session")


def test_it_is_as_slow_as_it_is_told(proxy, through):
    with closing(through(proxy.port)) as connection, connection.cursor() as cursor:

        def seconds(sql: str) -> float:
            began = time.monotonic()
            cursor.execute(sql)
            return time.monotonic() - began

        proxy.delay_s = 0.1
        assert 0.2 <= seconds("SELECT 1") < 20
        proxy.delay_s = 0.0
        proxy.bytes_per_s = 2_000_000
        assert 0.3 <= seconds("SELECT repeat('x', 1000000)") < 20


def test_where_no_server_answers_connections_end(through):
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))  # the port is nobody else's, and nobody listens
        with Proxy(silent.getsockname()[1]) as proxy, pytest.raises(psycopg2.OperationalError):
            through(proxy.port)


def test_a_process_of_its_own_is_told_through_its_door(server, through, admin):
    with Behind("tests.connectors.postgres.proxy", ["--server-port", str(server.port)]) as proxy:
        port = proxy.addresses["port"]
        with closing(through(port)) as connection:
            proxy.call("cut_commit", lost="answer", times=None, probability=1.0)
            with pytest.raises(psycopg2.OperationalError):
                insert(connection)
        assert (proxy.call("hits"), kept(admin)) == (1, 1)
        with pytest.raises(ValueError, match="lost is one of"):
            proxy.call("cut_commit", lost="all")
        proxy.call("cut", word="", lost="request")
        with closing(through(port)) as connection:
            insert(connection)
            deadline = time.monotonic() + 30
            while proxy.call("connections") > 1 and time.monotonic() < deadline:
                time.sleep(0.02)  # it lets go of the one that was cut when both sides have ended
            assert proxy.call("connections") == 1
            assert proxy.call("reset") == 1
    assert proxy.process.poll() == 0


def test_a_process_of_its_own_ends_with_its_parent(server):
    with Behind("tests.connectors.postgres.proxy", ["--server-port", str(server.port)]) as proxy:
        assert proxy.process.stdin is not None
        proxy.process.stdin.close()
        assert proxy.process.wait(30) == 0
