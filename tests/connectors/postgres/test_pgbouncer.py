"""Through a pooler in transaction mode: nothing may hang on the session."""

from __future__ import annotations

import threading

import pytest

from connectors.errors import ConnectorError
from connectors.sql_around import SqlAround
from tests.connectors.memory import MemorySource, batch, in_thread
from tests.connectors.postgres.conftest import ADVISORY_LOCKS
from tests.connectors.postgres.pooler import PGBOUNCER, running_pooler

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


@pytest.fixture
def pooler(options):
    with running_pooler(options) as port:
        yield port


def test_runs_work_through_a_pooler(world, ids, pooler):
    for _ in range(3):
        world.move([1, 2], destination=world.destination(port=pooler))
    world.move([3], "append", destination=world.destination(port=pooler))
    assert ids() == [1, 2, 3]
    assert [step.passed for step in world.destination(port=pooler).check()] == [True] * 6


def test_a_former_owner_behind_the_pooler_is_found_and_ended(world, ids, pooler):
    world.move([1])
    inside, go_on = threading.Event(), threading.Event()

    def pause():
        inside.set()
        go_on.wait(60)

    source = MemorySource([batch([2]), batch([3])], between=pause)
    thread, results = in_thread(lambda: world.move(source=source, destination=world.destination(port=pooler)))
    assert inside.wait(60)
    world.move([4], destination=world.destination(port=pooler))
    go_on.set()
    thread.join(60)
    assert isinstance(results[0], ConnectorError)
    assert results[0].code == "connection_lost"
    assert ids() == [4]


def test_the_name_of_a_run_does_not_stay_on_the_poolers_connection(world, admin, pooler):
    world.move([1], destination=world.destination(port=pooler))
    here = "usename = 'loader' AND datname = current_database()"
    admin.execute(f"SELECT application_name FROM pg_stat_activity WHERE {here}")
    assert {name for (name,) in admin.fetchall()} == {"datamantri"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_sql_around_a_load_that_fails_leaves_no_lock_on_the_poolers_connection(world, admin, pooler, when):
    sql = SqlAround(**{when: ("SELECT pg_advisory_lock(7)", "SELECT 1 / 0")})
    for _ in range(2):
        with pytest.raises(ConnectorError) as failed:
            world.move([1], destination=world.destination(port=pooler), sql=sql)
        assert failed.value.code == "sql_failed"
    admin.execute(ADVISORY_LOCKS)
    assert admin.fetchone() == (0,)


def test_nothing_that_sql_around_a_load_makes_stays_on_the_poolers_connection(world, admin, pooler):
    admin.execute("CREATE TABLE totals (total bigint); GRANT ALL ON totals TO loader")
    gather = ("CREATE TEMP TABLE IF NOT EXISTS seen (id bigint)", "INSERT INTO seen SELECT id FROM flights")
    add_up = "INSERT INTO totals SELECT sum(id) FROM seen"
    locks = "SELECT pg_advisory_lock(7)"
    for ids in ([1, 2], [3, 4]):
        world.move(
            ids, destination=world.destination(port=pooler), sql=SqlAround((*gather[:1], locks), (gather[1], add_up))
        )
    admin.execute("SELECT array_agg(total ORDER BY total) FROM totals")
    assert admin.fetchone() == ([3, 7],)
    admin.execute(ADVISORY_LOCKS)
    assert admin.fetchone() == (0,)
    admin.execute("SELECT count(*) FROM pg_proc WHERE pronamespace::regnamespace::text LIKE 'pg_temp%'")
    assert admin.fetchone() == (0,)
