"""Who may write a target, and that a run is applied once."""

from __future__ import annotations

import threading
import uuid

import pytest

from connectors.errors import ConnectorError, OutcomeUnknown, Overtaken, StaleToken, TransientError
from connectors.postgres import control, control_schema
from connectors.writing import Owner, Target
from tests.connectors.memory import MemorySource, batch, in_thread


def test_every_owner_gets_a_higher_token(world):
    first, second = world.fence(), world.fence()
    assert second.token > first.token
    claimed = world.destination().raise_fence(world.target, world.owner(token=500))
    assert claimed.token == 501


def test_what_was_published_is_told_to_the_next_owner(world):
    receipt = world.move([1, 2])
    fence = world.fence()
    assert fence.last_run is not None
    assert fence.fingerprint == "f"
    assert fence.applied is None
    again = world.fence(run=fence.last_run)
    assert again.applied.rows == 2
    assert again.applied.published_at == receipt.published_at


def test_a_former_owner_cannot_commit(world, ids):
    old = world.destination()
    fence = world.fence(old)
    world.move([1, 2])
    with pytest.raises(StaleToken):
        world.move([7, 8, 9], destination=old, fence=fence)
    assert ids() == [1, 2]


def test_a_former_owner_that_is_paused_in_its_copy_is_ended(world, ids, disposition):
    inside, go_on = threading.Event(), threading.Event()

    def pause():
        inside.set()
        go_on.wait(60)

    source = MemorySource([batch([2]), batch([3])], between=pause)
    thread, results = in_thread(lambda: world.move(disposition=disposition, source=source))
    assert inside.wait(60)
    world.move([4, 5])
    go_on.set()
    thread.join(60)
    assert isinstance(results[0], TransientError)
    assert results[0].code == "connection_lost"
    assert ids() == [4, 5]


def test_a_former_owner_that_is_paused_before_its_commit_is_ended(world, ids):
    """It holds the head's row and the target's lock: the new owner must get past both."""
    inside, go_on = threading.Event(), threading.Event()
    world.move([1])

    def crash(point):
        if point == "publish.before_commit":
            inside.set()
            go_on.wait(60)

    run = uuid.uuid4()
    thread, results = in_thread(lambda: world.move([2], run=run, crash=crash))
    assert inside.wait(60)
    fence = world.fence(run=run)
    assert thread.is_alive()
    assert fence.applied is None
    go_on.set()
    thread.join(60)
    assert isinstance(results[0], OutcomeUnknown)
    assert ids() == [1]


@pytest.mark.parametrize("is_slow", [False, True])
def test_owners_that_race_get_tokens_of_their_own(world, monkeypatch, is_slow):
    """The schema is made by whoever is first, too, and others wait for that."""
    if is_slow:
        slow = control_schema.CREATE.replace(f"lock_timeout = {control_schema.LOCK_TIMEOUT_MS}", "lock_timeout = 100")
        monkeypatch.setattr(control_schema, "CREATE", f"{slow}; SELECT pg_sleep(0.3)")
    started = threading.Barrier(6)

    def race():
        destination = world.destination()
        started.wait()
        return world.fence(destination).token

    racing = [in_thread(race) for _ in range(6)]
    for thread, _ in racing:
        thread.join(60)
    assert sorted(results[0] for _, results in racing) == [2, 3, 4, 5, 6, 7]


def test_a_run_is_applied_once(world, ids):
    run = uuid.uuid4()
    first = world.move([1, 2], "append", run=run)
    source = MemorySource([batch([1, 2])])
    second = world.move(disposition="append", run=run, source=source)
    assert second.published_at == first.published_at
    assert source.reads == 0
    assert ids() == [1, 2]


def test_a_run_is_applied_once_even_by_an_owner_who_did_not_ask(world, ids):
    destination = world.destination()
    fence = world.fence(destination)
    first = world.move([1, 2], "append", destination=destination, fence=fence)
    second = world.move([1, 2], "append", destination=destination, fence=fence)
    assert second.published_at == first.published_at
    assert ids() == [1, 2]
    assert "already" in world.recorder.text()


