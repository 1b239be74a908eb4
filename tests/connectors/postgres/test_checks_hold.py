"""What fails a check waits for a person, whatever way it is published; nothing is lost or doubled on the way."""

from __future__ import annotations

import datetime
import secrets
import uuid
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from connectors import transfer
from connectors.checks import Check, CheckKind, Severity
from connectors.column import Column
from connectors.errors import ConnectorError, Held
from connectors.modes import Guard
from connectors.postgres.auditing import diverting
from connectors.postgres.publish import refreeze
from connectors.quarantine import QuarantineRule
from connectors.target_options import PartitionUnit, TargetOptions
from tests.connectors.memory import MemorySource, PartedSource
from tests.connectors.postgres.conftest import World
from tests.connectors.postgres.test_staged import StagedRun, parts_of

NO_FIVES = Check(CheckKind.RANGE, "no fives", ("id",), maximum="4")
KEEPS = {"append": [1, 2, 5], "replace": [2, 5], "merge": [1, 2, 5]}


def held(world: World, *args: Any, **request: Any) -> uuid.UUID:
    """A run that its checks hold."""
    run = uuid.uuid4()
    with pytest.raises(Held) as raised:
        world.move(*args, run=run, **{"checks": (NO_FIVES,), **request})
    assert raised.value.code == "check_failed"
    return run


def tables(admin: Any) -> list[str]:
    admin.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " ORDER BY relname"
    )
    return [name for (name,) in admin.fetchall()]


def outlives_a_crash(admin: Any, run: uuid.UUID) -> bool:
    """Whether what the run staged is in a table that PostgreSQL does not empty when it recovers."""
    admin.execute("SELECT array_agg(relpersistence::text) FROM pg_class WHERE relname LIKE %s", (f"%{run.hex}%",))
    return admin.fetchone() == (["p"],)


def test_a_failed_check_holds_the_rows_until_they_are_approved(world, admin, ids, disposition):
    run = held(world, [2, 5], disposition)
    assert ids() == [1]
    assert outlives_a_crash(admin, run)
    assert "Check no fives: 1 row of 2 has a value of id above 4." in world.recorder.text()
    receipt = world.publish_held(run, checks=(NO_FIVES,))
    assert ids() == KEEPS[disposition]
    assert [told["status"] for told in receipt.checks] == ["failed"]
    assert tables(admin) == ["flights"]
    assert world.publish_held(run).published_at == receipt.published_at  # once is enough
    assert ids() == KEEPS[disposition]


@pytest.mark.parametrize("how", ["append", "replace", "merge"])
def test_a_first_load_that_is_held_leaves_no_table_behind(world, admin, ids, how):
    run = held(world, [2, 5], how)
    assert ids() is None
    world.publish_held(run)
    assert ids() == [2, 5]
    assert tables(admin) == ["flights"]


@pytest.fixture
def readers_by_default(admin: Any) -> None:
    admin.execute(
        "ALTER DEFAULT PRIVILEGES FOR ROLE loader IN SCHEMA public GRANT SELECT ON TABLES TO reader WITH GRANT OPTION;"
        "ALTER DEFAULT PRIVILEGES FOR ROLE loader GRANT INSERT ON TABLES TO PUBLIC"
    )


def rights_of_others(admin: Any) -> list[tuple[str, str, str, bool]]:
    admin.execute(
        "SELECT relname, grantee::regrole::text, privilege_type, is_grantable FROM pg_class, aclexplode(relacl)"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND grantee <> relowner ORDER BY 1, 2"
    )
    return list(admin.fetchall())


@pytest.mark.parametrize("is_divided", [False, True], ids=["a plain table", "partitions"])
def test_held_rows_are_the_owners_alone_and_published_as_default_privileges_say(
    world, admin, readers_by_default, is_divided
):
    days = pa.array([datetime.date(2026, 1, 2), datetime.date(2026, 1, 5)], pa.date32())
    rows = pa.record_batch({"id": pa.array([2, 5], pa.int64()), "day": days})
    source = MemorySource([rows], (Column("id", "INT64"), Column("day", "DATE")))
    form = TargetOptions(("id", "day"), (), "day" if is_divided else "")
    world.move(source=source, form=form)
    as_made = rights_of_others(admin)
    assert len(as_made) == (4 if is_divided else 2)
    admin.execute("DROP TABLE flights")
    run = held(world, source=source, form=form)
    assert rights_of_others(admin) == []
    world.publish_held(run)
    assert rights_of_others(admin) == as_made


def test_parts_are_staged_for_their_owner_alone(world, admin, readers_by_default):
    run = StagedRun(world, PartedSource(parts_of(1, 300)))
    run.plan()
    assert rights_of_others(admin) == []
    for part in range(3):
        run.load(part)
    run.publish()
    assert [(table, role) for table, role, *_ in rights_of_others(admin)] == [("flights", "-"), ("flights", "reader")]


