"""A table moved from BigQuery, then compared: both sides in their own SQL, the source as it was at the snapshot."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors import comparing, transfer
from connectors.base import NeverStop
from connectors.bigquery.source import BigQuerySource
from connectors.billing import Meter
from connectors.checks import Check, CheckKind, Status
from connectors.column_rules import ColumnRule
from connectors.comparing import Comparison, ComparisonRequest
from connectors.cursor import CursorRead
from connectors.errors import ConnectorError
from connectors.modes import TextPolicy, WriteDisposition, WriteMode
from connectors.postgres import keep
from connectors.postgres.destination import PostgresDestination
from connectors.postgres.options import PostgresOptions
from connectors.reading import ReadRequest
from connectors.sides import Cost, Keyed, Scope
from connectors.writing import Owner, Target
from pipelines import answers
from tests.connectors.memory import Recorder
from tests.emulator_tables import EVERY_TYPE, every_type_rows

SCHEMA = [SchemaField("id", "INT64", "REQUIRED"), SchemaField("name", "STRING"), SchemaField("n", "NUMERIC")]
# BigQuery itself would write 1 and 4.25.


@pytest.fixture
def destination(warehouse: dict[str, Any], warehouse_cursor: Any) -> Iterator[PostgresDestination]:
    made = PostgresDestination(PostgresOptions(**warehouse))
    yield made
    made.close()
    keep.sessions.clear()
    warehouse_cursor.execute("DROP TABLE IF EXISTS compared; DROP SCHEMA IF EXISTS _datamantri CASCADE")


class World:
    """One pipeline: moves, and compares what it moved."""

    def __init__(self, source: BigQuerySource, destination: PostgresDestination, table: str) -> None:
        self.source, self.destination, self.table = source, destination, table
        self.owner = Owner(uuid.uuid4(), uuid.uuid4(), uuid.uuid4(), 1)
        self.target = Target("public", "compared")
        self.read = ReadRequest(table=table)
        self.mode = WriteMode(WriteDisposition.REPLACE, ("id",))
        self.recorder = Recorder()
        self.options: dict[str, Any] = {}

    def move(self, *, crash: Callable[[str], None] = lambda point: None) -> transfer.Receipt:
        owner = replace(self.owner, run=uuid.uuid4())
        fence = self.destination.raise_fence(self.target, owner)
        read = self.read
        if read.cursor is not None:
            read = replace(read, cursor=replace(read.cursor, watermark=fence.watermark.value))
        request = transfer.TransferRequest(owner, read, self.target, self.mode, fingerprint="f", **self.options)
        options = {"reporter": self.recorder, "stop": NeverStop(), "crash": crash}
        return transfer.direct(self.source, self.destination, fence, request, **options)

    def compare(self, **changes: Any) -> Comparison:
        published = self.destination.published(self.target)
        assert published is not None
        request = ComparisonRequest(self.read, self.target, self.mode, **changes)
        return comparing.compare(
            self.source, self.destination, request, published, log=self.recorder.log, stop=NeverStop()
        )


@pytest.fixture
def world(source: BigQuerySource, destination: PostgresDestination, bigquery_tables: Any, dataset: str) -> World:
    bigquery_tables.make(f"{dataset}.things", SCHEMA)
    bigquery_tables.run(f"INSERT INTO {dataset}.things VALUES (1, 'one', 1), (2, NULL, 2.50), (3, 'three', NULL)")
    return World(source, destination, f"{dataset}.things")


Change = Callable[[str], Any]


@pytest.fixture
def change(bigquery_tables: Any, world: World) -> Change:
    """Changes the source by a statement over {table}."""
    return lambda statement: bigquery_tables.run(statement.format(table=world.table))


def codes(found: Comparison) -> list[str]:
    return [finding.code for finding in found.findings()]


def shown(found: Comparison) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    assert found.keys is not None
    return [(one.where, one.key, dict(one.values)) for one in found.keys.shown]


def test_what_was_moved_is_equal(world: World):
    receipt = world.move()
    found = world.compare()
    assert codes(found) == ["equal", "source_unchanged"]
    assert found.findings()[0].text == (
        "Equal at the snapshot: the target has what the source held at "
        f"{receipt.snapshot_time:%Y-%m-%d %H:%M:%S} UTC: 3 rows, 3 columns."
    )
    assert found.keys is None
    assert found.cost.bytes_billed == len(found.cost.jobs) * 10 * 2**20
    assert found.to_json()["agrees"] is True


def test_a_source_that_changed_since_is_still_equal_at_the_snapshot(world: World, change: Change):
    world.move()
    change("DELETE FROM {table} WHERE id = 1")
    change("UPDATE {table} SET name = 'two' WHERE id = 2")
    found = world.compare()
    assert codes(found) == ["equal", "source_changed"]
    assert (found.then and found.then.rows, found.now and found.now.rows, found.target.rows) == (3, 2, 3)
    assert "it had 3 rows and has 2 rows now. The next run will bring that." in found.findings()[1].text


def test_a_check_asks_for_sums_at_the_snapshot_and_tells_what_that_was_billed(world: World, change: Change):
    def change_between(point: str) -> None:
        if point == "load.end":
            change("UPDATE {table} SET name = 'later' WHERE id = 1")

    world.source.meter = Meter()
    world.options["checks"] = (Check(CheckKind.CHECKSUM, "sums"),)
    world.move(crash=change_between)
    (told,) = world.recorder.results
    assert (told.status, told.message) == (
        Status.PASSED,
        "As in the source: 3 columns. Asking the source for them was billed as 10.5 MB.",
    )
    assert world.source.meter.bill.query_bytes == 10 * 2**20


def test_a_target_that_somebody_changed_is_told_with_its_keys(world: World, change: Change, warehouse_cursor: Any):
    world.move()
    change("UPDATE {table} SET name = 'later' WHERE id = 1")
    warehouse_cursor.execute("UPDATE compared SET name = 'mine' WHERE id = 1; DELETE FROM compared WHERE id = 3")
    warehouse_cursor.execute("INSERT INTO compared VALUES (4, 'four', 4.25)")
    found = world.compare()
    assert codes(found)[0] == "target_changed"
    assert found.keys_at == "then"
    assert shown(found) == [
        ("both", ("1",), {"name": ("one", "mine")}),
        ("source", ("3",), {"name": ("three", None), "n": (None, None)}),
        ("target", ("4",), {"name": (None, "four"), "n": (None, "4.250000000")}),
    ]
    assert "1 key has other values in the target, 1 key is only in the source, 1 key is only in the target." in [
        finding.text for finding in found.findings()
    ]
    assert "source_changed" in codes(found)
    assert found.to_json()["agrees"] is False


def test_without_a_key_the_columns_that_differ_are_named(world: World, warehouse_cursor: Any):
    world.mode = WriteMode(WriteDisposition.REPLACE)
    world.move()
    warehouse_cursor.execute("UPDATE compared SET name = 'mine' WHERE id = 1")
    found = world.compare()
    assert codes(found) == ["target_changed", "columns_differ", "source_unchanged"]
    assert (found.keys, found.differing) == (None, ("name",))


def test_only_columns_that_differ_are_read_again(world: World, warehouse_cursor: Any, bigquery: Any):
    world.move()
    warehouse_cursor.execute("UPDATE compared SET n = 9 WHERE id = 1")
    found = world.compare()
    assert shown(found) == [("both", ("1",), {"n": ("1.000000000", "9.000000000")})]
    assert len(found.cost.jobs) == 4


def test_a_merge_that_left_what_the_source_deleted_is_equal_by_key(world: World, change: Change):
    world.mode = WriteMode(WriteDisposition.MERGE, ("id",))
    world.move()
    change("DELETE FROM {table} WHERE id = 1")
    world.move()
    found = world.compare()
    assert codes(found) == ["equal_by_key", "rows_differ", "keys_differ", "only_in_target", "source_unchanged"]
    assert [one[:2] for one in shown(found)] == [("target", ("1",))]
    unsaid = world.compare(look_for_keys=False)
    assert codes(unsaid) == ["differs", "rows_differ", "source_unchanged"]
    assert "Merge deletes no rows" in unsaid.findings()[0].text


def test_a_merge_that_left_newer_rows_alone_blames_nobody(world: World, change: Change, warehouse_cursor: Any):
    world.mode = WriteMode(WriteDisposition.MERGE, ("id",), "n")
    world.move()
    change("UPDATE {table} SET n = 0.5 WHERE id = 1")
    world.move()
    assert codes(world.compare())[0] == "differs"
    change("UPDATE {table} SET n = 7 WHERE id = 1")
    world.move()
    assert codes(world.compare())[0] == "equal"
    warehouse_cursor.execute("UPDATE compared SET name = 'mine' WHERE id = 1")
    assert codes(world.compare())[0] == "target_changed"


def test_of_rows_with_one_key_a_merge_is_compared_with_the_newest(world: World, change: Change):
    world.mode = WriteMode(WriteDisposition.MERGE, ("id",), "n")
    change("INSERT INTO {table} VALUES (1, 'uno', 7), (1, 'un', 5)")
    world.move()
    assert codes(world.compare())[0] == "equal"


def test_masked_columns_are_counted_and_never_shown_and_the_filter_says_what_is_compared(
    world: World, change: Change, warehouse_cursor: Any
):
    hidden = {"name": ColumnRule(mask="hmac", name="who"), "n": ColumnRule(mask="redact")}
    # The key is masked: of rows with one key the newest is still found by what it was.
    world.mode = WriteMode(WriteDisposition.MERGE, ("name",), "id")
    world.read = replace(world.read, row_filter="name <> 'three' OR id = 7")
    change("INSERT INTO {table} VALUES (4, 'one', 7), (7, 'three', 7), (8, 'three', 8)")
    change("DELETE FROM {table} WHERE name IS NULL")
    world.options = {"rules": hidden, "mask_key": "k" * 32}
    assert world.move().rows == 3
    found = world.compare(rules=hidden)
    assert (codes(found), found.target.rows) == (["equal", "source_unchanged", "counted_only"], 2)
    assert set(found.counted) == {"name", "n"}
    world.mode = WriteMode(WriteDisposition.MERGE, ("id",))
    warehouse_cursor.execute("UPDATE compared SET n = NULL WHERE id = 4")
    found = world.compare(rules=hidden)
    assert ("both", ("4",), {"n": ("masked", None)}) in shown(found)
    warehouse_cursor.execute("DELETE FROM compared WHERE id = 7")
    found = world.compare(rules=hidden)
    assert ("source", ("7",), {"n": ("masked", None)}) in shown(found)
    assert "three" not in str(found.to_json())


def test_appending_all_rows_twice_is_no_difference_but_not_comparable(world: World, warehouse_cursor: Any):
    world.mode = WriteMode(WriteDisposition.APPEND)
    world.move()
    assert codes(world.compare()) == ["equal", "source_unchanged"]
    world.move()
    found = world.compare()
    assert codes(found) == ["appends_all", "source_unchanged"]
    assert found.findings()[0].text.endswith("It has the 6 rows that it should have by the runs' own record.")
    assert found.to_json()["agrees"] is None
    warehouse_cursor.execute("DELETE FROM compared WHERE id = 1")
    assert codes(world.compare())[0] == "target_changed"


@pytest.fixture
def days(world: World, bigquery_tables: Any, dataset: str) -> World:
    """A pipeline that merges by a cursor."""
    bigquery_tables.make(f"{dataset}.things", [*SCHEMA, SchemaField("day", "DATE")])
    bigquery_tables.run(
        f"INSERT INTO {dataset}.things VALUES (1, 'one', 1, '2026-01-01'), (2, NULL, 2, '2026-01-02'),"
        " (3, '3', 3, NULL)"
    )
    world.mode = WriteMode(WriteDisposition.MERGE, ("id",), "day")
    world.read = replace(world.read, cursor=CursorRead("day"))
    return world


def test_of_an_incremental_pipeline_only_what_its_runs_read_is_compared(days: World, change: Change):
    days.move()
    change("INSERT INTO {table} VALUES (9, 'new', 9, '2026-01-03')")
    found = days.compare()
    assert codes(found) == ["equal", "source_unchanged"]
    assert "with day up to 2026-01-02: 3 rows" in found.findings()[0].text
    days.move()
    assert days.compare().target.rows == 4


def test_late_rows_and_silent_changes_are_found_by_key(days: World, change: Change):
    days.move()
    change("INSERT INTO {table} VALUES (7, 'late', 7, '2026-01-01')")
    change("UPDATE {table} SET name = 'two' WHERE id = 2")
    found = days.compare()
    assert codes(found) == ["equal", "keys_differ", "late_rows", "changed_below", "source_changed"]
    assert [(one.where, one.key) for one in found.keys.shown] == [("both", ("2",)), ("source", ("7",))]
    assert found.keys_at == "now"
    change("INSERT INTO {table} VALUES (8, 'new', 8, '2026-01-03')")
    days.move()
    found = days.compare()
    assert codes(found) == ["differs", "rows_differ", "keys_differ", "late_rows", "changed_below", "source_unchanged"]
    assert found.keys_at == "then"


def test_late_rows_of_an_append_are_counted(days: World, change: Change):
    days.mode = WriteMode(WriteDisposition.APPEND, (), "day")
    days.read = replace(days.read, cursor=CursorRead("day", settles=True))
    change("DELETE FROM {table} WHERE day IS NULL")
    days.move()
    change("INSERT INTO {table} VALUES (7, 'late', 7, '2026-01-01')")
    change("INSERT INTO {table} VALUES (8, 'new', 8, '2026-01-03')")
    days.move()
    found = days.compare()
    assert codes(found) == ["differs", "rows_differ", "late_rows", "source_unchanged"]
    late = found.findings()[2].text
    assert late.startswith("Late rows: with day up to 2026-01-03 the source has 1 row more than the target.")


def test_as_it_is_now(world: World, change: Change):
    world.move()
    assert codes(world.compare(at_snapshot=False)) == ["equal_now"]
    change("UPDATE {table} SET name = 'two' WHERE id = 2")
    found = world.compare(at_snapshot=False)
    assert codes(found) == ["differs_now", "columns_differ", "keys_differ"]
    assert shown(found) == [("both", ("2",), {"name": ("two", None)})]


def test_a_snapshot_that_is_gone_is_said(world: World, monkeypatch: pytest.MonkeyPatch):
    world.move()
    published = world.destination.published(world.target)
    long_ago = {**published.receipt, "snapshot_time": "2020-01-01T00:00:00+00:00"}
    monkeypatch.setattr(world.destination, "published", lambda target: replace(published, receipt=long_ago))
    with pytest.raises(ConnectorError) as refused:
        world.compare()
    assert refused.value.code == "snapshot_gone"
    assert "Cannot read before" in refused.value.message


def test_a_query_is_run_again_and_says_what_that_means(world: World, change: Change):
    world.read = ReadRequest(query=f"SELECT * FROM {world.table} -- all of it")
    world.move()
    found = world.compare()
    assert codes(found) == ["equal", "unchanged_since"]
    assert (found.then, found.is_of_snapshot) == (None, True)
    change("UPDATE {table} SET name = 'two' WHERE id = 2")
    found = world.compare()
    assert codes(found) == ["differs_now", "columns_differ", "keys_differ", "not_pinned"]
    assert "a query cannot be read as it was" in found.findings()[-1].text


def test_a_query_that_depends_on_the_time_is_never_taken_for_its_former_self(world: World):
    world.read = ReadRequest(query=f"SELECT * FROM {world.table} WHERE CURRENT_DATE() > '2020-01-01'")
    world.move()
    assert codes(world.compare()) == ["equal_now", "not_pinned"]


def test_a_comparison_ends_at_its_limit_of_bytes(world: World, warehouse_cursor: Any):
    world.move()
    warehouse_cursor.execute("UPDATE compared SET name = 'mine' WHERE id = 1")
    world.read = replace(world.read, maximum_bytes_billed=3 * 10 * 2**20)
    with pytest.raises(ConnectorError) as refused:
        world.compare()
    assert refused.value.code == "bytes_billed_limit"


@pytest.fixture
def cost(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """What a page is told of the cost, by these two systems."""
    monkeypatch.setattr(answers, "_source", lambda _: nullcontext(world.source))
    monkeypatch.setattr(answers, "_destination", lambda _: nullcontext(world.destination))
    read = {"table": world.table, "query": "", "parameters": []}
    told = {**read, "schema": "public", "target": "compared", "key": ["id"]}
    return lambda: answers._comparison_cost({}, {}, str(world.owner.pipeline), **told)


def test_the_cost_is_told_by_a_dry_run_and_kept(world: World, cost: Any, warehouse_cursor: Any):
    with pytest.raises(ConnectorError) as refused:
        cost()
    assert refused.value.code == "nothing_published"
    world.move()
    told = cost()
    assert told["source"]["bytes"] == 3 * 8 + 2 + 3 + 2 + 5 + 2 * 16
    assert (told["source"]["least_billed"], told["source"]["most_billed"]) == (2 * 10 * 2**20, 5 * 10 * 2**20)
    assert told["target"]["bytes"] > 0
    warehouse_cursor.execute("UPDATE compared SET name = 'mine' WHERE id = 1")
    world.read = replace(world.read, maximum_bytes_billed=told["source"]["most_billed"])
    assert world.compare().cost.bytes_billed <= told["source"]["most_billed"]


def test_the_cost_says_why_there_is_no_snapshot(world: World, cost: Any, warehouse_cursor: Any):
    world.move()
    warehouse_cursor.execute(
        'UPDATE _datamantri.applied SET receipt = receipt || \'{"snapshot_time": "2020-01-01T00:00:00+00:00"}\''
    )
    told = cost()["source"]
    assert "Cannot read before" in told["no_snapshot"]
    assert told["is_gone"]
    assert told["least_billed"] == 10 * 2**20


def test_nothing_is_written_at_the_destination(world: World, warehouse_cursor: Any):
    world.move()
    state = "SELECT target, token, (SELECT count(*) FROM _datamantri.applied) FROM _datamantri.head ORDER BY 1"
    warehouse_cursor.execute(state)
    before = warehouse_cursor.fetchall()
    world.compare()
    warehouse_cursor.execute(state)
    assert warehouse_cursor.fetchall() == before


def test_every_type_has_the_same_hashes_on_both_sides(
    world: World, bigquery_tables: Any, dataset: str, warehouse_cursor: Any
):
    bigquery_tables.make(f"{dataset}.things", EVERY_TYPE, every_type_rows())
    warehouse_cursor.execute("DROP TABLE IF EXISTS compared")
    world.move()
    columns = world.source.describe(world.read).columns
    counted = frozenset({"json", "geography", "struct", "structs"})
    everything = Keyed(columns, columns[:1], counted, bits=4)
    there = world.source.comparing(world.read, Scope(), columns, Cost(), stop=NeverStop())
    with world.destination.comparing(world.target, stop=NeverStop()) as here:
        hashes, buckets = sorted(there.hashes(everything, ())), there.buckets(everything)
        assert hashes == sorted(here.hashes(everything, ()))
        assert buckets == here.buckets(everything)
        some = list(buckets)[:1]
        assert list(there.hashes(everything, some)) == list(here.hashes(everything, some))
        keys = [key for key, _ in hashes]
        for a, b in zip(
            *(sorted(side.rows(everything, keys), key=lambda row: row.key) for side in (there, here)), strict=True
        ):
            assert (a.key, a.hashes) == (b.key, b.hashes)
            assert [text is None for text in a.texts] == [text is None for text in b.texts]


def test_characters_that_were_taken_out_on_the_way_are_no_difference(
    world: World, bigquery_tables: Any, dataset: str, warehouse_cursor: Any
):
    texts = pa.table({"id": pa.array([1, 2], pa.int64()), "name": ["a\0b", "c"], "n": pa.array([1, 2], pa.int64())})
    bigquery_tables.make(f"{dataset}.things", [SCHEMA[0], SCHEMA[1], SchemaField("n", "INT64")], texts)
    owner = replace(world.owner, run=uuid.uuid4())
    fence = world.destination.raise_fence(world.target, owner)
    request = transfer.TransferRequest(owner, world.read, world.target, world.mode, text_policy=TextPolicy.STRIP)
    transfer.direct(world.source, world.destination, fence, request, reporter=world.recorder, stop=NeverStop())
    assert codes(world.compare(text_policy=TextPolicy.STRIP))[0] == "equal"
    assert codes(world.compare())[0] == "target_changed"
