"""Former states of a target: kept when it is replaced, and put back by an undo."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from psycopg2 import sql

from connectors import undo
from connectors.base import NeverStop
from connectors.column import Column
from connectors.errors import ConnectorError, Held, StaleToken
from connectors.modes import Guard, WriteDisposition, WriteMode
from connectors.receipt import Receipt
from connectors.target_options import Index, PartitionUnit, TargetOptions
from tests.chaos import points
from tests.connectors.memory import ID_NAME, MemorySource
from tests.connectors.postgres.conftest import World


@pytest.fixture
def put_back(world: World, admin: Any) -> Callable[..., Receipt]:
    """Undoes to a former state: the newest, or that of a place in the list."""

    def put_back(
        place: int = 0, *, run: uuid.UUID | None = None, depth: int = 2, crash: Any = lambda point: None, **changes: Any
    ) -> Receipt:
        destination = world.destination()
        states = destination.former_states(world.pipeline)
        fence = world.fence(destination, run)
        request = undo.UndoRequest(world.target, states[place].run, states[place].last_run, depth)
        for name, value in changes.items():
            object.__setattr__(request, name, value)
        return undo.undo(destination, fence, request, reporter=world.recorder, stop=NeverStop(), crash=crash)

    return put_back


def kept_tables(admin: Any) -> list[str]:
    admin.execute("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relname LIKE '\\_datamantri%'")
    return sorted(name for (name,) in admin.fetchall())


def states(world: World) -> list[tuple[int | None, bool, bool]]:
    return [(one.rows, one.is_copy, one.is_there) for one in world.destination().former_states(world.pipeline)]


def test_a_replace_keeps_what_was_there_and_an_undo_puts_it_back(world: World, ids: Any, put_back: Any) -> None:
    world.move([1, 2, 3], undo_depth=1)
    world.move([9], undo_depth=1)
    done = put_back()
    assert ids() == [1, 2, 3]
    assert (done.method, done.rows, done.undo["way"]) == ("undo", 3, "rename")


def test_what_was_undone_can_be_put_back_again(world: World, ids: Any, put_back: Any) -> None:
    for rows in ([1], [2, 2], [3, 3, 3]):
        world.move(rows, undo_depth=2)
    put_back(1)
    assert ids() == [1]
    put_back(0)
    assert ids() == [3, 3, 3]


def test_only_so_many_are_kept_and_none_once_none_is_wanted(world: World, admin: Any) -> None:
    for rows in ([1], [1, 2], [1, 2, 3], [1, 2, 3, 4]):
        done = world.move(rows, undo_depth=2)
    assert done.kept is not None
    assert done.kept["tables"] == 2
    assert done.kept["bytes"] > 0
    assert len(kept_tables(admin)) == 2
    assert world.move([5]).kept is None
    assert kept_tables(admin) == []
    assert states(world) == []


@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_of_rows_that_are_added_or_merged_nothing_is_kept(world: World, admin: Any, disposition: str) -> None:
    world.move([1], disposition, undo_depth=3)
    world.move([2], disposition, undo_depth=3)
    assert kept_tables(admin) == []


def test_rights_of_today_come_with_the_former_table_and_it_has_none_meanwhile(
    world: World, admin: Any, put_back: Any
) -> None:
    world.move([1], undo_depth=1)
    admin.execute("GRANT SELECT ON flights TO reader WITH GRANT OPTION")
    admin.execute(
        "SET ROLE reader; GRANT SELECT ON flights TO auditor; RESET ROLE; GRANT SELECT (id) ON flights TO PUBLIC"
    )
    world.move([2], undo_depth=1)
    (name,) = kept_tables(admin)
    for role in ("reader", "auditor"):
        admin.execute(
            "SELECT has_table_privilege(%s, %s, 'SELECT'), has_any_column_privilege(%s, %s, 'SELECT')", [role, name] * 2
        )
        assert admin.fetchone() == (False, False)
    admin.execute("REVOKE ALL ON flights FROM reader CASCADE; GRANT INSERT ON flights TO landlord")
    admin.execute("COMMENT ON TABLE flights IS 'as of today'")
    put_back()
    admin.execute(
        "SELECT has_table_privilege('landlord', 'flights', 'INSERT'),"
        " has_table_privilege('reader', 'flights', 'SELECT'),"
        " has_column_privilege('reader', 'flights', 'id', 'SELECT'), obj_description('flights'::regclass, 'pg_class')"
    )
    assert admin.fetchone() == (True, False, True, "as of today")


def names_of(admin: Any) -> list[str]:
    admin.execute(
        "SELECT relname FROM pg_class WHERE relname ~ '^flights' AND relkind IN ('r', 'p', 'i', 'I')"
        " UNION SELECT conname FROM pg_constraint WHERE conname ~ '^flights'"
    )
    return sorted(name for (name,) in admin.fetchall())


def indexed(world: World, numbers: list[int], undo_depth: int = 2) -> None:
    world.move(numbers, form=TargetOptions(("id",), (Index(("name",)),)), undo_depth=undo_depth)


def divided(world: World, numbers: list[int], undo_depth: int = 2) -> None:
    """A table of partitions by day."""
    days = pa.array([datetime.date(2026, 1, n) for n in numbers], pa.date32())
    rows = pa.record_batch({"id": pa.array(numbers, pa.int64()), "day": days})
    source = MemorySource([rows], (Column("id", "INT64"), Column("day", "DATE")))
    form = TargetOptions(("id", "day"), (Index(("day",)),), "day", PartitionUnit.DAY)
    world.move(source=source, form=form, undo_depth=undo_depth)


@pytest.mark.parametrize("load", [indexed, divided])
def test_keys_indexes_and_partitions_have_their_names_back(
    world: World, admin: Any, put_back: Any, ids: Any, load: Callable[..., None]
) -> None:
    load(world, [1, 2])
    first = names_of(admin)
    load(world, [7, 8, 9])
    second = names_of(admin)
    assert load is divided or second == first
    put_back()
    assert (names_of(admin), ids()) == (first, [1, 2])
    put_back()
    assert (names_of(admin), ids()) == (second, [7, 8, 9])
    load(world, [4], undo_depth=0)
    assert kept_tables(admin) == []


# In place ---------------------------------------------------------------------------------------


@pytest.fixture
def leaned_on(world: World, admin: Any) -> None:
    """A target with rows 1 to 3, a view on it, and a column that the source lacks."""
    world.move([1, 2, 3], key=("id",), undo_depth=2)
    admin.execute("ALTER TABLE flights ADD note text; UPDATE flights SET note = 'note ' || id")
    admin.execute("CREATE VIEW late AS SELECT * FROM flights")


def notes(admin: Any) -> list[tuple[int, str | None]]:
    admin.execute("SELECT id, note FROM late ORDER BY id")
    return list(admin.fetchall())


@pytest.mark.parametrize("key", [("id",), ()])
def test_what_is_changed_in_place_is_copied_first_and_put_back_in_place(
    world: World, admin: Any, leaned_on: None, put_back: Any, key: tuple[str, ...]
) -> None:
    before = notes(admin)
    done = world.move([2, 3, 4], key=key, undo_depth=2)
    assert done.kept is not None
    assert (done.method, done.kept["copied_rows"], states(world)) == ("in_place", 3, [(3, True, True)])
    after = notes(admin)
    undone = put_back()
    assert (notes(admin), undone.undo["way"]) == (before, "in_place")
    assert put_back().undo["way"] == "in_place"
    assert notes(admin) == after
    assert len(kept_tables(admin)) == 1


def test_a_copy_is_its_owners_alone_whatever_default_privileges_say(
    world: World, admin: Any, leaned_on: None, put_back: Any
) -> None:
    admin.execute("ALTER DEFAULT PRIVILEGES FOR ROLE loader IN SCHEMA public GRANT SELECT ON TABLES TO reader")
    admin.execute("ALTER DEFAULT PRIVILEGES FOR ROLE loader GRANT ALL ON TABLES TO PUBLIC")
    for change in (lambda: world.move([2, 3, 4], key=("id",), undo_depth=2), put_back):
        change()
        (name,) = kept_tables(admin)
        admin.execute(
            "SELECT relname FROM pg_class, aclexplode(relacl) WHERE grantee <> relowner AND relname = %s", (name,)
        )
        assert admin.fetchall() == []


def test_where_nothing_changes_in_place_nothing_is_copied(world: World, admin: Any, leaned_on: None) -> None:
    world.move([1, 2, 3], key=("id",), undo_depth=2)
    assert kept_tables(admin) == []


def test_a_table_that_something_came_to_depend_on_gets_its_rows_back(
    world: World, admin: Any, ids: Any, put_back: Any
) -> None:
    world.move([1, 2], undo_depth=1)
    world.move([3], undo_depth=1)
    admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    assert put_back().undo["way"] == "in_place"
    assert ids() == [1, 2]
    admin.execute("SELECT count(*) FROM late")
    assert admin.fetchone() == (2,)
    admin.execute("DROP VIEW late")
    put_back()
    assert ids() == [3]


def test_in_place_other_columns_than_then_are_refused(
    world: World, admin: Any, ids: Any, leaned_on: None, put_back: Any
) -> None:
    world.move([4], key=("id",), undo_depth=2)
    admin.execute("ALTER TABLE flights ADD more integer")
    with pytest.raises(ConnectorError) as refused:
        put_back()
    assert refused.value.code == "undo_columns"
    assert "more" in refused.value.message
    assert ids() == [4]


# The head ---------------------------------------------------------------------------------------


def test_the_watermark_and_the_fingerprint_go_back_with_the_table(world: World, admin: Any, put_back: Any) -> None:
    world.move([1], fingerprint="then", undo_depth=1)
    admin.execute("UPDATE _datamantri.head SET watermark = '2026-01-01', watermark_rows = 5")
    world.move([2], fingerprint="now", undo_depth=1)
    run = uuid.uuid4()
    done = put_back(run=run)
    admin.execute(
        "SELECT watermark, watermark_rows, fingerprint, last_run, target_oid = 'flights'::regclass"
        " FROM _datamantri.head"
    )
    assert admin.fetchone() == ("2026-01-01", 5, "then", run, True)
    assert (done.watermark_before, done.watermark_after) == ("", "2026-01-01")


def test_what_was_written_under_another_definition_is_told(world: World, put_back: Any) -> None:
    world.move([1], undo_depth=2, fingerprint="unmasked")
    world.move([2], undo_depth=2, fingerprint="masked")
    world.move([3], undo_depth=2, fingerprint="masked")
    assert [one.is_redefined for one in world.destination().former_states(world.pipeline)] == [False, True]
    assert put_back(0).undo["redefined"] is False
    assert "another definition" not in world.recorder.text()
    assert put_back(1).undo["redefined"] is True
    assert "It was written under another definition than what is there now." in world.recorder.text()


def test_it_is_refused_once_something_else_was_published(world: World, ids: Any, put_back: Any) -> None:
    world.move([1], undo_depth=1)
    world.move([2], undo_depth=1)
    with pytest.raises(ConnectorError) as refused:
        put_back(expected=uuid.uuid4())
    assert refused.value.code == "undo_overtaken"
    assert ids() == [2]


@pytest.mark.parametrize(
    ("done", "code"),
    [
        ("DROP TABLE {}", "kept_gone"),
        ("ALTER TABLE {} RENAME TO mine", "kept_gone"),
        ("ALTER TABLE {} DROP COLUMN name", "kept_altered"),
        ("ALTER TABLE {} ALTER id TYPE numeric", "kept_altered"),
    ],
)
def test_a_former_table_that_somebody_touched_is_noticed(
    world: World, admin: Any, ids: Any, put_back: Any, done: str, code: str
) -> None:
    world.move([1], undo_depth=1)
    world.move([2], undo_depth=1)
    (name,) = kept_tables(admin)
    admin.execute(sql.SQL(done).format(sql.Identifier(name)))
    assert states(world)[0][2] is (code == "kept_altered")
    with pytest.raises(ConnectorError) as refused:
        put_back()
    assert refused.value.code == code
    assert ids() == [2]
    world.move([3], undo_depth=1)  # and it is in nobody's way


def test_a_target_that_was_dropped_by_hand_comes_back(world: World, admin: Any, ids: Any, put_back: Any) -> None:
    world.move([1, 2], undo_depth=1)
    world.move([3], undo_depth=1)
    admin.execute("DROP TABLE flights")
    put_back()
    assert ids() == [1, 2]
    assert "There was no public.flights" in world.recorder.text()


def test_a_former_table_that_is_being_read_goes_with_a_later_run(
    world: World, admin: Any, connect: Any, ids: Any
) -> None:
    world.move([1], undo_depth=1)
    world.move([2], undo_depth=1)
    (name,) = kept_tables(admin)
    reader = connect()
    reader.cursor().execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(name)))
    world.move([3], undo_depth=1)
    assert (ids(), len(kept_tables(admin))) == ([3], 2)
    assert "stays until the next run" in world.recorder.text()
    reader.rollback()
    world.move([4], undo_depth=1)
    assert len(kept_tables(admin)) == 1


def test_held_rows_keep_the_former_table_once_they_are_approved(world: World, admin: Any, ids: Any) -> None:
    run = uuid.uuid4()
    world.move([1, 2, 3, 4], undo_depth=1)
    with pytest.raises(Held):
        world.move([1], run=run, guard=Guard(), undo_depth=1)
    assert [name for name in kept_tables(admin) if "kept" in name] == []
    done = world.publish_held(run)
    assert (ids(), states(world), done.kept["tables"]) == ([1], [(None, False, True)], 1)


# Crashes ----------------------------------------------------------------------------------------


class Crash(BaseException):
    """As a killed process: nothing of ours runs after it."""


# Whatever points there are.
POINTS = [point.removeprefix(f"{points.UNDO}.") for point in points.names(points.UNDO)]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("in_place", [False, True])
def test_an_undo_that_is_killed_is_done_once(
    world: World, admin: Any, ids: Any, put_back: Any, point: str, in_place: bool
) -> None:
    world.move([1, 2], undo_depth=2)
    world.move([3], undo_depth=2)
    if in_place:
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")

    def crash(at: str) -> None:
        if at == point:
            world.opened[-1]._session.close()  # type: ignore[union-attr]
            raise Crash

    run = uuid.uuid4()
    wanted = world.destination().former_states(world.pipeline)[0]
    with pytest.raises(Crash):
        put_back(run=run, crash=crash)
    assert ids() in ([3], [1, 2])
    fence = world.fence(run=run)
    request = undo.UndoRequest(world.target, wanted.run, wanted.last_run, 2)
    done = undo.undo(world.opened[-1], fence, request, reporter=world.recorder, stop=NeverStop())
    assert (ids(), done.rows, len(states(world))) == ([1, 2], 2, 1)
    admin.execute("SELECT count(*) FROM _datamantri.applied WHERE run = %s", (str(run),))
    assert admin.fetchone() == (1,)


def test_an_outlived_owner_puts_nothing_back(world: World, ids: Any, put_back: Any) -> None:
    world.move([1], undo_depth=1)
    world.move([2], undo_depth=1)
    run = uuid.uuid4()

    def newer(at: str) -> None:
        if at == "plan.after":
            world.fence(run=run)

    with pytest.raises(StaleToken):
        put_back(run=run, crash=newer)
    assert ids() == [2]


@pytest.mark.parametrize(("leans", "said"), [(False, "is kept for an undo"), (True, "a copy of the table")])
def test_what_keeping_costs_is_told_beforehand(world: World, admin: Any, leans: bool, said: str) -> None:
    world.move(range(5_000), key=("id",))
    if leans:
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    admin.execute("SELECT pg_total_relation_size('flights')")
    size = f"({admin.fetchone()[0] / 2**20:,.1f} MiB)"
    assert size != "(0.0 MiB)"
    destination = world.destination()
    for depth, is_told in ((0, False), (2, True)):
        mode = WriteMode(WriteDisposition.REPLACE, undo_depth=depth)
        told = [mind for mind in destination.forecast(world.target, ID_NAME, mode).minds if said in mind]
        assert [size in mind for mind in told] == [True] * is_told


@pytest.mark.parametrize(
    ("by_hand", "told"),
    [
        ("", None),
        ("DELETE FROM {} WHERE id = 1", "Its run left 3 rows."),
        ("UPDATE {} SET id = 7 WHERE id = 1", "1 of its rows were written since."),
        ("DELETE FROM {0} WHERE id = 1; INSERT INTO {0} (id) VALUES (8)", "1 of its rows were written since."),
    ],
    ids=["nobody", "deleted", "updated", "as many as before"],
)
@pytest.mark.parametrize("way", ["rename", "in_place"])
def test_rows_of_a_kept_table_that_somebody_changed_are_told(
    world: World, admin: Any, put_back: Any, way: str, by_hand: str, told: str | None
) -> None:
    world.move([1, 2, 3], undo_depth=2)
    if way == "in_place":
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    world.move([4], undo_depth=2)
    (table,) = kept_tables(admin)
    if by_hand:
        admin.execute(by_hand.format(table))
    done = put_back()
    said = [line for _, line in world.recorder.lines if "was changed by someone else" in line]
    assert done.undo["way"] == way
    assert done.undo["rows_before"] == 3
    assert bool(said) == bool(told)
    assert told is None or told in said[0]
    again = put_back()  # what was current is whole
    assert (again.undo["rows_before"], again.undo["written_since"]) == (1, 0)


def test_a_person_lets_go_of_what_is_kept_as_far_as_nobody_is_in_the_way(
    world: World, admin: Any, connect: Any, put_back: Any
) -> None:
    for rows in ([1], [1, 2], [1, 2, 3]):
        world.move(rows, undo_depth=2)
    reading = connect()
    newest = world.destination().former_states(world.pipeline)[0]
    with reading.cursor() as cursor:
        admin.execute(f"GRANT SELECT ON {newest.table} TO loader")
        cursor.execute(f"SELECT FROM {newest.table}")
        done = world.destination().drop_former(world.pipeline)
    assert done["dropped"] == 1
    assert [(each["table"], "lock timeout" in each["why"]) for each in done["left"]] == [
        (f"public.{newest.table}", True)
    ]
    assert kept_tables(admin) == [newest.table]
    reading.rollback()
    assert world.destination().drop_former(uuid.uuid4()) == {"dropped": 0, "left": []}
    assert world.destination().drop_former(world.pipeline) == {"dropped": 1, "left": []}
    assert (kept_tables(admin), states(world)) == ([], [])
    world.move([4], undo_depth=1)
    assert len(kept_tables(admin)) == 1
