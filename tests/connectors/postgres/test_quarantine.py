"""Rows that cannot be stored are put aside in the transaction of those that can, and no run fails for them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from connectors.column import Column
from connectors.column_rules import ColumnRule
from connectors.cursor import CursorRead, Span
from connectors.errors import ConnectorError, Held
from connectors.modes import Deletes, Guard
from connectors.quarantine import Beyond, QuarantineRule
from connectors.target_options import PartitionUnit, TargetOptions
from connectors.writing import Changes, Target
from tests.connectors.memory import MemorySource

ON = QuarantineRule(is_on=True)
COLUMNS = (Column("id", "INT64"), Column("name", "STRING"), Column("doc", "STRING", target_type="jsonb"))


def rows(*given: tuple[Any, Any, Any]) -> pa.RecordBatch:
    ids, names, docs = zip(*given, strict=True)
    return pa.record_batch(
        {"id": pa.array(ids, pa.int64()), "name": pa.array(names, pa.string()), "doc": pa.array(docs, pa.string())}
    )


BAD = rows((1, "one", "{}"), (2, "two\0", "{}"), (3, "three", "{]"), (4, "four", '{"a":4}'))
GOOD = rows((1, "one", "{}"), (4, "four", '{"a":4}'))


class Rows(MemorySource):
    def __init__(self, *batches: pa.RecordBatch, **options: Any) -> None:
        super().__init__(batches, COLUMNS, **options)


@pytest.fixture
def aside(admin: Any) -> Callable[..., list[tuple[Any, ...]]]:
    """What stands in the quarantine: the row's id as it came, and what else is asked for."""

    def read(what: str = "column_name, code, state") -> list[tuple[Any, ...]]:
        admin.execute(f"SELECT raw, {what} FROM _datamantri.quarantine ORDER BY seen_at")
        return [(json.loads(raw)["id"], *more) for raw, *more in admin.fetchall()]

    return read


def test_rows_that_cannot_be_stored_are_put_aside_whatever_the_disposition(world, disposition, aside, admin):
    admin.execute("ALTER TABLE flights ADD doc jsonb")
    receipt = world.move(disposition=disposition, source=Rows(BAD), quarantine=ON)
    assert receipt.rows == 2
    assert receipt.source_rows == 4
    assert receipt.quarantined == {"doc: bad_json": 1, "name: nul_character": 1}
    assert aside() == [("2", "name", "nul_character", "open"), ("3", "doc", "bad_json", "open")]
    assert "2 rows went into quarantine: doc: bad_json (1), name: nul_character (1)." in world.recorder.text()
    admin.execute("SELECT id, doc FROM flights WHERE id > 1 ORDER BY id")
    assert admin.fetchall() == [(4, {"a": 4})]


def test_a_raw_row_has_every_value_as_it_came(world, aside):
    run = uuid.uuid4()
    world.move(source=Rows(BAD), quarantine=ON, run=run)
    _, raw, whose = aside("raw, run")[0]
    assert (json.loads(raw), whose) == ({"id": "2", "name": "two\0", "doc": "{}"}, run)


def test_without_the_quarantine_the_run_fails_as_ever(world, aside, ids):
    world.move([1])
    with pytest.raises(ConnectorError) as caught:
        world.move(source=Rows(BAD))
    assert (caught.value.code, ids(), aside()) == ("nul_character", [1], [])


def test_a_run_without_bad_rows_is_as_ever(world, aside):
    receipt = world.move(source=Rows(GOOD), quarantine=ON)
    assert (receipt.rows, receipt.quarantined, aside()) == (2, {}, [])
    assert "quarantine" not in world.recorder.text()


def test_what_only_postgresql_finds_is_found_by_reading_once_more(world, aside):
    source = Rows(rows((1, "a", "{}"), (2, "b", "{")), rows((3, "c", "nan"), (4, "d", "1")))
    receipt = world.move(source=source, quarantine=ON)
    assert (receipt.rows, source.reads) == (2, 2)
    assert [id_ for id_, *_ in aside()] == ["2", "3"]
    assert "All rows are read again" in world.recorder.text()
    assert world.recorder.totals[-1][0] == 4


def test_a_crash_before_the_commit_leaves_nothing_and_another_try_doubles_nothing(world, aside, ids):
    run = uuid.uuid4()

    class Killed(BaseException):
        pass

    def die(point: str) -> None:
        if point == "publish.before_commit":
            raise Killed

    with pytest.raises(Killed):
        world.move(source=Rows(BAD), quarantine=ON, run=run, crash=die)
    assert (aside(), ids()) == ([], None)
    world.move(source=Rows(BAD), quarantine=ON, run=run)
    world.move(source=Rows(BAD), quarantine=ON, run=run)
    assert (len(aside()), ids()) == (2, [1, 4])


def test_rows_without_a_key_are_put_aside_by_a_merge_only(world, aside):
    batch = rows((1, "one", None), (None, "none", None))
    receipt = world.move(disposition="merge", source=Rows(batch), quarantine=ON)
    assert (receipt.rows, aside("column_name, code, key")) == (1, [(None, "id", "null_key", None)])
    world.target = Target("public", "others")
    assert world.move(source=Rows(batch), quarantine=ON, key=("id",)).rows == 2


