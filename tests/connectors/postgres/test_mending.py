"""Rows staged in parts that the destination refuses: they wait until somebody has mended it, and are not read again."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Any

import pytest

from connectors.checks import Check, CheckKind, Severity
from connectors.errors import ConnectorError, Held, TransientError
from connectors.modes import Guard, WriteMode
from connectors.postgres import transactions
from connectors.postgres.publish import append, lock
from connectors.quarantine import Beyond, QuarantineRule
from connectors.request import TransferRequest
from tests.connectors.memory import PartedSource, batch
from tests.connectors.postgres.conftest import World
from tests.connectors.postgres.test_staged import Killed, StagedRun

BY_KEY = "ALTER TABLE flights ADD PRIMARY KEY (id)"
VIEW = "CREATE VIEW late AS SELECT * FROM flights"  # so that the table stays
FUNCTION = "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
TRIGGER = "CREATE TRIGGER watch {when} ON flights FOR EACH ROW EXECUTE FUNCTION watch()"


def trigger(body: str, when: str = "BEFORE INSERT") -> str:
    return f"{FUNCTION.format(name='watch', body=body)}; {TRIGGER.format(when=when)}"


DROP_TRIGGER = "DROP FUNCTION watch CASCADE"


@dataclass
class InParts(StagedRun):
    mode: dict[str, Any] | None = None
    more: dict[str, Any] | None = None

    def request(self, fence: Any) -> TransferRequest:
        asked = super().request(fence)
        mode: WriteMode = replace(asked.mode, **(self.mode or {}))
        return replace(asked, mode=mode, **(self.more or {}))

    def staged(self) -> InParts:
        for part in range(len(self.plan().parts)):
            self.load(part)
        self.source.starts.clear()
        return self


def in_parts(world: World, disposition: str = "replace", **more: Any) -> InParts:
    return InParts(world, PartedSource([[batch([2, 3])], [batch([4])]]), disposition, more=more).staged()


def held(publish: Any) -> Held:
    with pytest.raises(Held) as told:
        publish()
    return told.value


def killed_once_held(point: str) -> None:
    if point == "publish.held":
        raise Killed


@pytest.mark.parametrize(
    ("disposition", "breaks", "code", "mends"),
    [
        (
            "append",
            "CREATE TABLE airlines (id bigint PRIMARY KEY); INSERT INTO airlines VALUES (1), (2);"
            " ALTER TABLE flights ADD CONSTRAINT of FOREIGN KEY (id) REFERENCES airlines",
            "foreign_key_violated",
            "INSERT INTO airlines VALUES (3), (4)",
        ),
        (
            "append",  # told at the commit, unless it is asked before
            "CREATE TABLE airlines (id bigint PRIMARY KEY); INSERT INTO airlines VALUES (1), (2); ALTER TABLE flights"
            " ADD CONSTRAINT of FOREIGN KEY (id) REFERENCES airlines DEFERRABLE INITIALLY DEFERRED",
            "foreign_key_violated",
            "INSERT INTO airlines VALUES (3), (4)",
        ),
        (
            "replace",
            f"{VIEW}; ALTER TABLE flights ADD CHECK (id < 4)",
            "check_violated",
            "ALTER TABLE flights DROP CONSTRAINT flights_id_check",
        ),
        (
            "append",
            f"{BY_KEY}; INSERT INTO flights VALUES (3)",
            "duplicate_key",
            "DELETE FROM flights WHERE id = 3",
        ),
        (
            "append",
            "ALTER TABLE flights ADD CONSTRAINT apart EXCLUDE (abs(id - 3) WITH =) WHERE (id > 1)",
            "duplicate_key",
            "ALTER TABLE flights DROP CONSTRAINT apart",
        ),
        (
            "merge",
            trigger("NEW.name = NULL; RETURN NEW;") + "; ALTER TABLE flights ALTER name SET NOT NULL",
            "null_not_allowed",
            "ALTER TABLE flights ALTER name DROP NOT NULL",
        ),
        ("append", trigger("RAISE 'no'; RETURN NEW;"), "trigger_failed", DROP_TRIGGER),
        (
            "merge",
            trigger("INSERT INTO gone VALUES (1); RETURN NEW;"),
            "trigger_failed",
            "CREATE TABLE gone (id int); GRANT INSERT ON gone TO loader",
        ),
        (
            "append",
            trigger("IF NEW.id = 3 THEN RETURN NULL; END IF; RETURN NEW;"),
            "rows_differ",
            DROP_TRIGGER,
        ),
    ],
)
def test_what_refuses_the_rows_is_mended_and_the_run_approved(
    world: World, admin: Any, ids: Any, disposition: str, breaks: str, code: str, mends: str
) -> None:
    world.move([1])
    run = in_parts(world, disposition)
    admin.execute(breaks)
    before = ids()
    told = held(run.publish)
    assert (told.code, told.staged and told.staged[0]) == (code, 3)
    assert "What was read is kept: " in told.hint
    assert "approve the run" in told.hint
    again = held(lambda: world.publish_held(run.run, approved=code))
    assert (again.code, again.hint, ids()) == (code, told.hint, before)
    admin.execute(mends)
    assert [world.publish_held(run.run, approved=code).rows for _ in range(2)] == [3, 3]
    assert ids() == ([] if disposition == "replace" else [1]) + [2, 3, 4]
    assert run.source.starts == []
    admin.execute("SELECT (SELECT count(*) FROM _datamantri.plan), (SELECT count(*) FROM _datamantri.applied)")
    assert admin.fetchone() == (0, 2)


@pytest.mark.parametrize(
    ("disposition", "breaks", "code", "mends"),
    [
        (
            "append",
            "ALTER TABLE flights OWNER TO CURRENT_USER; REVOKE ALL ON flights FROM loader",
            "missing_grant",
            "GRANT SELECT, INSERT ON flights TO loader",
        ),
        (
            "replace",
            f"{BY_KEY}; CREATE TABLE bookings (flight bigint REFERENCES flights ON DELETE CASCADE)",
            "replace_would_break",
            "DROP TABLE bookings",
        ),
        (
            "merge",
            "ALTER TABLE flights ENABLE ROW LEVEL SECURITY; ALTER TABLE flights FORCE ROW LEVEL SECURITY",
            "row_security",
            "ALTER TABLE flights NO FORCE ROW LEVEL SECURITY",
        ),
        (
            "merge",
            "INSERT INTO flights VALUES (1, 'again')",
            "key_not_unique",
            "DELETE FROM flights WHERE name = 'again'",
        ),
        (
            "merge",
            "ALTER TABLE flights DROP COLUMN name",
            "target_column_missing",
            "ALTER TABLE flights ADD COLUMN name text",
        ),
    ],
)
def test_a_target_that_cannot_be_published_to_is_mended_and_the_run_approved(
    world: World, admin: Any, ids: Any, disposition: str, breaks: str, code: str, mends: str
) -> None:
    world.move([1])
    run = in_parts(world, disposition)
    admin.execute(breaks)
    before = ids()
    told = held(run.publish)
    assert (told.code, told.staged and told.staged[0]) == (code, 3)
    admin.execute("SELECT relpersistence::text FROM pg_class WHERE relname = %s", (f"_datamantri_new_{run.run.hex}_1",))
    assert admin.fetchone() == ("p",)
    assert held(lambda: world.publish_held(run.run, approved=code)).code == code
    assert ids() == before
    admin.execute(mends)
    receipts = [world.publish_held(run.run, approved=code) for _ in range(2)]
    assert [(receipt.rows, receipt.source_rows) for receipt in receipts] == [(3, 3)] * 2
    assert ids() == ([] if disposition == "replace" else [1]) + [2, 3, 4]
    assert run.source.starts == []


CONSTRAINT = f"{VIEW}; ALTER TABLE flights ADD CONSTRAINT few CHECK (id < 4)"
DROP_CONSTRAINT = "ALTER TABLE flights DROP CONSTRAINT few"
CASCADES = f"{BY_KEY}; CREATE TABLE bookings (flight bigint REFERENCES flights ON DELETE CASCADE)"
HALF = Guard(shrink_percent=50)
NO_FOURS = Check(CheckKind.RANGE, "no fours", ("id",), maximum="3")


def test_who_mends_a_constraint_is_asked_nothing_twice(world: World, admin: Any, ids: Any) -> None:
    world.move(range(10, 30))
    admin.execute(CONSTRAINT.replace("(id < 4)", "(id < 4) NOT VALID"))
    run = in_parts(world, guard=HALF)
    assert held(run.publish).code == "guard_shrink"
    assert held(lambda: world.publish_held(run.run, approved="guard_shrink", guard=HALF)).code == "check_violated"
    admin.execute(DROP_CONSTRAINT)
    assert world.publish_held(run.run, approved="check_violated", guard=HALF).rows == 3
    assert ids() == [2, 3, 4]


def test_who_mends_the_target_approves_no_check_and_no_guard(world: World, admin: Any, ids: Any) -> None:
    world.move(range(10, 30))
    more: dict[str, Any] = {"guard": HALF, "checks": (NO_FOURS,)}
    run = in_parts(world, **more)
    admin.execute(CASCADES)
    assert held(run.publish).code == "replace_would_break"
    admin.execute("DROP TABLE bookings")
    assert held(lambda: world.publish_held(run.run, **more)).code == "check_failed"
    assert held(lambda: world.publish_held(run.run, **more)).code == "guard_shrink"
    assert world.publish_held(run.run, **more).rows == 3
    assert ids() == [2, 3, 4]


@pytest.mark.parametrize("beyond", [Beyond.HOLD, Beyond.FAIL])
def test_how_many_rows_were_put_aside_is_judged_when_the_target_takes_rows_again(
    world: World, admin: Any, ids: Any, beyond: Beyond
) -> None:
    world.move([1])
    rule = QuarantineRule(is_on=True, most_percent=10, beyond=beyond)
    check = replace(NO_FOURS, severity=Severity.QUARANTINE)
    more = {"checks": (check,), "quarantine": rule}
    run = in_parts(world, **more)
    admin.execute(CASCADES)
    assert held(run.publish).code == "replace_would_break"
    admin.execute("DROP TABLE bookings")
    with pytest.raises(ConnectorError) as judged:
        world.publish_held(run.run, approved="replace_would_break", **more)
    assert (judged.value.code, isinstance(judged.value, Held)) == ("quarantine_limit", beyond is Beyond.HOLD)
    assert ids() == [1]
    if beyond is Beyond.FAIL:
        return
    admin.execute(CONSTRAINT.replace("< 4", "< 3"))
    assert held(lambda: world.publish_held(run.run, approved="quarantine_limit", **more)).code == "check_violated"
    admin.execute(DROP_CONSTRAINT)
    assert world.publish_held(run.run, approved="check_violated", **more).quarantined == {"id: check_failed": 1}
    assert ids() == [2, 3]


def test_a_limit_that_nobody_was_told_of_is_told_again(world: World, admin: Any, ids: Any) -> None:
    """The attempt that was told of it died before it could say so: its run still goes by an older approval."""
    world.move([1])
    rule = QuarantineRule(is_on=True, most_percent=10, beyond=Beyond.HOLD)
    more = {"checks": (replace(NO_FOURS, severity=Severity.QUARANTINE),), "quarantine": rule}
    run = in_parts(world, **more)
    admin.execute(CASCADES)
    assert held(run.publish).code == "replace_would_break"
    admin.execute("DROP TABLE bookings")
    with pytest.raises(Killed):
        world.publish_held(run.run, approved="replace_would_break", crash=killed_once_held, **more)
    for _ in range(2):
        again = held(lambda: world.publish_held(run.run, approved="replace_would_break", **more))
        assert (again.code, ids()) == ("quarantine_limit", [1])
    assert world.publish_held(run.run, approved="quarantine_limit", **more).rows == 2
    assert ids() == [2, 3]


def test_rows_that_are_missing_are_no_reason_to_wait(world: World, admin: Any) -> None:
    world.move([1])
    run = in_parts(world)
    admin.execute(CASCADES)
    run.source.count = lambda *told, **more: 7  # type: ignore[method-assign]
    with pytest.raises(TransientError) as missing:
        run.publish()
    assert missing.value.code == "rows_missing"


def test_a_target_that_the_source_is_to_be_asked_about_is_not_waited_for(world: World, admin: Any) -> None:
    world.move([1])
    run = in_parts(world, checks=(Check(CheckKind.CHECKSUM, "sums"),))
    admin.execute(CASCADES)
    with pytest.raises(ConnectorError) as refused:
        run.publish()
    assert (refused.value.code, isinstance(refused.value, Held)) == ("replace_would_break", False)


@pytest.mark.parametrize("kept", ["SHARE", "ROW EXCLUSIVE"])  # the second as the key's index is made, before a lock
@pytest.mark.parametrize("ends", [False, True])
def test_a_lock_that_somebody_keeps_holds_the_run_when_all_attempts_are_over(
    world: World, connect: Any, ids: Any, monkeypatch: pytest.MonkeyPatch, ends: bool, kept: str
) -> None:
    monkeypatch.setattr(lock, "LIMIT_S", 0.0)
    monkeypatch.setattr(lock, "TRY_MS", 50)
    waits = f"lock_timeout = {append.LOCK_TIMEOUT_MS}"
    assert waits in transactions._BEGIN
    monkeypatch.setattr(transactions, "_BEGIN", transactions._BEGIN.replace(waits, "lock_timeout = 50"))
    world.move([1])
    run = in_parts(world, "merge")
    busy = connect("rebuild")
    busy.cursor().execute(f"LOCK TABLE flights IN {kept} MODE")
    with pytest.raises(ConnectorError) as locked:
        run.publish(ends=lambda error: ends)
    assert (locked.value.code, isinstance(locked.value, Held)) == ("target_locked", ends)
    busy.rollback()
    if ends:
        assert "once that is over, approve the run" in locked.value.hint
        world.publish_held(run.run, approved="target_locked")
    else:
        run.publish()
    assert ids() == [1, 2, 3, 4]


def test_a_full_disk_holds_nothing_that_takes_up_room(world: World, admin: Any, ids: Any) -> None:
    world.move([1])
    run = in_parts(world, "merge")
    admin.execute(trigger("RAISE 'no space left' USING ERRCODE = 'disk_full'; RETURN NEW;"))
    with pytest.raises(ConnectorError) as full:
        run.publish()
    assert (full.value.code, isinstance(full.value, Held), ids()) == ("disk_full", False, [1])


def test_a_run_that_is_to_stop_is_not_held(world: World, admin: Any) -> None:
    world.move([1])
    run = in_parts(world)
    admin.execute(CONSTRAINT)
    with pytest.raises(ConnectorError) as stopped:
        run.publish(ends=lambda error: False)
    assert (stopped.value.code, isinstance(stopped.value, Held)) == ("check_violated", False)


@pytest.mark.parametrize(("breaks", "mends"), [(CONSTRAINT, DROP_CONSTRAINT), (CASCADES, "DROP TABLE bookings")])
def test_a_crash_once_the_rows_are_held_loses_nothing(
    world: World, admin: Any, ids: Any, breaks: str, mends: str
) -> None:
    world.move([1])
    run = in_parts(world)
    admin.execute(breaks)
    with pytest.raises(Killed):
        run.publish(crash=killed_once_held)
    assert held(run.publish).staged is not None
    admin.execute(mends)
    assert [run.publish().rows, run.publish().rows] == [3, 3]
    assert ids() == [2, 3, 4]


def test_what_is_held_is_overtaken_by_a_newer_run(world: World, admin: Any, ids: Any) -> None:
    world.move([1])
    run = in_parts(world)
    admin.execute(CASCADES)
    held(run.publish)
    admin.execute("DROP TABLE bookings")
    world.move([9])
    with pytest.raises(ConnectorError) as late:
        world.publish_held(run.run, approved="replace_would_break")
    assert (late.value.code, ids()) == ("overtaken", [9])


def test_a_table_that_was_put_in_the_place_of_the_one_that_was_planned_on_is_told(
    world: World, admin: Any, ids: Any
) -> None:
    world.move([1])
    run = in_parts(world)
    admin.execute(CASCADES)
    held(run.publish)
    admin.execute("DROP TABLE bookings, flights; CREATE TABLE flights (id bigint); ALTER TABLE flights OWNER TO loader")
    world.publish_held(run.run, approved="replace_would_break")
    assert "since these rows were staged. It is replaced as it is now." in world.recorder.text()
    assert ids() == [2, 3, 4]


def test_rows_of_a_load_in_one_go_that_were_held_for_another_reason_stay_as_well(
    world: World, admin: Any, ids: Any
) -> None:
    world.move(range(10, 30))
    admin.execute(CONSTRAINT.replace("< 4", "> 2").replace(")", ") NOT VALID"))
    run = uuid.uuid4()
    assert held(lambda: world.move([2, 3], run=run, guard=HALF)).code == "guard_shrink"
    assert held(lambda: world.publish_held(run, guard=HALF)).code == "check_violated"
    admin.execute(f"DROP VIEW late; {DROP_CONSTRAINT}; {CASCADES}")
    assert held(lambda: world.publish_held(run, guard=HALF)).code == "replace_would_break"
    admin.execute("DROP TABLE bookings")
    assert world.publish_held(run, guard=HALF).rows == 2
    assert ids() == [2, 3]
