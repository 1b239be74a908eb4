"""A publish that would empty the table, or take too much out of it, waits for a person."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace

import pytest

from connectors.errors import ConnectorError, Held, TransientError
from connectors.modes import Guard
from tests.connectors.memory import MemorySource, batch

HALF = Guard(zero_rows=True, shrink_percent=50)


@pytest.fixture(params=["by rename", "in place"])
def filled(request, world, admin):
    """A target with ten rows, which a replace will treat in either way."""
    world.move(range(10))
    if request.param == "in place":
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    return world


def staging_tables(admin):
    admin.execute("SELECT relname FROM pg_class WHERE relname LIKE '\\_datamantri\\_%' AND relkind = 'r'")
    return [name for (name,) in admin.fetchall()]


def approve(world, run):
    return world.publish_held(run)


def test_an_empty_source_does_not_empty_the_table(filled, ids):
    with pytest.raises(Held) as held:
        filled.move([], guard=HALF)
    assert held.value.code == "guard_zero_rows"
    assert ids() == list(range(10))


def test_rows_that_shrink_too_much_are_held_with_their_number(filled, ids):
    with pytest.raises(Held, match="6 of 10 rows") as held:
        filled.move(range(4), guard=HALF)
    assert held.value.code == "guard_shrink"
    assert ids() == list(range(10))


def test_a_share_that_is_allowed_passes(filled, ids):
    filled.move(range(5), guard=HALF)
    assert ids() == list(range(5))


def test_without_guards_any_result_is_published(filled, ids):
    filled.move([])
    assert ids() == []


def test_an_empty_table_stays_empty_without_a_question(world, ids):
    world.move([])
    world.move([], guard=HALF)
    assert ids() == []


def test_approved_rows_are_published_as_they_were_staged(filled, ids, admin):
    run = uuid.uuid4()
    with pytest.raises(Held):
        filled.move(range(4), guard=HALF, run=run)
    receipt = approve(filled, run)
    assert ids() == list(range(4))
    assert receipt.rows == 4
    assert staging_tables(admin) == []
    # Whoever asks again finds it done.
    assert approve(filled, run).published_at == receipt.published_at


def test_a_table_that_waited_unlogged_outlives_a_crash_once_it_takes_the_targets_place(filled, ids, admin):
    run = uuid.uuid4()
    with pytest.raises(Held):
        filled.move(range(4), guard=HALF, run=run)
    admin.execute("DROP VIEW IF EXISTS late")
    approve(filled, run)
    admin.execute("SELECT relpersistence FROM pg_class WHERE relname = 'flights'")
    assert admin.fetchone() == ("p",)
    assert ids() == list(range(4))


def test_a_reader_older_than_held_rows_is_waited_for_when_they_take_the_targets_place(world, admin, connect, hurried):
    world.move(range(10))
    admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    reader = connect()
    reader.set_session(isolation_level="REPEATABLE READ")
    reader.cursor().execute("SELECT 1")
    run = uuid.uuid4()
    with pytest.raises(Held):
        world.move(range(4), guard=HALF, run=run)
    admin.execute("DROP VIEW late")
    assert approve(world, run).method == "rename"
    assert "older than the staged rows" in world.recorder.text()


def test_an_overtaken_run_is_refused_and_its_staged_rows_go_with_the_next_load(filled, ids, admin):
    run = uuid.uuid4()
    with pytest.raises(Held):
        filled.move(range(4), guard=HALF, run=run)
    filled.move(range(12), guard=HALF)
    with pytest.raises(ConnectorError) as refused:
        approve(filled, run)
    assert refused.value.code == "overtaken"
    assert ids() == list(range(12))
    filled.move(range(13), guard=HALF)
    assert staging_tables(admin) == []


def test_only_the_newest_held_run_keeps_its_rows(filled, admin):
    first, second = uuid.uuid4(), uuid.uuid4()
    for run in (first, second):
        with pytest.raises(Held):
            filled.move(range(3), guard=HALF, run=run)
    assert staging_tables(admin) == [f"_datamantri_new_{second.hex}"]


def test_discarded_rows_are_gone_and_the_table_is_as_it_was(filled, ids, admin):
    run = uuid.uuid4()
    with pytest.raises(Held):
        filled.move(range(4), guard=HALF, run=run)
    destination = filled.destination()
    fence = filled.fence(destination, run)
    destination.forget_staged(fence, fence.leftovers)
    assert staging_tables(admin) == []
    assert ids() == list(range(10))
    with pytest.raises(ConnectorError) as gone:
        approve(filled, run)
    assert gone.value.code == "staging_gone"


def test_staged_rows_that_a_crash_emptied_are_not_published(filled, ids, admin):
    run = uuid.uuid4()
    with pytest.raises(Held):
        filled.move(range(4), guard=HALF, run=run)
    admin.execute(f"TRUNCATE _datamantri_new_{run.hex}")
    with pytest.raises(ConnectorError) as gone:
        approve(filled, run)
    assert gone.value.code == "staging_gone"
    assert ids() == list(range(10))


def test_a_former_owner_cannot_hold_either(filled, admin):
    destination = filled.destination()
    run = uuid.uuid4()
    fence = filled.fence(destination, run)
    filled.fence(run=run)  # a newer owner
    with pytest.raises(ConnectorError) as stale:
        filled.move([], guard=HALF, destination=destination, fence=fence)
    assert stale.value.code in ("stale_token", "connection_lost")
    assert staging_tables(admin) == []


def test_a_run_that_starts_over_does_not_trip_over_what_it_staged(filled, ids):
    run = uuid.uuid4()
    with pytest.raises(Held):
        filled.move([], guard=HALF, run=run)
    filled.move(range(8), guard=HALF, run=run)
    assert ids() == list(range(8))


def test_rows_that_do_not_arrive_are_noticed(world, ids):
    world.move(range(3))
    source = MemorySource([batch(range(5))])
    source.count = lambda request, plan, *, stop: 6
    with pytest.raises(ConnectorError) as missing:
        world.move(source=source)
    assert missing.value.code == "rows_missing"
    assert missing.value.transient
    assert ids() == list(range(3))


def test_the_receipt_has_the_sources_own_count(world):
    assert world.move(range(5)).source_rows == 5


def recorded(rows, says, counted):
    """A source whose record says `says` of its rows, and that counts them as `counted`."""
    source = MemorySource([batch(range(rows))])
    plan, asked = source.plan, []
    source.plan = lambda *given, **more: replace(plan(*given, **more), recorded_rows=says)

    def count(request, plan, *, stop):
        asked.append(counted)
        return counted

    source.count = count
    return source, asked


def test_as_many_rows_as_the_sources_record_says_need_no_count(world, ids):
    source, asked = recorded(5, says=5, counted=-1)
    assert world.move(source=source).source_rows == 5
    assert ids() == list(range(5))
    assert asked == []


def test_a_record_of_another_moment_is_no_loss(world, ids):
    source, asked = recorded(5, says=4, counted=5)
    assert world.move(source=source).source_rows == 5
    assert ids() == list(range(5))
    assert asked == [5]


def test_fewer_rows_than_recorded_and_counted_are_noticed(world, ids):
    world.move(range(3))
    source, _ = recorded(5, says=6, counted=6)
    with pytest.raises(ConnectorError) as missing:
        world.move(source=source)
    assert missing.value.code == "rows_missing"
    assert ids() == list(range(3))


def test_a_source_that_may_not_count_is_taken_at_its_word_and_said_so(world, ids):
    def refused(request, plan, *, stop):
        raise ConnectorError("Cannot query over table a.b.c without a filter.", code="invalid_query")

    source = MemorySource([batch(range(5))])
    source.count = refused
    receipt = world.move(source=source)
    assert receipt.source_rows is None
    assert ids() == list(range(5))
    assert "not compared with the source's own count: Cannot query over table" in world.recorder.text()


def test_a_count_that_fails_for_a_moment_costs_an_attempt_not_the_check(world, ids):
    def unreachable(request, plan, *, stop):
        raise TransientError("BigQuery did not answer in time.", code="timeout")

    source = MemorySource([batch(range(5))])
    source.count = unreachable
    with pytest.raises(TransientError):
        world.move(source=source)
    assert ids() is None


def test_a_load_that_breaks_does_not_wait_for_the_count(world):
    begun, ended = threading.Event(), threading.Event()

    def endless(request, plan, *, stop):
        forget = stop.on_stop(ended.set)
        begun.set()
        assert ended.wait(60)
        forget()
        stop.check()

    def broken():
        begun.wait(60)
        raise TransientError("The stream broke.")

    source = MemorySource([batch([1]), batch([2])], between=broken)
    source.count = endless
    with pytest.raises(TransientError, match="The stream broke"):
        world.move(source=source)
    assert ended.wait(20)