def test_a_held_first_load_that_is_discarded_leaves_nothing_and_the_next_one_runs(world, admin, ids):
    run = held(world, [2, 5], "merge")
    destination = world.destination()
    fence = world.fence(destination, run)
    destination.forget_staged(fence, fence.leftovers)
    assert tables(admin) == []
    world.move([3], "merge", checks=(NO_FIVES,))
    assert ids() == [3]


def test_a_check_that_only_warns_lets_the_rows_pass(world, ids, disposition):
    receipt = world.move([2, 5], disposition, checks=(replace(NO_FIVES, severity=Severity.WARN),))
    assert ids() == KEEPS[disposition]
    assert [told["status"] for told in receipt.checks] == ["failed"]
    assert ("warning", "Check no fives: 1 row of 2 has a value of id above 4.") in world.recorder.lines


def test_a_check_that_nobody_can_judge_holds_as_well(world, ids):
    run = held(world, [2], checks=(Check(CheckKind.SQL, "broken", query="SELECT nothing FROM {staged}"),))
    assert 'PostgreSQL says: column "nothing" does not exist.' in world.recorder.text()
    world.publish_held(run)
    assert ids() == [2]


@pytest.mark.parametrize("is_in_place", [False, True], ids=["by rename", "in place"])
def test_who_approves_a_check_is_asked_again_where_a_guard_has_something_to_say(world, admin, ids, is_in_place):
    guard = Guard(shrink_percent=50)
    world.move([1, 2, 3, 4])
    if is_in_place:
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    run = held(world, [5], guard=guard)
    with pytest.raises(Held, match="would take 3 of 4 rows") as again:
        world.publish_held(run, guard=guard)
    assert again.value.code == "guard_shrink"
    assert ids() == [1, 2, 3, 4]
    world.publish_held(run, guard=guard)
    assert ids() == [5]


def test_a_worker_that_dies_when_a_guard_holds_what_a_check_had_held_leaves_the_guard_to_be_asked(world, ids):
    """The approval was of the check: that the rows are held again at the destination was told to nobody."""
    guard = Guard(shrink_percent=50)
    world.move([1, 2, 3, 4])
    run = held(world, [5], guard=guard)
    with pytest.raises(Killed):
        world.publish_held(run, approved="check_failed", guard=guard, crash=_at("publish.held"))
    with pytest.raises(Held, match="would take 3 of 4 rows"):
        world.publish_held(run, approved="check_failed", guard=guard)
    assert ids() == [1, 2, 3, 4]
    world.publish_held(run, approved="guard_shrink", guard=guard)
    assert ids() == [5]


@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_what_was_held_is_refused_once_another_run_was_published(world, ids, disposition):
    world.move([1], disposition)
    run = held(world, [2, 5], disposition)
    world.move([3], disposition, checks=(NO_FIVES,))
    with pytest.raises(ConnectorError) as refused:
        world.publish_held(run)
    assert refused.value.code == "overtaken"
    assert 5 not in (ids() or [])


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def test_a_worker_that_dies_around_a_check_loses_and_doubles_nothing(world, admin, ids, disposition):
    run = uuid.uuid4()
    with pytest.raises(Killed):
        world.move([2, 5], disposition, run=run, checks=(NO_FIVES,), crash=_at("publish.checked"))
    with pytest.raises(Killed):
        world.move([2, 5], disposition, run=run, checks=(NO_FIVES,), crash=_at("publish.held"))
    assert ids() == [1]
    with pytest.raises(Held):
        world.move([2, 5], disposition, run=run, checks=(NO_FIVES,))
    with pytest.raises(Killed):
        world.publish_held(run, crash=_at("publish.before_commit"))
    assert ids() == [1]
    world.publish_held(run)
    assert ids() == KEEPS[disposition]
    assert tables(admin) == ["flights"]


def _at(point: str) -> Any:
    def crash(at: str) -> None:
        if at == point:
            raise Killed

    return crash


class CheckedRun(StagedRun):
    """A run in parts, with a check."""

    def request(self, fence: Any) -> transfer.TransferRequest:
        return replace(super().request(fence), checks=(replace(NO_FIVES, maximum="2999"),))