def test_a_run_whose_plan_was_overtaken_publishes_nothing(world, ids, admin):
    world.move([1])
    destination = world.destination()
    fence = world.fence(destination)
    admin.execute("UPDATE _datamantri.head SET last_run = gen_random_uuid()")
    with pytest.raises(Overtaken):
        world.move([2], destination=destination, fence=fence)
    assert ids() == [1]
    admin.execute("SELECT count(*) FROM _datamantri.applied")
    assert admin.fetchone() == (1,)


def test_a_target_belongs_to_one_pipeline(world):
    world.move([1])
    other = Owner(world.installation, uuid.uuid4(), uuid.uuid4(), 1)
    with pytest.raises(ConnectorError) as refused:
        world.destination().raise_fence(world.target, other, adopt=True)
    assert refused.value.code == "target_owned"
    assert refused.value.field == "table"
    assert str(world.pipeline) in refused.value.message


def test_a_restored_installation_does_not_write_to_the_targets_of_the_first(world):
    world.move([1])
    other = Owner(uuid.uuid4(), world.pipeline, uuid.uuid4(), 1)
    with pytest.raises(ConnectorError, match="another installation"):
        world.destination().raise_fence(world.target, other)


def test_a_table_that_somebody_made_is_refused_until_it_is_adopted(world, admin, ids, connect):
    connection = connect()
    connection.cursor().execute("CREATE TABLE flights (id bigint); INSERT INTO flights VALUES (42)")
    connection.commit()
    for _ in range(2):
        with pytest.raises(ConnectorError) as refused:
            world.fence()
        assert refused.value.code == "target_exists"
        assert "already exists and was not made by this pipeline" in refused.value.message
        assert "Take over" in refused.value.hint
    assert ids() == [42]
    world.move([1], adopt=True)
    world.move([2], "append")
    assert ids() == [1, 2]


def test_a_table_made_after_a_run_that_failed_is_refused_as_well(world, ids, connect):
    world.fence()
    connection = connect()
    connection.cursor().execute("CREATE TABLE flights (id bigint); INSERT INTO flights VALUES (42)")
    connection.commit()
    with pytest.raises(ConnectorError) as refused:
        world.move([1])
    assert refused.value.code == "target_exists"
    assert ids() == [42]


def test_a_target_that_was_dropped_by_hand_is_made_anew(world, ids, admin):
    world.move([1])
    admin.execute("DROP TABLE flights")
    assert world.move([2], "append").method == "create"
    assert ids() == [2]


def test_names_with_a_dot_are_not_mixed_up():
    assert control.target_key(Target("a.b", "c")) != control.target_key(Target("a", "b.c"))


def test_a_session_of_someone_else_that_holds_the_head_is_waited_for_then_named(world, connect, admin, monkeypatch):
    monkeypatch.setattr(control, "FENCE_LIMIT_S", 0.8)
    world.move([1])
    admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA _datamantri TO loader")
    connection = connect()
    connection.cursor().execute("SELECT * FROM _datamantri.head FOR UPDATE")
    with pytest.raises(TransientError) as refused:
        world.fence()
    assert refused.value.code == "fence_blocked"
    connection.rollback()
    world.fence()


def test_records_of_a_newer_version_are_left_alone(world, admin):
    world.fence()
    admin.execute("UPDATE _datamantri.meta SET version = 99")
    with pytest.raises(ConnectorError) as refused:
        world.fence()
    assert refused.value.code == "control_schema_newer"


def test_the_fence_can_be_checked_in_any_transaction(world):
    destination = world.destination()
    fence = world.fence(destination)
    session = destination._open()
    session.execute("BEGIN")
    control.check_fence(session.connection.cursor(), fence)
    session.rollback()
    world.fence()
    session.execute("BEGIN")
    with pytest.raises(StaleToken):
        control.check_fence(session.connection.cursor(), fence)
    session.rollback()
