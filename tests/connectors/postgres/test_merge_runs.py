"""A merge as a run does it: read, staged, merged and recorded in one transaction."""

from __future__ import annotations

import uuid

import pyarrow as pa
import pytest

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition, WriteMode
from connectors.writing import Changes
from tests.connectors.memory import MemorySource

COLUMNS = (Column("id", "INT64"), Column("name", "STRING"), Column("version", "INT64"))


def source(*rows: tuple[object, ...]) -> MemorySource:
    values = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    arrays = [pa.array(values[0], pa.int64()), pa.array(values[1], pa.string()), pa.array(values[2], pa.int64())]
    batches = [pa.RecordBatch.from_arrays(arrays, names=["id", "name", "version"])] if rows else []
    return MemorySource(batches, COLUMNS)


def merge(world, *rows, **options):
    return world.move(disposition="merge", source=source(*rows), key=("id",), **options)


@pytest.fixture
def rows(admin):
    def read():
        admin.execute("SELECT id, name, version FROM public.flights ORDER BY id")
        return admin.fetchall()

    return read


def test_the_first_merge_makes_the_table_and_its_index(world, rows):
    receipt = merge(world, (1, "one", 1), (2, "two", 1), (2, "two again", 2), cursor="version")
    assert rows() == [(1, "one", 1), (2, "two again", 2)]
    assert receipt.method == "merge"
    assert receipt.rows == 3
    assert receipt.changes == Changes(inserted=2, duplicates=1)
    assert any("unique index" in line for _, line in world.recorder.lines)


def test_later_merges_update_add_and_leave_alone(world, rows):
    merge(world, (1, "one", 1), (2, "two", 1), (3, "three", 5))
    receipt = merge(world, (1, "one", 1), (2, "TWO", 2), (3, "old", 4), (4, "four", 1), cursor="version")
    assert rows() == [(1, "one", 1), (2, "TWO", 2), (3, "three", 5), (4, "four", 1)]
    assert receipt.changes == Changes(inserted=1, updated=1, unchanged=1, stale=1)


def test_a_merge_of_nothing_changes_nothing(world, rows):
    merge(world, (1, "one", 1))
    assert merge(world).changes == Changes(inserted=0)
    assert rows() == [(1, "one", 1)]


def test_a_run_that_was_applied_is_not_merged_again(world, rows):
    fence = world.fence()
    merge(world, (1, "one", 1), fence=fence)
    again = world.fence(run=fence.owner.run)
    receipt = merge(world, (9, "never", 1), fence=again)
    assert receipt.changes == Changes(inserted=1)
    assert rows() == [(1, "one", 1)]


def test_the_staging_table_is_gone_afterwards(world, rows, admin):
    merge(world, (1, "one", 1))
    with pytest.raises(ConnectorError, match="1 row has NULL"):
        merge(world, (None, "nobody", 1))
    admin.execute("SELECT relname FROM pg_class WHERE relname LIKE '\\_datamantri\\_new%'")
    assert admin.fetchall() == []
    assert rows() == [(1, "one", 1)]


def test_the_key_may_be_spelled_in_another_case(world, rows):
    world.move(disposition="merge", source=source((1, "one", 1)), key=("ID",), cursor="Version")
    assert rows() == [(1, "one", 1)]


def test_readers_see_the_old_rows_until_the_commit(world, rows):
    merge(world, (1, "one", 1))
    seen = []

    def look(point: str) -> None:
        if point in ("publish.before_lock", "publish.after_lock", "publish.before_commit"):
            seen.append(rows())

    merge(world, (1, "ONE", 2), crash=look)
    assert seen == [[(1, "one", 1)]] * 3
    assert rows() == [(1, "ONE", 2)]


def test_what_stands_against_a_merge_is_said_field_by_field_before_it_is_saved(world):
    def validate(*key: str, cursor: str = "") -> list[tuple[str, str]]:
        mode = WriteMode(WriteDisposition.MERGE, key, cursor)
        found = world.destination().validate_target(world.target, COLUMNS, mode, pipeline=world.pipeline, adopt=False)
        return [(error.code, error.field) for error in found]

    assert validate("id") == []
    assert validate("nothing") == [("key_column_missing", "merge_key")]
    assert validate("id", cursor="name") == [("cursor_type", "cursor_column")]
    merge(world, (1, "one", 1))
    assert validate("Id", cursor="VERSION") == []


def test_what_a_run_supersedes_is_forgotten_with_its_publish_and_not_before(world, admin, rows):
    first, second, third = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()

    def applied():
        admin.execute("SELECT run FROM _datamantri.applied ORDER BY published_at")
        return [uuid.UUID(str(run)) for (run,) in admin.fetchall()]

    def die(point):
        if "before_commit" in point:
            raise RuntimeError(point)

    merge(world, (1, "one", 1), run=first)
    merge(world, (2, "two", 1), run=second)
    with pytest.raises(RuntimeError):
        merge(world, (3, "three", 1), run=third, supersedes=second, crash=die)
    assert {first, second} <= set(applied()), "a crash forgets nothing"
    merge(world, (3, "three", 1), run=third, supersedes=second)
    assert applied() == [first, third]
    again = merge(world, (4, "four", 1), run=third, supersedes=second)
    assert again.rows == 1, "the run itself is applied once"
    assert rows() == [(1, "one", 1), (2, "two", 1), (3, "three", 1)]
    admin.execute("SELECT last_run FROM _datamantri.head")
    assert uuid.UUID(str(admin.fetchone()[0])) == third
