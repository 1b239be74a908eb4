"""A merge that knows which rows are gone from its source: it marks them, or deletes them, and says how many."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from psycopg2 import sql

from connectors.base import NeverStop
from connectors.checks import Check, CheckKind, Severity, Status
from connectors.column import Column
from connectors.errors import ConnectorError, Held
from connectors.modes import Deletes, Guard, Refresh, WriteDisposition, WriteMode
from connectors.receipt import summary
from connectors.target_options import PartitionUnit, TargetOptions
from connectors.writing import Changes
from tests.connectors.memory import ID_NAME, MemorySource, PartedSource, batch
from tests.connectors.postgres.test_staged import StagedRun

SNAPSHOT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HALF = Guard(zero_rows=True, shrink_percent=50)
DAY_ID = (Column("id", "INT64"), Column("day", "DATE"))
MONTHS = TargetOptions(partition_column="day", partition_unit=PartitionUnit.MONTH)


class At(MemorySource):
    """A source whose snapshot is of a given hour."""

    def __init__(self, ids, hour=3, **more):
        super().__init__([batch(ids)] if len(ids) else [], **more)
        self.hour = hour

    def plan(self, *given, **more):
        return replace(super().plan(*given, **more), snapshot_time=SNAPSHOT.replace(hour=self.hour))


@pytest.fixture
def merge(world):
    """One run of a pipeline that merges all rows."""

    def merge(ids=(), deletes="soft", *, hour=3, sees_all=True, **more):
        source = more.pop("source", None) or At(ids, hour)
        mode = {"deletes": Deletes(deletes), "sees_all": sees_all}
        return world.move(disposition="merge", source=source, mode=mode, **more)

    return merge


@pytest.fixture
def marked(admin):
    """The ids of the target, with the hour of their mark."""

    def marked():
        admin.execute("SELECT id, extract(hour FROM _deleted_at AT TIME ZONE 'UTC')::int FROM flights ORDER BY id")
        return dict(admin.fetchall())

    return marked


def test_a_row_that_is_gone_is_marked_with_the_time_of_the_snapshot_and_stays(merge, marked, world):
    merge([1, 2, 3])
    receipt = merge([1, 3], hour=5)
    assert receipt.changes == Changes(0, unchanged=2, deleted=1, marked=1)
    assert marked() == {1: None, 2: 5, 3: None}
    assert "Gone from the source, and marked as deleted: 1 row." in world.recorder.text()
    assert "0 rows added, 0 updated; 1 marked as deleted, 2 were the same already." in summary(receipt)


def test_a_mark_says_when_the_row_was_first_gone_and_is_taken_away_when_it_is_back(merge, marked):
    merge([1, 2, 3])
    merge([1, 3], hour=5)
    assert merge([1], hour=6).changes == Changes(0, unchanged=1, deleted=1, marked=1)
    assert marked() == {1: None, 2: 5, 3: 6}
    receipt = merge([1, 2], hour=7)
    assert receipt.changes == Changes(0, unchanged=1, revived=1)
    assert marked() == {1: None, 2: None, 3: 6}


def test_a_hard_delete_removes_the_row(merge, ids):
    merge([1, 2, 3], "hard")
    assert merge([3, 4], "hard").changes == Changes(1, unchanged=1, deleted=2)
    assert ids() == [3, 4]


def test_a_run_that_does_not_see_all_rows_deletes_none_and_says_so(merge, ids, marked, world):
    merge([1, 2])
    assert merge([1], sees_all=False).changes.deleted == 0
    assert merge([1], "hard", sees_all=False).changes.deleted == 0
    assert ids() == [1, 2]
    assert "it cannot tell which are gone" in world.recorder.text()


def test_updates_and_inserts_come_with_the_deletions(merge, admin):
    merge([1, 2, 3])
    admin.execute("UPDATE flights SET name = 'other' WHERE id = 3")
    assert merge([3, 4]).changes == Changes(1, updated=1, deleted=2, marked=2)
    admin.execute("SELECT id, name, _deleted_at IS NULL FROM flights ORDER BY 1")
    assert admin.fetchall() == [
        (1, "row 1", False), (2, "row 2", False), (3, "row 3", True), (4, "row 4", True)
    ]  # fmt: skip


def test_a_row_that_comes_back_with_other_values_has_those(merge, admin):
    merge([1, 2])
    merge([1])
    admin.execute("UPDATE flights SET name = 'long ago' WHERE id = 2")
    assert merge([1, 2]).changes == Changes(0, unchanged=1, revived=1)
    admin.execute("SELECT name, _deleted_at FROM flights WHERE id = 2")
    assert admin.fetchone() == ("row 2", None)


def test_of_rows_with_one_key_the_newest_counts_and_older_ones_are_not_taken(world, admin):
    columns = (Column("id", "INT64"), Column("name", "STRING"), Column("seen", "INT64"))

    def merge(*rows):
        names = [column.name for column in columns]
        made = pa.RecordBatch.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=_SCHEMA)
        mode = {"deletes": Deletes.SOFT, "sees_all": True}
        return world.move(disposition="merge", cursor="seen", source=MemorySource([made], columns), mode=mode).changes

    merge((1, "a", 5), (2, "b", 5))
    assert merge((1, "old", 4), (1, "older", 3)) == Changes(0, deleted=1, duplicates=1, stale=1, marked=1)
    # Back in the source, though with an older value: what was deleted is over.
    assert merge((1, "a", 5), (2, "again", 2)) == Changes(0, unchanged=1, revived=1)
    admin.execute("SELECT id, name FROM flights WHERE _deleted_at IS NULL ORDER BY 1")
    assert admin.fetchall() == [(1, "a"), (2, "again")]


_SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("seen", pa.int64())])


# Switching it on, over, and off


def test_an_existing_target_gets_the_column_without_being_written_anew(world, merge, admin, marked):
    world.move([1, 2, 3], disposition="merge")
    admin.execute("SELECT ctid::text, xmin::text, pg_relation_filenode('flights') FROM flights WHERE id < 3")
    before = admin.fetchall()
    merge([1, 2], hour=5)
    admin.execute("SELECT ctid::text, xmin::text, pg_relation_filenode('flights') FROM flights WHERE id < 3")
    assert admin.fetchall() == before
    assert marked() == {1: None, 2: None, 3: 5}
    assert "Added _deleted_at" in world.recorder.text()


def test_marks_that_are_no_longer_made_are_still_taken_away(world, merge, marked):
    merge([1, 2, 3])
    merge([1], hour=5)
    receipt = world.move([2], disposition="merge")
    assert receipt.changes == Changes(0, revived=1)
    assert marked() == {1: None, 2: None, 3: 5}


def test_a_column_that_a_person_called_so_is_left_alone_by_a_merge_that_keeps_rows(world, admin):
    world.move([1], disposition="merge")
    admin.execute("ALTER TABLE flights ADD _deleted_at timestamptz; UPDATE flights SET _deleted_at = now()")
    assert world.move([1], disposition="merge").changes == Changes(0, unchanged=1)
    admin.execute("SELECT count(_deleted_at) FROM flights")
    assert admin.fetchone() == (1,)


def test_from_marks_to_deletes_what_is_marked_goes_too(merge, ids):
    merge([1, 2, 3])
    merge([1, 2])
    assert merge([1, 2], "hard").changes == Changes(0, unchanged=2, deleted=1)
    assert ids() == [1, 2]


def test_a_column_of_another_type_in_its_place_is_refused_before_a_row_is_read(world, merge, admin):
    world.move([1], disposition="merge")
    admin.execute("ALTER TABLE flights ADD _deleted_at boolean")
    source = At([1])
    with pytest.raises(ConnectorError) as refused:
        merge(source=source)
    assert (refused.value.code, source.reads) == ("target_column_mismatch", 0)


def test_only_an_owner_can_be_asked_to_add_the_column(world, merge, admin):
    world.move([1], disposition="merge")
    admin.execute("ALTER TABLE flights OWNER TO landlord; GRANT SELECT, INSERT, UPDATE ON flights TO loader")
    with pytest.raises(ConnectorError) as refused:
        merge([1])
    assert refused.value.code == "missing_grant"
    assert 'ADD COLUMN "_deleted_at" timestamp with time zone' in refused.value.hint
    admin.execute("ALTER TABLE flights ADD _deleted_at timestamptz")
    assert merge([]).changes.deleted == 1


@pytest.mark.parametrize("name", ["_deleted_at", "_DELETED_AT"])
def test_a_source_that_has_a_column_of_this_name_is_refused(world, merge, name):
    columns = (*ID_NAME, Column(name, "TIMESTAMP"))
    source = MemorySource([], columns)
    with pytest.raises(ConnectorError) as refused:
        merge(source=source)
    assert (refused.value.code, refused.value.field) == ("reserved_column", name)
    assert world.move(source=source, disposition="merge").rows == 0


# Full refresh


@pytest.mark.parametrize("leaning", ["", "CREATE VIEW late AS SELECT * FROM flights"])
def test_a_full_refresh_keeps_the_column_and_no_mark(merge, admin, marked, leaning):
    merge([1, 2, 3])
    merge([1, 2])
    admin.execute(leaning or "SELECT 1")
    receipt = merge([1, 3], refresh=Refresh.FULL)
    assert receipt.method == ("in_place" if leaning else "rename")
    assert marked() == {1: None, 3: None}
    assert merge([1], hour=9).changes == Changes(0, unchanged=1, deleted=1, marked=1)
    assert marked() == {1: None, 3: 9}


def test_grants_on_the_column_outlive_a_full_refresh(merge, admin):
    merge([1])
    admin.execute("GRANT SELECT (_deleted_at) ON flights TO reader")
    merge([1], refresh=Refresh.FULL)
    admin.execute("SELECT has_column_privilege('reader', 'flights', '_deleted_at', 'SELECT')")
    assert admin.fetchone() == (True,)


# Guards


@pytest.mark.parametrize("deletes", ["soft", "hard"])
def test_too_many_deletions_wait_for_a_person_and_are_made_as_of_the_snapshot(merge, world, ids, admin, deletes):
    merge(range(10), deletes)
    run = uuid.uuid4()
    with pytest.raises(Held, match="6 of 10 rows") as held:
        merge(range(4), deletes, hour=5, guard=HALF, run=run)
    assert held.value.code == "guard_shrink"
    admin.execute("SELECT relname FROM pg_class WHERE relname LIKE '%noted'")
    assert admin.fetchall() == []
    marked = 6 if deletes == "soft" else 0
    assert world.publish_held(run).changes == Changes(0, unchanged=4, deleted=6, marked=marked)
    if deletes == "hard":
        assert ids() == [0, 1, 2, 3]
    else:
        admin.execute("SELECT count(*) FROM flights WHERE _deleted_at = '2026-01-02 05:04:05Z'")
        assert admin.fetchone() == (6,)


def test_an_empty_source_marks_nothing_by_itself(merge, marked):
    merge([1, 2])
    with pytest.raises(Held) as held:
        merge([], guard=HALF)
    assert held.value.code == "guard_zero_rows"
    assert marked() == {1: None, 2: None}


def test_rows_that_are_marked_already_count_no_more(merge):
    merge(range(10), guard=HALF)
    merge(range(5), guard=HALF)  # half of ten
    with pytest.raises(Held, match="3 of 5 rows"):
        merge(range(2), guard=HALF)


# Others' tables


def test_a_delete_that_would_reach_another_table_is_refused_before_a_row_is_read(merge, admin):
    merge([1, 2], "hard")
    admin.execute("CREATE TABLE seats (flight bigint REFERENCES flights (id) ON DELETE CASCADE)")
    source = At([1])
    with pytest.raises(ConnectorError, match="ON DELETE CASCADE") as refused:
        merge(deletes="hard", source=source)
    assert (refused.value.code, source.reads) == ("replace_would_break", 0)
    assert merge([1]).changes.deleted == 1  # a mark reaches nobody


def test_a_row_that_another_table_refers_to_is_not_deleted(merge, admin, ids):
    merge([1, 2], "hard")
    admin.execute("CREATE TABLE seats (flight bigint REFERENCES flights (id)); INSERT INTO seats VALUES (2)")
    with pytest.raises(ConnectorError, match=r"public\.seats still refers") as refused:
        merge([1], "hard")
    assert refused.value.code == "rows_referenced"
    assert ids() == [1, 2]


def test_values_of_a_unique_column_may_move_from_a_deleted_row_to_a_new_one(merge, admin, ids):
    merge([1, 2], "hard")
    admin.execute("UPDATE flights SET name = 'row 3' WHERE id = 1; CREATE UNIQUE INDEX ON flights (name)")
    assert merge([2, 3], "hard").changes == Changes(1, unchanged=1, deleted=1)
    assert ids() == [2, 3]


def test_a_trigger_that_keeps_a_row_is_noticed(merge, admin, ids):
    merge([1, 2], "hard")
    admin.execute("CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    admin.execute("CREATE TRIGGER stay BEFORE DELETE ON flights FOR EACH ROW EXECUTE FUNCTION stay()")
    with pytest.raises(ConnectorError) as differs:
        merge([1], "hard")
    assert differs.value.code == "rows_differ"
    assert ids() == [1, 2]


@pytest.mark.parametrize("deletes", [Deletes.SOFT, Deletes.KEEP])
def test_a_comparison_leaves_out_what_is_marked_even_if_nothing_is_any_more(merge, world, deletes):
    merge([1, 2, 3])
    merge([1, 2])
    mode = WriteMode(WriteDisposition.MERGE, ("id",), deletes=deletes)
    with world.destination().comparing(world.target, mode=mode, stop=NeverStop()) as side:
        assert side.digest(ID_NAME).rows == 2


def test_checks_leave_out_what_goes(merge, world):
    unique = Check(CheckKind.UNIQUE, "it", ("name",), Severity.WARN)
    merge([1, 2], "hard")
    for ids, name in (([3], "row 1"), ([4], "row 1")):
        source = At(ids)
        source.batches = [pa.record_batch({"id": pa.array(ids, pa.int64()), "name": pa.array([name])})]
        merge(deletes="hard", source=source, checks=(unique,))
        assert [result.status for result in world.recorder.results] == [Status.PASSED]


def test_what_it_will_do_is_said_before(merge, world):
    def told(deletes):
        mode = WriteMode(WriteDisposition.MERGE, ("id",), deletes=deletes)
        return world.destination().forecast(world.target, ID_NAME, mode)

    world.move([1], disposition="merge")
    assert told(Deletes.SOFT).makes == ("_deleted_at, kept beside the columns of the source",)
    assert told(Deletes.SOFT).why.endswith("Rows that are gone are marked.")
    assert told(Deletes.HARD).why.endswith("Rows that are gone are deleted.")
    merge([1])
    assert told(Deletes.SOFT).makes == ()


def test_what_stands_against_it_is_told_on_saving(merge, world, admin):
    def against(deletes, columns=ID_NAME):
        mode = WriteMode(WriteDisposition.MERGE, ("id",), deletes=deletes)
        found = world.destination().validate_target(world.target, columns, mode, pipeline=world.pipeline, adopt=False)
        return [error.code for error in found]

    merge([1], "hard")
    assert against(Deletes.HARD) == []
    assert against(Deletes.SOFT, (*ID_NAME, Column("_deleted_at", "TIMESTAMP"))) == ["reserved_column"]
    admin.execute("CREATE TABLE seats (flight bigint REFERENCES flights (id) ON DELETE SET NULL)")
    assert against(Deletes.HARD) == ["replace_would_break"]
    assert against(Deletes.SOFT) == []


# Other ways to get there


@pytest.mark.parametrize("deletes", ["soft", "hard"])
def test_a_partitioned_target_is_looked_at_as_a_whole(world, admin, deletes):
    def merge(*days):
        rows = pa.record_batch(
            {
                "id": pa.array([id for id, _ in days], pa.int64()),
                "day": pa.array([datetime.fromisoformat(day).date() for _, day in days], pa.date32()),
            }
        )
        return world.move(
            disposition="merge",
            key=("id", "day"),
            source=MemorySource([rows], DAY_ID),
            form=MONTHS,
            mode={"deletes": Deletes(deletes), "sees_all": True},
        ).changes

    merge((1, "2026-01-05"), (2, "2026-01-06"), (1, "2026-02-01"))
    marked = 2 if deletes == "soft" else 0
    assert merge((2, "2026-01-06"), (3, "2026-03-01")) == Changes(1, unchanged=1, deleted=2, marked=marked)
    where = sql.SQL("" if deletes == "hard" else "WHERE _deleted_at IS NULL")
    admin.execute(sql.SQL("SELECT id, day::text FROM flights {} ORDER BY day").format(where))
    assert admin.fetchall() == [(2, "2026-01-06"), (3, "2026-03-01")]


def test_a_load_in_parts_deletes_what_none_of_them_has(world, merge, marked):
    merge([1, 2, 3, 4])
    run = InParts(world, PartedSource([[batch([1])], [batch([3])]]), "merge")
    for part in run.plan().parts:
        run.load(int(part.id))
    assert run.publish().changes == Changes(0, unchanged=2, deleted=2, marked=2)
    assert marked() == {1: None, 2: 3, 3: None, 4: 3}


class InParts(StagedRun):
    """A run in parts of a pipeline that marks."""

    def request(self, fence):
        asked = super().request(fence)
        return replace(asked, mode=replace(asked.mode, deletes=Deletes.SOFT, sees_all=True))


@pytest.mark.parametrize("point", ["publish.after_lock", "publish.before_commit"])
def test_a_crash_marks_nothing_and_the_next_attempt_marks_once(merge, world, marked, point):
    merge([1, 2])
    run = uuid.uuid4()

    def crash(at):
        if at == point:
            raise RuntimeError(at)

    with pytest.raises(RuntimeError):
        merge([1], hour=5, run=run, crash=crash)
    assert marked() == {1: None, 2: None}
    assert merge([1], hour=6, run=run).changes.deleted == 1
    assert merge([1], hour=7, run=run).changes.deleted == 1  # the receipt of the one before
    assert marked() == {1: None, 2: 6}