def test_a_row_without_a_primary_key_is_put_aside(world, aside):
    form = TargetOptions(primary_key=("id",))
    receipt = world.move(source=Rows(rows((1, "one", None), (None, "none", None))), quarantine=ON, form=form)
    assert (receipt.rows, aside("code")) == (1, [(None, "null_key")])


DATED = (Column("id", "INT64"), Column("day", "DATE"))


@pytest.mark.parametrize("kind", ["replace", "append", "merge"])
def test_a_row_without_a_partition_is_put_aside(world, aside, kind, ids):
    batch = pa.record_batch({"id": pa.array([1, 2, 3]), "day": pa.array([20_000, None, 20_050], pa.date32())})
    form = TargetOptions(partition_column="day", partition_unit=PartitionUnit.MONTH)
    key = ("id", "day") if kind == "merge" else ()
    receipt = world.move(disposition=kind, source=MemorySource([batch], DATED), quarantine=ON, form=form, key=key)
    assert (receipt.rows, ids()) == (2, [1, 3])
    assert aside("code") == [("2", "null_key" if kind == "merge" else "null_partition")]


def test_only_rows_of_published_runs_are_open(world, aside):
    world.move([1, 2, 3])
    run = uuid.uuid4()
    with pytest.raises(Held):
        world.move(source=Rows(rows((None, "a\0", None))), run=run, guard=Guard(), quarantine=ON)
    assert aside("state") == [(None, "staged")]
    world.publish_held(run, quarantine=ON)
    assert aside("state") == [(None, "open")]


def test_what_was_approved_is_not_read_anew_where_its_quarantine_is_gone(world, admin):
    world.move([1, 2, 3])
    run = uuid.uuid4()
    with pytest.raises(Held):
        world.move(source=Rows(rows((None, "a\0", None))), run=run, guard=Guard(), quarantine=ON)
    admin.execute("DELETE FROM _datamantri.quarantine")
    with pytest.raises(ConnectorError) as caught:
        world.publish_held(run, quarantine=ON)
    assert (caught.value.code, caught.value.transient) == ("staging_gone", False)


def test_what_is_held_and_given_up_takes_its_quarantine_along(world, aside):
    world.move([1, 2, 3])
    run = uuid.uuid4()
    with pytest.raises(Held):
        world.move(source=Rows(rows((1, "a\0", None))), run=run, guard=Guard(), quarantine=ON)
    destination = world.destination()
    fence = world.fence(destination, run)
    destination.forget_staged(fence, fence.leftovers)
    assert aside() == []


MANY = rows(*((n, "x\0" if n % 2 else "x", None) for n in range(10)))


@pytest.mark.parametrize(
    "limits", [{"most_rows": 4}, {"most_percent": 49}, {"most_rows": 4, "most_percent": 49}], ids=str
)
def test_more_rows_than_may_be_put_aside_fail_the_run(world, ids, aside, limits):
    world.move([1])
    with pytest.raises(ConnectorError) as caught:
        world.move(source=Rows(MANY), quarantine=QuarantineRule(is_on=True, **limits))
    assert (caught.value.code, ids(), aside()) == ("quarantine_limit", [1], [])
    assert world.move(source=Rows(MANY), quarantine=QuarantineRule(True, most_rows=5, most_percent=50)).rows == 5


def test_a_load_ends_as_soon_as_it_has_put_aside_too_many(world):
    with pytest.raises(ConnectorError, match="More than 2 rows"):
        world.move(source=Rows(MANY), quarantine=QuarantineRule(is_on=True, most_rows=2))


def test_too_many_can_be_held_and_approved(world, ids, aside):
    rule = QuarantineRule(is_on=True, most_rows=4, beyond=Beyond.HOLD)
    world.move([100], "append")
    run = uuid.uuid4()
    with pytest.raises(Held) as caught:
        world.move(
            disposition="append",
            source=without_doc(MANY),
            run=run,
            quarantine=rule,
        )
    assert (caught.value.code, ids()) == ("quarantine_limit", [100])
    receipt = world.publish_held(run, quarantine=rule)
    assert (receipt.rows, receipt.quarantined) == (5, {"name: nul_character": 5})
    assert ids() == [0, 2, 4, 6, 8, 100]
    assert {state for _, state in aside("state")} == {"open"}


def without_doc(batch: pa.RecordBatch) -> MemorySource:
    return MemorySource([batch.drop_columns(["doc"])], COLUMNS[:2])


# What becomes old ------------------------------------------------------------------------------


def test_a_load_of_everything_makes_former_rows_old(world, aside):
    for _ in range(2):
        world.move(source=Rows(BAD), quarantine=ON)
    assert [state for _, state in aside("state")] == ["superseded"] * 2 + ["open"] * 2
    world.move(source=Rows(GOOD))  # also where the quarantine has been switched off since
    assert {state for _, state in aside("state")} == {"superseded"}


