"""Connections that break and servers that restart: nothing half done, and the truth comes out."""

from __future__ import annotations

import socket
import time
import uuid
from dataclasses import replace

import pytest

from connectors.errors import OutcomeUnknown, TransientError, Unreachable
from connectors.postgres.destination import PostgresDestination
from tests.connectors.memory import MemorySource, batch
from tests.connectors.postgres.conftest import end_sessions
from tests.connectors.postgres.proxy import COMMIT, Proxy


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as made:
        yield made


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_connection_lost_at_the_commit_leaves_the_outcome_to_the_next_owner(world, ids, proxy, disposition, lost):
    run = uuid.uuid4()
    through = world.destination(port=proxy.port)

    def cut(point):
        if point == "publish.before_commit":
            proxy.cut(COMMIT, lost)

    with pytest.raises(OutcomeUnknown):
        world.move([2], disposition, destination=through, run=run, crash=cut)
    fence = world.fence(run=run)
    if lost == "answer":
        assert fence.applied is not None
        assert fence.applied.rows == 1
    else:
        assert fence.applied is None
    world.move([2], disposition, run=run)
    assert ids() == ([1, 2] if disposition != "replace" else [2])


def test_a_connection_lost_just_after_the_answer_to_the_commit_is_no_harm(world, ids, proxy, disposition):
    through = world.destination(port=proxy.port)

    def cut(point):
        if point == "publish.before_commit":
            proxy.cut(COMMIT, "nothing")

    world.move([2], disposition, destination=through, crash=cut)
    assert proxy.hits == 1
    assert ids() == ([1, 2] if disposition != "replace" else [2])
    # The next run of this process does not get the dead session.
    through.close()
    world.move([3], disposition, destination=world.destination(port=proxy.port))
    assert ids() == ([1, 2, 3] if disposition != "replace" else [3])


def test_a_connection_that_is_reset_in_the_middle_changes_nothing(world, ids, proxy, disposition):
    through = world.destination(port=proxy.port)
    source = MemorySource([batch([2]), batch([3])], between=proxy.reset)
    with pytest.raises(TransientError) as lost:
        world.move(disposition=disposition, source=source, destination=through)
    assert lost.value.code == "connection_lost"
    assert ids() == [1]


@pytest.mark.parametrize("word", [b"_datamantri.applied (run", b"CREATE TABLE", b"ANALYZE", b"RENAME", b"LOCK TABLE"])
def test_a_connection_lost_before_the_commit_changes_nothing(world, ids, proxy, word):
    world.move([1])
    through = world.destination(port=proxy.port)
    fence = world.fence(through)
    proxy.cut(word, "answer")
    with pytest.raises(TransientError) as lost:
        world.move(range(2000), destination=through, fence=fence)
    assert lost.value.code == "connection_lost"
    assert not isinstance(lost.value, OutcomeUnknown)
    assert ids() == [1]


def test_an_idle_connection_that_was_lost_during_the_plan_is_made_anew(world, ids, admin):
    destination = world.destination()
    fence = world.fence(destination)
    end_sessions(admin)
    world.move([1], destination=destination, fence=fence)
    assert ids() == [1]


def test_a_backend_that_is_ended_in_the_middle_changes_nothing(world, ids, admin, disposition):
    def end():
        end_sessions(admin)

    source = MemorySource([batch([2]), batch([3])], between=end)
    with pytest.raises(TransientError) as lost:
        world.move(disposition=disposition, source=source)
    assert lost.value.code == "connection_lost"
    assert ids() == [1]
    world.move([4], disposition)


def test_a_server_that_crashes_in_the_middle_changes_nothing(world, server, connect):
    world.move([1])
    source = MemorySource([batch(range(50_000)), batch([3])], between=server.kill)
    try:
        with pytest.raises(TransientError) as lost:
            world.move(source=source)
        with pytest.raises(Unreachable):
            world.fence()
    finally:
        server.start()  # the tests after this one need it, whatever was found
    assert lost.value.code == "connection_lost"
    reader = connect()
    reader.autocommit = True
    cursor = reader.cursor()
    cursor.execute("SELECT id FROM flights")
    assert cursor.fetchall() == [(1,)]
    world.move([2])


def test_a_server_that_does_not_answer_is_told_within_the_time_limit(options):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        destination = PostgresDestination(replace(options, port=silent.getsockname()[1]), timeout_s=2)
        began = time.monotonic()
        with pytest.raises(Unreachable):
            destination.schemas()
        assert time.monotonic() - began < 20
