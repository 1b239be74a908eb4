"""A history keeps every version of a row, with the time it held: by the cursor, else by the snapshot."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2 import sql

from connectors import undo
from connectors.base import NeverStop
from connectors.checks import Check, CheckKind, Severity, Status
from connectors.column import Column
from connectors.cursor import CursorRead
from connectors.errors import ConnectorError, Held
from connectors.modes import Deletes, Guard, Refresh, WriteDisposition, WriteMode
from connectors.postgres.client import Session
from connectors.postgres.ddl import create_table
from connectors.postgres.publish import history, history_form, marks, merge
from connectors.sides import Keyed
from connectors.target_options import PartitionUnit, TargetOptions
from connectors.writing import Changes, Target
from tests.connectors.columns.values import few
from tests.connectors.memory import MemorySource, PartedSource, Recorder
from tests.connectors.postgres.test_staged import StagedRun

DAY = datetime(2026, 1, 2, tzinfo=UTC)
COLUMNS = (Column("id", "INT64"), Column("name", "STRING"), Column("at", "TIMESTAMP"))
SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("at", pa.timestamp("us", "UTC"))])
TARGET, STAGED = Target("public", "flights"), Target("public", "staged")
HALF = Guard(zero_rows=True, shrink_percent=50)


def hour(number):
    return None if number is None else DAY + timedelta(hours=number)


def rows_of(*rows):
    values = [{"id": id, "name": name, "at": hour(at)} for id, name, at in rows]
    return pa.RecordBatch.from_pylist(values, schema=SCHEMA)


class At(MemorySource):
    """A source whose snapshot is of a given hour."""

    def __init__(self, rows, as_of, columns=COLUMNS):
        super().__init__([rows_of(*rows)] if rows else [], columns)
        self.as_of = as_of

    def plan(self, *given, **more):
        return replace(super().plan(*given, **more), snapshot_time=hour(self.as_of))


@pytest.fixture
def run(world):
    """One run as of an hour: by the cursor `at`, and of all rows, unless told otherwise."""

    def run(as_of, *rows, cursor="at", sees_all=True, key=("id",), **more):
        source = more.pop("source", None) or At(rows, as_of)
        mode = {"sees_all": sees_all}
        return world.move(disposition="history", key=key, cursor=cursor, source=source, mode=mode, **more)

    return run


@pytest.fixture
def versions(admin):
    """Versions in order: key, name, from and until when, in hours of the day; a current one ends with None."""

    def versions():
        admin.execute(
            "SELECT id, name, _valid_from, _valid_to, _is_current FROM flights ORDER BY id, _valid_from, _valid_to"
        )
        found = admin.fetchall()
        check(found)
        return [(id, name, in_hours(start), in_hours(end)) for id, name, start, end, _ in found]

    return versions


def in_hours(moment):
    return None if moment is None else (moment - DAY) / timedelta(hours=1)


def check(found):
    """What always holds: one current version of a key at most, none after another has ended before it began."""
    assert len({id for id, *_, is_current in found if is_current}) == sum(is_current for *_, is_current in found)
    for _, _, start, end, is_current in found:
        assert is_current == (end is None)
        assert end is None or start <= end
    for (id, _, _, end, _), (after, _, start, _, _) in pairwise(found):
        assert id != after or (end is not None and end <= start)


def test_each_change_starts_a_version_at_its_cursor_and_ends_the_one_before(run, versions):
    assert run(10, (1, "a", 8), (2, "b", 9)).changes == Changes(2)
    assert run(12, (1, "A", 11), (2, "b", 9)).changes == Changes(1, unchanged=1, versions=1)
    assert versions() == [(1, "a", 8, 11), (1, "A", 11, None), (2, "b", 9, None)]


def test_without_a_cursor_the_time_of_the_snapshot_counts(run, versions):
    run(10, (1, "a", 1), (2, "b", 1), cursor="")
    assert run(12, (1, "A", 1), (2, "b", 1), cursor="").changes == Changes(1, unchanged=1, versions=1)
    # What it was once it may be again.
    run(14, (1, "a", 1), (2, "b", 1), cursor="")
    assert versions() == [(1, "a", 10, 12), (1, "A", 12, 14), (1, "a", 14, None), (2, "b", 10, None)]


def test_all_versions_of_a_batch_come_in_order(run, versions):
    receipt = run(10, (1, "c", 5), (1, "a", 3), (1, "b", 4), (2, "x", 1), (1, "b", 4))
    assert receipt.changes == Changes(4, duplicates=1)
    run(12, (1, "e", 11), (1, "d", 10), (2, "y", 11), (1, "c", 5), (2, "x", 1), (1, "b", 4), (1, "a", 3))
    assert versions() == [
        (1, "a", 3, 4), (1, "b", 4, 5), (1, "c", 5, 10), (1, "d", 10, 11), (1, "e", 11, None),
        (2, "x", 1, 11), (2, "y", 11, None),
    ]  # fmt: skip


def test_reading_the_same_again_changes_nothing(run, versions, admin):
    rows = [(1, "a", 3), (1, "b", 4), (2, "x", 1)]
    run(10, *rows)
    run(11, *rows, (2, "y", 5))
    before = versions()
    admin.execute("SELECT ctid::text, xmin::text FROM flights ORDER BY 1")
    places = admin.fetchall()
    assert run(12, *rows, (2, "y", 5)).changes == Changes(0, unchanged=4)
    assert run(13, (1, "a", 3), sees_all=False).changes == Changes(0, unchanged=1)
    assert versions() == before
    admin.execute("SELECT ctid::text, xmin::text FROM flights ORDER BY 1")
    assert admin.fetchall() == places


def test_a_late_version_takes_its_place_between_others(run, versions):
    run(10, (1, "a", 2), (1, "d", 8))
    assert run(11, (1, "c", 6), (1, "b", 4), sees_all=False).changes == Changes(2, versions=2)
    run(12, (1, "zero", 1), sees_all=False)
    assert versions() == [
        (1, "zero", 1, 2), (1, "a", 2, 4), (1, "b", 4, 6), (1, "c", 6, 8), (1, "d", 8, None)
    ]  # fmt: skip


def test_a_row_that_changed_without_another_cursor_starts_a_version_at_the_snapshot(run, versions):
    run(10, (1, "a", 8))
    assert run(12, (1, "b", 8)).changes == Changes(1, versions=1)
    assert run(13, (1, "b", 8)).changes == Changes(0, unchanged=1)
    assert run(14, (1, "c", 13)).changes == Changes(1, versions=1)
    assert versions() == [(1, "a", 8, 12), (1, "b", 12, 13), (1, "c", 13, None)]


def test_a_version_of_the_past_that_reads_otherwise_is_mended(run, versions):
    run(10, (1, "a", 2), (1, "b", 4))
    assert run(12, (1, "A", 2), (1, "b", 4)).changes == Changes(0, updated=1, unchanged=1)
    # The one that holds now, too, where the batch has a newer one.
    assert run(14, (1, "A", 2), (1, "B", 4), (1, "c", 13)).changes == Changes(1, updated=1, unchanged=1, versions=1)
    assert versions() == [(1, "A", 2, 4), (1, "B", 4, 13), (1, "c", 13, None)]


def test_an_older_version_than_the_newest_never_holds_now(run, versions):
    run(10, (1, "b", 8))
    run(11, (1, "a", 5))
    assert versions() == [(1, "a", 5, 8), (1, "b", 8, None)]


def test_what_a_column_of_dates_or_without_zone_says_is_of_utc(run, admin, world):
    for type_, made in (("DATE", pa.date32()), ("DATETIME", pa.timestamp("us"))):
        columns = (Column("id", "INT64"), Column("at", type_))
        rows = pa.record_batch(
            {"id": pa.array([1], pa.int64()), "at": pa.array([datetime(2026, 1, 1)], pa.timestamp("us")).cast(made)}
        )
        admin.execute("SET timezone = 'Asia/Tokyo'; DROP TABLE IF EXISTS flights")
        run(10, source=MemorySource([rows], columns), refresh=Refresh.FULL)
        admin.execute("SELECT _valid_from = '2026-01-01 00:00Z' FROM flights")
        assert admin.fetchone() == (True,)


def test_rows_without_a_cursor_count_from_the_snapshot_on(run, versions):
    run(10, (1, "a", None), (2, "b", 3))
    assert run(12, (1, "a", None), (2, "b", 3)).changes == Changes(0, unchanged=2)
    run(13, (1, "A", None), (2, "B", None))
    assert versions() == [(1, "a", 10, 13), (1, "A", 13, None), (2, "b", 3, 13), (2, "B", 13, None)]


# Gone and back


def test_what_is_gone_ends_and_what_comes_back_starts_anew(run, versions, world):
    run(10, (1, "a", 2), (2, "b", 3))
    assert run(12, (1, "a", 2)).changes == Changes(0, unchanged=1, deleted=1)
    assert run(13, (1, "a", 2)).changes == Changes(0, unchanged=1)
    assert versions() == [(1, "a", 2, None), (2, "b", 3, 12)]
    # With the cursor that it had: from when on nobody knows but the snapshot.
    assert run(14, (1, "a", 2), (2, "b", 3)).changes == Changes(1, unchanged=1, revived=1, versions=1)
    run(15, (1, "a", 2))
    # With a newer one: from then on.
    assert run(17, (1, "a", 2), (2, "B", 16)).changes == Changes(1, unchanged=1, revived=1, versions=1)
    assert versions() == [(1, "a", 2, None), (2, "b", 3, 12), (2, "b", 14, 15), (2, "B", 16, None)]


def test_of_rows_with_one_key_those_without_a_cursor_do_not_count_beside_others(run, versions):
    run(10, (1, "a", None), (1, "b", 2))
    assert run(12, (1, "c", None), (1, "b", 2)).changes == Changes(0, unchanged=1, duplicates=1)
    assert versions() == [(1, "b", 2, None)]


def test_a_run_that_reads_only_new_rows_takes_none_for_gone(run, versions):
    run(10, (1, "a", 2), (2, "b", 3))
    assert run(12, (1, "A", 11), sees_all=False).changes == Changes(1, versions=1)
    assert versions() == [(1, "a", 2, 11), (1, "A", 11, None), (2, "b", 3, None)]


def test_a_past_version_of_what_is_gone_does_not_bring_it_back(run, versions):
    run(10, (1, "a", 2), (1, "b", 4))
    run(12, (2, "x", 2))
    assert run(13, (1, "a", 2), (1, "between", 3), sees_all=False).changes == Changes(1, unchanged=1, versions=1)
    assert versions() == [(1, "a", 2, 3), (1, "between", 3, 4), (1, "b", 4, 12), (2, "x", 2, None)]
    # Late, and of the time when the row was taken for gone.
    run(14, (1, "c", 13), sees_all=False)
    assert versions()[3:4] == [(1, "c", 13, None)]


def test_without_a_cursor_a_row_may_come_back_as_it_was(run, versions):
    run(10, (1, "a", 2), cursor="")
    run(11, cursor="")
    run(12, (1, "a", 2), cursor="")
    assert versions() == [(1, "a", 10, 11), (1, "a", 12, None)]


def test_a_version_of_the_future_that_is_gone_held_at_no_time(run, versions):
    run(10, (1, "a", 20))
    run(12)
    assert versions() == [(1, "a", 20, 20)]


def test_too_many_that_are_gone_wait_for_a_person(run, versions, world):
    run(10, *[(id, "a", 2) for id in range(10)])
    id = uuid.uuid4()
    with pytest.raises(Held, match="6 of 10 rows"):
        run(12, *[(id, "a", 2) for id in range(4)], guard=HALF, run=id)
    assert all(end is None for *_, end in versions())
    assert world.publish_held(id).changes == Changes(0, unchanged=4, deleted=6)
    assert [end for *_, end in versions()] == [None] * 4 + [12] * 6
    with pytest.raises(Held) as held:
        run(13, guard=HALF)
    assert held.value.code == "guard_zero_rows"


# The table


def test_postgresql_itself_sees_to_one_current_version_of_a_key(run, admin):
    run(10, (1, "a", 2))
    with pytest.raises(Exception, match="flights_id_current"):
        admin.execute("INSERT INTO flights SELECT * FROM flights")
    admin.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'flights' ORDER BY 1")
    assert [definition.split(" ON ")[1] for (definition,) in admin.fetchall()] == [
        "public.flights USING btree (id) WHERE (NOT _is_current)",
        "public.flights USING btree (id) WHERE _is_current",
    ]


def test_a_merged_table_becomes_a_history_whose_versions_held_since_nobody_knows_when(world, run, admin):
    world.move(disposition="merge", source=At([(1, "a", 2), (2, "b", 2)], 5))
    admin.execute("SELECT pg_relation_filenode('flights')")
    before = admin.fetchone()
    assert run(10, (1, "a", 2), (2, "B", 9)).changes == Changes(1, unchanged=1, versions=1)
    admin.execute("SELECT pg_relation_filenode('flights')")
    assert admin.fetchone() == before
    admin.execute("SELECT id, name, _valid_from::text, _is_current FROM flights ORDER BY 1, flights._valid_from")
    assert [row[:2] + row[3:] for row in admin.fetchall()] == [(1, "a", True), (2, "b", False), (2, "B", True)]
    admin.execute("SELECT count(*) FROM flights WHERE _valid_from = '-infinity'")
    assert admin.fetchone() == (2,)
    # What is older than the beginning has no place in it.
    assert run(11, (1, "older", 1), sees_all=False).changes == Changes(0, unchanged=1)
    assert run(12, (2, "older", 1), sees_all=False).changes == Changes(0, unchanged=1)


def test_what_a_merge_had_marked_is_no_current_version_of_the_history(world, run, admin):
    soft = {"deletes": Deletes.SOFT, "sees_all": True}
    world.move(disposition="merge", source=At([(1, "a", 2), (2, "b", 2)], 5), mode=soft)
    world.move(disposition="merge", source=At([(1, "a", 2)], 6), mode=soft)
    assert run(10, (1, "A", 9), sees_all=False).changes == Changes(1, versions=1)
    admin.execute("SELECT id, name, _valid_to, _is_current FROM flights ORDER BY id, flights._valid_from")
    assert [(id, name, in_hours(end), now) for id, name, end, now in admin.fetchall()] == [
        (1, "a", 9, False), (1, "A", None, True), (2, "b", 6, False)
    ]  # fmt: skip
    assert run(12, (1, "A", 9), (2, "b", 2)).changes == Changes(1, unchanged=1, revived=1, versions=1)


def test_a_key_of_the_table_that_is_a_persons_is_not_dropped_for_it(world, run, admin):
    world.move(disposition="merge", source=At([(1, "a", 2)], 5))
    admin.execute("DROP INDEX flights_id_key; ALTER TABLE flights ADD PRIMARY KEY (id)")
    source = At([(1, "b", 9)], 10)
    with pytest.raises(ConnectorError, match="flights_pkey") as refused:
        run(10, source=source)
    assert (refused.value.code, source.reads) == ("history_unique", 0)


def test_a_full_refresh_begins_the_history_anew(run, versions, world, admin):
    run(10, (1, "a", 2), (2, "b", 2))
    run(12, (1, "A", 11), (2, "b", 2))
    admin.execute("CREATE VIEW late AS SELECT * FROM flights; GRANT SELECT ON flights TO reader")
    receipt = run(14, (1, "A", 11), (3, "c", 13), refresh=Refresh.FULL)
    assert receipt.changes == Changes(2, deleted=3)
    assert versions() == [(1, "A", 11, None), (3, "c", 13, None)]
    with pytest.raises(Held, match="would empty"):
        run(15, refresh=Refresh.FULL, guard=HALF)
    assert versions() == [(1, "A", 11, None), (3, "c", 13, None)]


def test_a_history_that_began_anew_can_be_put_back_where_former_states_are_kept(run, versions, world):
    run(10, (1, "a", 2), (2, "b", 2))
    run(12, (1, "A", 11), (2, "b", 2))
    before = versions()
    run(14, (3, "c", 13), refresh=Refresh.FULL, undo_depth=1)
    assert versions() == [(3, "c", 13, None)]
    destination = world.destination()
    (former,) = destination.former_states(world.pipeline)
    request = undo.UndoRequest(world.target, former.run, former.last_run, 1)
    undo.undo(destination, world.fence(destination), request, reporter=world.recorder, stop=NeverStop())
    assert versions() == before
    assert run(15, (1, "A", 11), (2, "b", 2)).changes == Changes(0, unchanged=2)


def test_checks_judge_the_versions_that_hold_once_it_is_published(run, world):
    unique = Check(CheckKind.UNIQUE, "it", ("id",), Severity.WARN)
    for as_of, sees_all, rows in (
        (10, True, [(1, "a", 2), (1, "b", 3)]),
        (12, True, [(2, "x", 2)]),
        (13, False, [(2, "x", 2), (1, "c", 12)]),
    ):
        run(as_of, *rows, checks=(unique,), sees_all=sees_all)
        assert [result.status for result in world.recorder.results] == [Status.PASSED]


def test_a_comparison_looks_at_the_versions_that_hold(run, world):
    mode = WriteMode(WriteDisposition.HISTORY, ("id",), "at")
    run(10, (1, "a", 2), (2, "b", 2), (3, "c", 2))
    run(12, (1, "A", 11), (2, "b", 2))
    with world.destination().comparing(world.target, mode=mode, stop=NeverStop()) as side:
        assert side.digest(COLUMNS).rows == 2
        keyed = Keyed(COLUMNS, COLUMNS[:1])
        assert len(list(side.hashes(keyed, ()))) == 2
        assert sum(bucket.rows for bucket in side.buckets(keyed).values()) == 2


def test_what_it_will_do_is_said_before(run, world):
    mode = WriteMode(WriteDisposition.HISTORY, ("id",), "at")

    def told():
        return world.destination().forecast(world.target, COLUMNS, mode)

    assert (told().method, told().makes) == (
        "history",
        (
            "unique index of current versions on id",
            "index of past versions on id",
            "_valid_from, _valid_to, _is_current, kept beside the columns of the source",
        ),
    )
    run(10, (1, "a", 2))
    assert told().makes == ()
    assert told().why == (
        "Each change of a row, known by id, is added to public.flights as a version that holds from at on."
    )


def test_a_cursor_that_is_no_time_is_refused(run):
    source = MemorySource([], (Column("id", "INT64"), Column("at", "INT64")))
    with pytest.raises(ConnectorError, match="when a row changed") as refused:
        run(10, source=source)
    assert (refused.value.code, refused.value.field) == ("cursor_type", "cursor_column")


@pytest.mark.parametrize("name", ["_valid_from", "_Valid_To", "_is_current"])
def test_a_source_with_a_column_of_this_name_is_refused(run, name):
    with pytest.raises(ConnectorError) as refused:
        run(10, source=MemorySource([], (*COLUMNS, Column(name, "BOOL"))))
    assert (refused.value.code, refused.value.field) == ("reserved_column", name)


def test_a_partitioned_history_moves_no_version_to_another_place(world, admin):
    form = TargetOptions(partition_column="at", partition_unit=PartitionUnit.MONTH)

    def move(as_of, *rows):
        source = At(rows, as_of)
        return world.move(
            disposition="history", key=("id", "at"), source=source, form=form, mode={"sees_all": True}
        ).changes

    move(10, (1, "a", 2), (2, "b", 800))
    assert move(12, (1, "A", 2)) == Changes(1, deleted=1, versions=1)
    admin.execute("SELECT id, name, _is_current FROM flights ORDER BY 1, _valid_from")
    assert admin.fetchall() == [(1, "a", False), (1, "A", True), (2, "b", False)]


# Whatever comes

ROW = st.tuples(st.integers(1, 3), st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 12)))


@settings(few, max_examples=15)
@given(
    batches=st.lists(st.tuples(st.booleans(), st.lists(ROW, max_size=7)), max_size=5),
    cursor=st.sampled_from(["at", ""]),
    begin=st.sampled_from([0, 20]),
)
def test_whatever_comes_versions_follow_one_another_and_nothing_is_added_twice(session, batches, cursor, begin):
    keep = Keeping(session, cursor)
    for number, (sees_all, rows) in enumerate(batches):
        keep(begin + 3 * number, rows, sees_all)
        after = keep.versions()
        check(after)
        if begin:  # no cursor is of the future, which time may catch up with
            changes = keep(begin + 3 * number + 1, rows, sees_all)
            assert (changes.inserted, changes.updated, changes.deleted) == (0, 0, 0)
            assert keep.versions() == after
        if cursor:  # every version that was staged is there
            assert {(id, hour(at)) for id, _, at in rows if at is not None} <= keep.staged_once()
        if sees_all:
            assert {id for id, *_, is_current in after if is_current} == {id for id, *_ in rows}


@dataclass
class Keeping:
    """A history in a table of its own, without all that a load does besides."""

    session: Session
    cursor: str

    def __post_init__(self):
        self.session.rollback()  # the table of the example before
        self.session.execute("BEGIN")
        self.session.execute(create_table(sql.Identifier("public", "flights"), COLUMNS))
        marks.add(self.session, TARGET, marks.HISTORY)
        history_form.make(self.session, TARGET, COLUMNS, self.mode(True), reporter=Recorder(), stop=NeverStop())

    def __call__(self, as_of, rows, sees_all=True, **more):
        self.session.execute(create_table(sql.Identifier("public", "staged"), COLUMNS))
        with self.session.connection.cursor() as to:
            for id, name, at in rows:
                to.execute("INSERT INTO staged VALUES (%s, %s, %s)", (id, name, hour(at)))
        mode = self.mode(sees_all)
        found = merge.prepare(self.session, STAGED, COLUMNS, mode.key, mode.cursor)
        changes = history.apply(
            self.session, TARGET, STAGED, COLUMNS, mode, as_of=hour(as_of + 0.5), duplicates=found, **more
        )
        self.session.execute("DROP TABLE staged")
        return changes

    def mode(self, sees_all):
        return WriteMode(WriteDisposition.HISTORY, ("id",), self.cursor, sees_all=sees_all)

    def staged_once(self):
        return set(self.session.execute("SELECT id, at FROM flights").fetchall())

    def versions(self):
        return self.session.execute(
            "SELECT id, name, _valid_from, _valid_to, _is_current FROM flights ORDER BY id, _valid_from, _valid_to"
        ).fetchall()


@pytest.fixture
def session(options):
    made = Session(options)
    yield made
    made.close()


def test_a_key_that_was_set_aside_is_not_gone_and_without_a_legible_one_nothing_is(session):
    keep = Keeping(session, "at")
    keep(0, [(id, "a", 0) for id in (1, 2, 3)])
    assert keep(1, [(1, "a", 0)], seen=marks.Seen(sql.SQL("SELECT 2::bigint AS id"))).deleted == 1
    assert [id for id, *_, is_current in keep.versions() if is_current] == [1, 2]
    assert keep(2, [(1, "a", 0)], seen=marks.Seen(is_complete=False)).deleted == 0
    assert [id for id, *_, is_current in keep.versions() if is_current] == [1, 2]


# Ways to get there


class InParts(StagedRun):
    """A run in parts of a pipeline that keeps a history by the cursor."""

    def request(self, fence):
        asked = super().request(fence)
        return replace(asked, mode=replace(asked.mode, key=("id",), cursor="at", sees_all=True))


def test_a_load_in_parts_orders_versions_that_different_parts_brought(world, run, versions):
    run(1, (1, "a", 0.5), (2, "gone", 0.5))
    parts = [[rows_of((1, "c", 3))], [rows_of((1, "b", 2), (1, "a", 0.5))]]
    loading = InParts(world, PartedSource(parts, COLUMNS), "history")
    for part in loading.plan().parts:
        loading.load(int(part.id))
    assert loading.publish().changes == Changes(2, unchanged=1, deleted=1, versions=2)
    assert [row[:2] for row in versions()] == [(1, "a"), (1, "b"), (1, "c"), (2, "gone")]


@pytest.mark.parametrize("point", ["publish.after_lock", "publish.before_commit"])
def test_a_crash_leaves_the_history_as_it_was_and_the_next_attempt_adds_once(run, versions, point):
    run(10, (1, "a", 2), (2, "b", 2))
    before, id = versions(), uuid.uuid4()

    def crash(at):
        if at == point:
            raise RuntimeError(at)

    with pytest.raises(RuntimeError):
        run(12, (1, "A", 11), run=id, crash=crash)
    assert versions() == before
    for as_of in (13, 14):
        run(as_of, (1, "A", 11), run=id)
    assert versions() == [(1, "a", 2, 11), (1, "A", 11, None), (2, "b", 2, 13)]


def test_only_new_rows_and_a_range_of_the_past_find_their_versions(run, versions):
    read = CursorRead("at")
    run(10, (1, "a", 2), (1, "c", 8), read=read)
    run(12, (1, "d", 11), read=read)
    assert run(13, (1, "a", 2), (1, "b", 4), read=read).changes == Changes(1, unchanged=1, versions=1)
    assert run(14, (1, "a", 2), (1, "b", 4), read=read).changes == Changes(0, unchanged=2)
    assert versions() == [(1, "a", 2, 4), (1, "b", 4, 8), (1, "c", 8, 11), (1, "d", 11, None)]


def test_a_trigger_that_keeps_a_version_is_noticed(run, versions, admin):
    run(10, (1, "a", 2))
    admin.execute("CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    admin.execute("CREATE TRIGGER stay BEFORE UPDATE ON flights FOR EACH ROW EXECUTE FUNCTION stay()")
    with pytest.raises(ConnectorError) as differs:
        run(12, (2, "b", 2))
    assert differs.value.code == "rows_differ"
    assert versions() == [(1, "a", 2, None)]