def test_a_merge_of_a_part_makes_only_newer_versions_old(world, aside):
    columns = (Column("id", "INT64"), Column("name", "STRING"), Column("at", "INT64"))

    def merge(*given: tuple[int, str, int]) -> None:
        ids, names, ats = zip(*given, strict=True)
        batch = pa.record_batch({"id": pa.array(ids), "name": pa.array(names), "at": pa.array(ats)})
        source = MemorySource([batch], columns)
        world.move(
            disposition="merge", source=source, cursor="at", quarantine=ON, read=CursorRead("at"), fingerprint="f"
        )

    merge((1, "a\0", 5), (2, "b\0", 5), (3, "c\0", 5))
    merge((1, "a", 4), (2, "b", 5), (3, "c\0", 6))
    assert aside("cursor, state") == [
        ("1", "5", "open"), ("2", "5", "superseded"), ("3", "5", "superseded"), ("3", "6", "open"),
    ]  # fmt: skip


def test_a_range_of_an_append_that_is_loaded_again_makes_its_rows_old(world, aside):
    columns = (Column("id", "INT64"), Column("name", "STRING"), Column("at", "INT64"))

    def append(read: CursorRead, *given: tuple[int, str, int]) -> None:
        ids, names, ats = zip(*given, strict=True)
        batch = pa.record_batch({"id": pa.array(ids), "name": pa.array(names), "at": pa.array(ats)})
        world.move(disposition="append", source=MemorySource([batch], columns), quarantine=ON, read=read)

    append(CursorRead("at"), (1, "a\0", 5), (2, "b\0", 15), (3, "c", 12))
    append(CursorRead("at", span=Span("at", "10", "20")), (2, "b", 15), (3, "c", 12))
    assert aside("state") == [("1", "open"), ("2", "superseded")]


def test_keys_that_are_of_another_type_by_now_end_no_run(world, aside, admin):
    world.move(disposition="merge", source=Rows(rows((1, "a\0", None))), quarantine=ON)
    admin.execute('UPDATE _datamantri.quarantine SET key = \'{"id": "no number"}\'')
    world.move(disposition="merge", source=Rows(rows((1, "a", None))), quarantine=ON)
    assert aside("state") == [("1", "open")]
    assert "Keys in quarantine are of another type" in world.recorder.text()


def test_what_is_older_than_it_is_kept_for_goes(world, aside, admin):
    world.move(source=Rows(BAD), quarantine=ON)
    admin.execute("UPDATE _datamantri.quarantine SET seen_at = now() - interval '3 days' WHERE code = 'bad_json'")
    world.move(source=Rows(GOOD), quarantine=QuarantineRule(is_on=True, keep_days=2))
    assert aside("code") == [("2", "nul_character")]


def test_a_schema_of_an_earlier_version_gets_the_table(world, admin, aside):
    world.move([1])
    admin.execute("DROP TABLE _datamantri.quarantine")
    world.move(source=Rows(BAD), quarantine=ON)
    assert len(aside()) == 2


@pytest.mark.parametrize("deletes", [Deletes.HARD, Deletes.SOFT])
def test_a_full_merge_takes_the_row_of_a_quarantined_key_for_there(world, ids, admin, deletes):
    def merge(*given: tuple[Any, Any, Any]) -> Any:
        mode = {"deletes": deletes, "sees_all": True}
        return world.move(disposition="merge", source=Rows(rows(*given)), quarantine=ON, mode=mode)

    merge((1, "a", None), (2, "b", None), (3, "c", None))
    assert merge((1, "a", None), (2, "b\0", None)).changes.deleted == 1
    assert 2 in ids()
    assert merge((1, "a", None), (None, "b", None)).changes.deleted == 0
    assert "this run deletes no rows" in world.recorder.text()


@pytest.mark.parametrize("then", [Deletes.SOFT, Deletes.HARD, Deletes.KEEP])
def test_a_marked_row_that_is_back_only_in_quarantine_is_there_again_with_the_values_it_had(world, admin, then):
    def merge(*given: tuple[Any, Any, Any], deletes: Deletes = Deletes.SOFT) -> Any:
        mode = {"deletes": deletes, "sees_all": deletes is not Deletes.KEEP}
        return world.move(disposition="merge", source=Rows(rows(*given)), quarantine=ON, mode=mode).changes

    merge((1, "a", None), (2, "b", None), (3, "c", None), (4, "d", None))
    merge((1, "a", None))
    changes = merge((1, "a", None), (2, "b\0", None), (2, "b\0", None), (3, "c", None), (3, "c\0", None), deletes=then)
    assert changes == Changes(0, unchanged=1, revived=2, deleted=int(then is Deletes.HARD))
    admin.execute("SELECT id, name FROM flights WHERE _deleted_at IS NULL ORDER BY 1")
    assert admin.fetchall() == [(1, "a"), (2, "b"), (3, "c")]


def test_a_masked_column_is_masked_in_quarantine_too(world, aside):
    source = Rows(rows((1, "secret@example.com", "[")))
    masks = {"name": ColumnRule(mask="redact")}
    world.move(source=source, quarantine=ON, rules=masks)
    _, raw, told = aside("raw, masks")[0]
    assert json.loads(raw) == {"id": "1", "name": "***", "doc": "["}
    assert "redact" in told