@pytest.mark.parametrize("how", ["append", "replace", "merge"])
def test_a_load_in_parts_is_checked_as_a_whole(world, admin, ids, how):
    world.move([1], how)
    run = CheckedRun(world, PartedSource(parts_of(2)), how)
    for part in range(len(run.plan().parts)):
        run.load(part)
    with pytest.raises(Held, match="2 rows of 3,000 have"):
        run.publish()
    assert ids() == [1]
    assert outlives_a_crash(admin, run.run)
    (result,) = world.recorder.results
    assert sorted(result.sample.rows) == [("3000", "row 3000"), ("3001", "row 3001")]
    receipt = world.publish_held(run.run)
    assert receipt.checks[0]["value"] == 2
    assert ids() == list(range(2 if how == "replace" else 1, 3002))
    assert tables(admin) == ["flights"]


def test_rows_without_checks_still_go_straight_into_the_target(world, admin):
    seen: list[list[str]] = []
    world.move([1], "append")
    world.move([2], "append", crash=lambda at: seen.append(tables(admin)) if at == "publish.checked" else None)
    assert seen == [["flights"]]
    assert world.recorder.results == ()


@pytest.mark.parametrize("others", ["(9), (8), (5)", "(5)"], ids=["no row has this place", "a good row has it"])
def test_a_query_that_tells_other_places_than_those_of_the_bad_rows_publishes_none(world, connect, ids, others):
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE other (id bigint); INSERT INTO other VALUES {others}")
    query = "SELECT o.ctid FROM {staged} AS s JOIN other AS o USING (id) WHERE s.id > 4"
    aside = Check(CheckKind.SQL, "aside", severity=Severity.QUARANTINE, query=query)
    held(world, [1, 5], checks=(aside,), quarantine=QuarantineRule(is_on=True))
    assert "Not all of them could be put aside" in world.recorder.text()
    assert ids() is None


def test_more_bad_rows_of_a_query_than_can_be_put_aside_hold_the_run(world, ids, monkeypatch):
    monkeypatch.setattr(diverting, "MOST_PLACES", 1)
    aside = Check(CheckKind.SQL, "aside", severity=Severity.QUARANTINE, query="SELECT ctid FROM {staged} WHERE id > 4")
    world.move([1, 5], checks=(aside,), quarantine=QuarantineRule(is_on=True))
    assert ids() == [1]
    held(world, [1, 5, 6], checks=(aside,), quarantine=QuarantineRule(is_on=True))
    assert ids() == [1]


@pytest.mark.parametrize("is_divided", [False, True], ids=["one table", "partitions"])
def test_what_a_check_puts_aside_is_seen_by_no_snapshot_however_old(world, admin, connect, is_divided, monkeypatch):
    days = pa.array([datetime.date(2026, 1, 1 + n % 2) for n in range(6)], pa.date32())
    rows = pa.record_batch({"id": pa.array(range(6), pa.int64()), "day": days, "text": pa.array(["a\t\\", None] * 3)})
    columns = (Column("id", "INT64"), Column("day", "DATE"), Column("text", "STRING"))
    form = TargetOptions(("id", "day"), (), "day", PartitionUnit.DAY) if is_divided else TargetOptions(("id",))
    aside = Check(CheckKind.RANGE, "low", ("id",), maximum="2", severity=Severity.QUARANTINE)

    def load(source, *checks):
        world.move(source=source, form=form, checks=checks, quarantine=QuarantineRule(is_on=True))

    def seen(cursor):
        cursor.execute("SELECT id, text FROM flights ORDER BY id")
        return cursor.fetchall()

    load(MemorySource([rows.slice(0, 2)], columns))
    admin.execute("GRANT SELECT ON flights TO loader")
    with connect() as connection, connection.cursor() as old:
        for most, expected in ((2 << 30, 3), (0, 6)):
            monkeypatch.setattr(refreeze, "MOST_BYTES", most)
            old.execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current_snapshot()")
            load(MemorySource([rows], columns), aside)
            assert len(seen(old)) == expected
    assert "older than the publish see the rows" in world.recorder.text()  # of a very large table, here of any
    assert seen(admin) == [(0, "a\t\\"), (1, None), (2, "a\t\\")]


def test_what_rows_have_beside_their_table_counts_for_what_is_written_again(world, admin, monkeypatch):
    monkeypatch.setattr(refreeze, "MOST_BYTES", 200_000)
    long = [secrets.token_hex(100_000) for _ in range(3)]  # nothing that could be compressed away
    rows = pa.record_batch({"id": pa.array([1, 2, 3]), "text": long})
    aside = Check(CheckKind.RANGE, "low", ("id",), maximum="2", severity=Severity.QUARANTINE)
    columns = (Column("id", "INT64"), Column("text", "STRING"))
    world.move(source=MemorySource([rows], columns), checks=(aside,), quarantine=QuarantineRule(is_on=True))
    assert "older than the publish see the rows" in world.recorder.text()
    admin.execute("SELECT id, text FROM flights ORDER BY id")
    assert admin.fetchall() == [(1, long[0]), (2, long[1])]
