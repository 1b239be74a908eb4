"""Quarantined rows that were mended go through the engine into their target, once, and over nothing newer."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import uuid
from collections.abc import Callable
from dataclasses import replace as changed
from typing import Any

import pyarrow as pa
import pytest

from connectors import replay, transfer
from connectors.base import NeverStop
from connectors.checks import Check, CheckKind, Severity
from connectors.column import Column, Mask, MaskKind
from connectors.column_rules import ColumnRule, skipped
from connectors.cursor import CursorRead
from connectors.errors import ConnectorError, Overtaken
from connectors.modes import TextPolicy, WriteDisposition, WriteMode
from connectors.postgres.quarantined import Wanted
from connectors.quarantine import QuarantineRule
from connectors.reading import ReadRequest
from connectors.receipt import Receipt
from tests.connectors.memory import MemorySource

ON = QuarantineRule(is_on=True)
COLUMNS = (Column("id", "INT64"), Column("name", "STRING"), Column("at", "INT64"))


ALL = Wanted()


class Killed(BaseException):
    pass


def source(*given: tuple[Any, Any, Any]) -> MemorySource:
    ids, names, ats = zip(*given, strict=True)
    batch = pa.record_batch({"id": pa.array(ids), "name": pa.array(names), "at": pa.array(ats, pa.int64())})
    return MemorySource([batch], COLUMNS)


@pytest.fixture
def load(world: Any) -> Callable[..., Receipt]:
    """One run of a pipeline with a quarantine."""

    def run(kind: str, *given: tuple[Any, Any, Any], **more: Any) -> Receipt:
        cursor = "at" if kind == "merge" else ""
        rows = more.pop("source", None) or source(*given)
        return world.move(**{"disposition": kind, "source": rows, "cursor": cursor, "quarantine": ON, **more})

    return run


@pytest.fixture
def again(world: Any) -> Callable[..., Receipt]:
    """A replay, with what was mended since."""

    def run(
        kind: str,
        wanted: Wanted = ALL,
        *,
        run: uuid.UUID | None = None,
        before: Any = None,
        **more: Any,
    ) -> Receipt:
        destination = world.destination()
        fence = world.fence(destination, run)
        crash = more.pop("crash", lambda point: None)
        key = ("id",) if kind == "merge" else ()
        depth = more.pop("undo_depth", 0)
        asked = transfer.TransferRequest(
            fence.owner,
            ReadRequest(table="a.b.c", cursor=CursorRead("at"), row_filter="id > 0"),
            world.target,
            WriteMode(WriteDisposition(kind), key, "at" if key else "", undo_depth=depth),
            **{"fingerprint": "f", "text_policy": TextPolicy.STRIP, **more},
        )
        rows, later = destination.choose_quarantined(world.target, world.pipeline, wanted)
        columns = replay.columns_of(fence, source((1, "", 1)), asked.read)
        loaded = replay.loaded_columns(fence, asked, columns)
        chosen = replay.ReplaySource(rows, columns, loaded, skipped(asked.rules))
        if fence.applied is None:
            replay.refuse_redefined(fence, asked)
            replay.tell(chosen, world.recorder, chosen=len(rows), later=later)
        if before:
            before()
        request = replay.request_of(asked, fence, chosen)
        return transfer.direct(
            chosen, destination, fence, request, reporter=world.recorder, stop=NeverStop(), crash=crash
        )

    return run


@pytest.fixture
def rows(admin: Any) -> Callable[[], list[Any]]:
    def read() -> list[Any]:
        admin.execute("SELECT id, name FROM flights ORDER BY id, at")
        return admin.fetchall()

    return read


@pytest.fixture
def states(admin: Any) -> Callable[[], list[Any]]:
    def read() -> list[Any]:
        admin.execute("SELECT raw, state FROM _datamantri.quarantine ORDER BY seen_at")
        return [(int(json.loads(raw)["id"]), state) for raw, state in admin.fetchall()]

    return read


@pytest.mark.parametrize("kind", ["append", "replace", "merge"])
def test_mended_rows_join_those_that_are_there_once(load, again, rows, states, world, kind):
    load(kind, (1, "a", 1), (2, "b\0", 1), (3, "c\0", 1))
    receipt = again(kind)
    assert (receipt.rows, receipt.replayed, receipt.quarantined) == (2, 2, {})
    assert "filter" not in world.recorder.text()  # no source is read
    assert rows() == [(1, "a"), (2, "b"), (3, "c")]
    assert states() == [(2, "replayed"), (3, "replayed")]
    with pytest.raises(ConnectorError) as caught:
        again(kind)
    assert (caught.value.code, len(rows())) == ("nothing_quarantined", 3)


@pytest.mark.parametrize("point", ["load.middle", "publish.before_commit", "publish.after_commit"])
def test_a_replay_that_dies_anywhere_is_done_once(load, again, rows, point):
    load("append", (1, "a", 1), (2, "b\0", 1))
    run = uuid.uuid4()

    def die(at: str) -> None:
        if at == point:
            raise Killed

    with pytest.raises(Killed):
        again("append", run=run, crash=die)
    again("append", run=run)
    assert rows() == [(1, "a"), (2, "b")]


def test_only_what_is_chosen_is_replayed(load, again, rows, states, admin):
    load("append", (1, "a\0", 1), (2, "b\0", 1))
    admin.execute("SELECT id::text FROM _datamantri.quarantine ORDER BY seen_at LIMIT 1")
    again("append", Wanted(ids=admin.fetchone()))
    assert (rows(), states()) == ([(1, "a")], [(1, "replayed"), (2, "open")])
    with pytest.raises(ConnectorError, match="nothing to replay"):
        again("append", Wanted(code="bad_json"))


def test_what_came_since_somebody_looked_is_not_taken_and_the_log_says_how_much(load, again, rows, states, world):
    load("append", (1, "a\0", 1))
    seen = world.destination().quarantined(world.pipeline, ALL)
    load("append", (2, "b\0", 1), (3, "c\0", 1))
    looked = Wanted(state="open", as_of=seen["as_of"])
    again_seen = world.destination().quarantined(world.pipeline, looked)
    assert (again_seen["total"], again_seen["later"]) == (1, 2)
    again("append", looked)
    assert (rows(), states()) == ([(1, "a")], [(1, "replayed"), (2, "open"), (3, "open")])
    assert any("2 rows like these came since they were looked at" in line for _, line in world.recorder.lines)
    done = world.destination().discard_quarantined(world.pipeline, looked, by="me", note="")
    assert (done, states()[1:]) == ({"discarded": 0, "later": 2}, [(2, "open"), (3, "open")])


def test_what_an_earlier_version_put_aside_is_seen_and_decided_on(load, again, rows, world, admin):
    load("append", (1, "a\0", 1), (2, "b\0", 1))
    admin.execute("ALTER TABLE _datamantri.quarantine DROP opened; ALTER TABLE _datamantri.kept DROP open_rows")
    seen = world.destination().quarantined(world.pipeline, ALL)
    assert (seen["total"], list(seen["as_of"].values())) == (2, [0])
    looked = Wanted(code="nul_character", as_of=seen["as_of"])
    admin.execute("SELECT id::text FROM _datamantri.quarantine ORDER BY seen_at LIMIT 1")
    one = Wanted(ids=admin.fetchone())
    assert world.destination().discard_quarantined(world.pipeline, one, by="me", note="")["discarded"] == 1
    again("append", looked)
    assert rows() == [(2, "b")]


def test_rows_of_a_pipeline_that_had_the_target_before_are_not_taken(load, again, admin):
    load("append", (1, "a\0", 1))
    admin.execute("UPDATE _datamantri.quarantine SET pipeline = gen_random_uuid()")
    with pytest.raises(ConnectorError, match="nothing to replay"):
        again("append")


def test_a_newer_version_that_came_meanwhile_stays(load, again, rows, states, world):
    load("merge", (1, "old\0", 5), (2, "b\0", 5))
    world.move(disposition="merge", source=source((1, "new", 6)), cursor="at", read=CursorRead("at"))
    assert states() == [(1, "superseded"), (2, "open")]
    load("merge", (1, "late\0", 4), read=CursorRead("at"))
    receipt = again("merge")
    assert (receipt.changes.stale, rows()) == (1, [(1, "new"), (2, "b")])


def test_a_version_that_is_newer_than_the_target_s_takes_its_place(load, again, rows):
    load("merge", (1, "old", 5))
    load("merge", (1, "new\0", 6), read=CursorRead("at"))
    again("merge")
    assert rows() == [(1, "new")]


def test_the_watermark_and_what_a_comparison_goes_by_stay(load, again, world, admin):
    load("append", (1, "a", 1), (2, "b\0", 2))
    admin.execute("UPDATE _datamantri.head SET watermark = '2', watermark_rows = 2")
    before = world.destination().published(world.target)
    again("append")
    admin.execute("SELECT watermark, watermark_rows FROM _datamantri.head")
    assert admin.fetchone() == ("2", 2)
    after = world.destination().published(world.target)
    assert (after.run, after.snapshot_time) == (before.run, before.snapshot_time)


def test_what_is_still_bad_stays_in_quarantine_with_its_reason(load, again, rows, states):
    load("append", (1, "a\0", 1), (2, "b\0", 1))
    receipt = again("append", text_policy=TextPolicy.FAIL)
    assert (receipt.rows, receipt.quarantined, rows()) == (0, {"name: nul_character": 2}, [])
    assert states() == [(1, "replayed"), (2, "replayed"), (1, "open"), (2, "open")]


def test_of_two_replays_of_a_row_one_is_overtaken(load, again, rows):
    load("append", (1, "a\0", 1))

    def decide() -> None:
        again("append")

    with pytest.raises((Overtaken, ConnectorError)):
        again("append", before=decide)
    assert rows() == [(1, "a")]


def test_a_row_that_is_discarded_meanwhile_is_not_taken(load, again, rows, world, states):
    load("append", (1, "a\0", 1))
    discard = world.destination()
    with pytest.raises(Overtaken):
        again("append", before=lambda: discard.discard_quarantined(world.pipeline, Wanted(), by="anna", note="no"))
    assert (rows(), states()) == ([], [(1, "discarded")])
    (seen,) = world.destination().quarantined(world.pipeline, Wanted())["rows"]
    assert (seen["decided_by"], seen["note"], seen["state"]) == ("anna", "no", "discarded")


def test_a_column_of_another_type_by_now_leaves_its_rows(load, again, world, admin, states):
    load("append", (1, "a\0", 1), (2, "7\0", 1))
    admin.execute(
        "UPDATE _datamantri.head SET columns = jsonb_set(columns, '{columns,1,type}', '\"INT64\"');"
        "UPDATE _datamantri.quarantine SET raw = replace(raw, '7\\u0000', '7')"
    )
    with pytest.raises(ConnectorError):  # the target's column is text
        again("append")
    assert "Column name is of another type by now. 1 row stays" in world.recorder.text()
    assert states() == [(1, "open"), (2, "open")]


def test_a_row_with_a_value_of_a_column_that_the_source_renamed_keeps_it_and_stays(load, again, world, admin, states):
    """A row without such a value goes, and so do names in another case."""

    def renamed(*names: str) -> MemorySource:
        columns = tuple(Column(name, column.type) for name, column in zip(names, COLUMNS, strict=True))
        arrays = (pa.array([9]), pa.array(["x"]), pa.array([9]))
        return MemorySource([pa.record_batch(dict(zip(names, arrays, strict=True)))], columns)

    load("append", (1, "a\0", None), (2, "b\0", 5))
    load("append", source=renamed("ID", "Name", "moment"))
    again("append")
    admin.execute("SELECT id, name, moment FROM flights ORDER BY 1")
    assert admin.fetchall() == [(1, "a", None), (9, "x", 9)]
    assert states() == [(1, "replayed"), (2, "open")]
    assert "Column at is no longer there, and they have values of it. 1 row stay" in world.recorder.text()
    again("append", rules={"at": ColumnRule(skip=True)})
    assert states() == [(1, "replayed"), (2, "replayed")]


@pytest.mark.parametrize("kind", ["append", "replace", "merge"])
def test_nothing_is_replayed_by_a_definition_that_no_run_has_written_by(load, again, states, kind):
    load(kind, (1, "a\0", 1))
    with pytest.raises(ConnectorError) as caught:
        again(kind, fingerprint="another")
    assert (caught.value.code, states()) == ("definition_changed", [(1, "open")])
    assert "If none writes it any more" in caught.value.hint


def test_rows_of_other_masks_stay_where_they_are(load, again, world):
    load("append", (1, "a\0", 1))
    hidden = changed(COLUMNS[1], mask=Mask(MaskKind.REDACT, COLUMNS[1]))
    chosen = replay.ReplaySource(
        world.destination().choose_quarantined(world.target, world.pipeline, Wanted())[0],
        COLUMNS,
        (COLUMNS[0], hidden, COLUMNS[2]),
    )
    assert (chosen.ids, chosen.left.total()) == ((), 1)


ZIP = Column("address", "STRUCT", columns=(Column("zip", "INT64"), Column("city", "STRING")))
ADDRESSES = (Column("id", "INT64"), Column("name", "STRING"), ZIP)


def addressed(*names: str) -> MemorySource:
    places = [{"zip": 10_115 + n, "city": "Berlin"} for n in range(len(names))]
    batch = pa.record_batch({"id": pa.array(range(len(names))), "name": pa.array(names), "address": pa.array(places)})
    return MemorySource([batch], ADDRESSES)


def test_a_mask_of_a_field_is_kept_with_its_row_and_no_row_from_before_it_is_replayed(load, again, world, admin):
    masks = {"address.zip": ColumnRule(mask="keep_last", keep=2)}
    load("replace", source=addressed("a", "b\0"))
    with pytest.raises(ConnectorError, match="nothing to replay"):
        again("replace", rules=masks)
    assert "under other masks. 1 row stays" in world.recorder.text()
    load("replace", source=addressed("a", "b\0"), rules=masks)
    admin.execute("SELECT raw::text FROM _datamantri.quarantine WHERE state = 'open'")
    (raw,) = admin.fetchone()
    assert json.loads(raw)["address"] == {"zip": "****16", "city": "Berlin"}
    again("replace", rules=masks)
    admin.execute("SELECT address FROM flights ORDER BY id")
    assert [address["zip"] for (address,) in admin.fetchall()] == ["****15", "****16"]


AGED = Check(CheckKind.RANGE, name="recent", columns=("at",), minimum="5", severity=Severity.QUARANTINE)
KNOWN = Check(CheckKind.ACCEPTED, name="known", columns=("name",), values=("a", "b"), severity=Severity.QUARANTINE)
LISTED = Check(
    CheckKind.SQL, name="listed", query="SELECT ctid FROM {staged} WHERE id = 1", severity=Severity.QUARANTINE
)


@pytest.mark.parametrize("kind", ["append", "replace", "merge"])
def test_rows_that_fail_a_check_go_into_quarantine_and_come_back_when_it_is_mended(load, again, rows, states, kind):
    receipt = load(kind, (1, "a", 4), (2, "x", 6), (3, "b", 7), checks=(AGED, KNOWN))
    assert (receipt.rows, receipt.source_rows, rows()) == (1, 3, [(3, "b")])
    assert receipt.quarantined == {"at: check_failed": 1, "name: check_failed": 1}
    assert [check["status"] for check in receipt.checks] == ["failed", "failed"]
    again(kind, checks=(changed(AGED, minimum="4"), KNOWN))
    assert rows() == [(1, "a"), (3, "b")]
    assert states() == [(1, "replayed"), (2, "replayed"), (2, "open")]


def test_a_query_s_bad_rows_go_as_well(load, rows):
    load("append", (1, "a", 4), (2, "b", 4), checks=(LISTED,))
    assert rows() == [(2, "b")]


def test_without_a_quarantine_such_a_check_holds_the_run(load, rows):
    with pytest.raises(ConnectorError) as caught:
        load("append", (1, "a", 4), checks=(AGED,), quarantine=QuarantineRule())
    assert caught.value.code == "check_failed"


def test_a_row_that_failed_a_check_comes_back_with_every_value_as_it_was(world, again, admin):
    columns = (
        *(Column("id", "INT64"), Column("at", "INT64"), Column("name", "STRING"), Column("f", "FLOAT64")),
        *(Column("n", "NUMERIC"), Column("b", "BYTES"), Column("d", "DATE"), Column("t", "TIME")),
        *(Column("dt", "DATETIME"), Column("ts", "TIMESTAMP"), Column("j", "JSON"), Column("i", "INTERVAL")),
        *(Column("r", "RANGE", element="DATE"), Column("a", "STRING", repeated=True)),
        Column("s", "STRUCT", columns=(Column("x", "INT64"), Column("y", "STRING"))),
    )
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678)
    batch = pa.record_batch(
        {
            "id": pa.array([2**62, 7]),
            "at": pa.array([1, 9]),
            "name": pa.array(['q"\\ü', "x"]),
            "f": pa.array([float("nan"), 1e300]),
            "n": pa.array([decimal.Decimal("1.5"), None], pa.decimal128(38, 9)),
            "b": pa.array([bytes(range(200)), b""]),
            "d": pa.array([dt.date(2026, 1, 2), None]),
            "t": pa.array([dt.time(1, 2, 3, 4), None], pa.time64("us")),
            "dt": pa.array([moment, None], pa.timestamp("us")),
            "ts": pa.array([moment, None], pa.timestamp("us", "UTC")),
            "j": pa.array(['{"a": [1, 1e99]}', "null"]),
            "i": pa.array([(14, -3, 5_000_000), None], pa.month_day_nano_interval()),
            "r": pa.array(
                [{"start": dt.date(2026, 1, 1), "end": None}, None],
                pa.struct([("start", pa.date32()), ("end", pa.date32())]),
            ),
            "a": pa.array([["a", "b,"], []]),
            "s": pa.array([{"x": 2**60, "y": None}, None], pa.struct([("x", pa.int64()), ("y", pa.string())])),
        }
    )
    world.move(disposition="append", source=MemorySource([batch], columns))
    admin.execute("CREATE TABLE as_it_was AS SELECT * FROM flights; TRUNCATE flights")
    world.move(disposition="append", source=MemorySource([batch], columns), quarantine=ON, checks=(AGED,))
    admin.execute("SELECT count(*) FROM flights")
    assert admin.fetchone() == (1,)
    again("append")
    admin.execute("SELECT t::text FROM flights AS t EXCEPT ALL SELECT t::text FROM as_it_was AS t")
    assert admin.fetchall() == []
    admin.execute("SELECT count(*) FROM flights")
    assert admin.fetchone() == (2,)
