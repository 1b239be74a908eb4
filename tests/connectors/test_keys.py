"""Keys that differ are found in bounded memory, however many rows there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pytest

from connectors import keys
from connectors.base import NeverStop
from connectors.sides import Bucket, Cost, Keyed, Row
from tests.connectors.memory import ID_NAME, MemorySide

BY_ID = Keyed(ID_NAME, ID_NAME[:1])


class Side(MemorySide):
    """Remembers what it was asked."""

    def __init__(self, names: Mapping[int, str | None] | Sequence[tuple[int, str]]) -> None:
        rows = list(names.items() if isinstance(names, Mapping) else names)
        ids, texts = pa.array([i for i, _ in rows], pa.int64()), pa.array([text for _, text in rows], pa.string())
        super().__init__(pa.table({"id": ids, "name": texts}), Cost())
        self.hashed = 0
        self.asked: list[str] = []

    def buckets(self, keyed: Keyed) -> dict[int, Bucket]:
        self.asked.append("buckets")
        return super().buckets(keyed)

    def hashes(self, keyed, chosen):
        self.asked.append("hashes")
        found = list(super().hashes(keyed, chosen))
        self.hashed = len(found)
        return iter(found)

    def rows(self, keyed: Keyed, wanted: Sequence[int]) -> list[Row]:
        self.asked.append("rows")
        return super().rows(keyed, wanted)


def find(source: Side, target: Side) -> keys.KeyDifferences:
    return keys.find(source, target, BY_ID, rows=max(source.table.num_rows, target.table.num_rows), stop=NeverStop())


def test_each_kind_of_difference_is_counted_and_shown():
    found = find(Side({1: "one", 2: "two", 3: None, 4: "four"}), Side({1: "one", 2: "TWO", 3: "", 5: "five"}))
    assert (found.only_source, found.only_target, found.differing, found.is_complete) == (1, 1, 2, True)
    assert [(one.where, one.key, one.values) for one in found.shown] == [
        ("both", ("2",), {"name": ("two", "TWO")}),
        ("both", ("3",), {"name": (None, "")}),
        ("source", ("4",), {"name": ("four", None)}),
        ("target", ("5",), {"name": (None, "five")}),
    ]


def test_equal_sides_have_no_differing_key_and_no_row_is_read():
    sides = Side({1: "one", 2: None}), Side({2: None, 1: "one"})
    found = find(*sides)
    assert (found.only_source, found.only_target, found.differing, found.shown) == (0, 0, 0, ())
    assert sides[0].asked == ["hashes"]


def test_rows_that_come_more_often_on_one_side_differ():
    found = find(Side([(1, "one"), (1, "one"), (2, "two")]), Side({1: "one", 2: "two"}))
    assert (found.only_source, found.only_target, found.differing) == (0, 0, 1)
    assert [one.key for one in found.shown] == [("1",)]


def test_of_a_large_table_only_buckets_that_differ_are_looked_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keys, "ROWS_AT_ONCE", 1000)
    same = {i: f"row {i}" for i in range(20_000)}
    source, target = Side(same), Side({**same, 77: "another", 20_000: "new"})
    found = find(source, target)
    assert (found.only_target, found.differing, found.is_complete) == (1, 1, True)
    assert source.asked == ["buckets", "hashes", "rows"]
    assert 0 < source.hashed < 400
    assert found.rows_looked_at < 400


def test_when_everything_differs_a_part_is_looked_at_and_said_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keys, "ROWS_AT_ONCE", 1000)
    source, target = Side(dict.fromkeys(range(20000), "a")), Side(dict.fromkeys(range(20000), "b"))
    found = find(source, target)
    assert not found.is_complete
    assert 500 < found.differing == found.rows_looked_at <= 1000
    assert len(found.shown) == keys.KEYS_SHOWN


def test_a_bucket_that_is_too_large_is_looked_at_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keys, "ROWS_AT_ONCE", 10)
    monkeypatch.setattr(keys, "MOST_BITS", 1)
    found = find(Side(dict.fromkeys(range(100), "a")), Side(dict.fromkeys(range(100), "b")))
    assert not found.is_complete
    assert 10 < found.rows_looked_at < 90


def test_no_kind_of_difference_crowds_out_another():
    source, target = Side(dict.fromkeys(range(500), "a")), Side(dict.fromkeys(range(499), "b") | {1000: "mine"})
    found = find(source, target)
    wheres = [one.where for one in found.shown]
    assert (len(wheres), wheres.count("source"), wheres.count("target")) == (keys.KEYS_SHOWN, 1, 1)


def test_of_wide_rows_some_values_are_shown_and_the_others_counted():
    columns = tuple(replace(ID_NAME[1], name=f"c{i}") for i in range(30))

    def side(value: str) -> MemorySide:
        return MemorySide(pa.table({"id": [1], **{column.name: [value] for column in columns}}), Cost())

    keyed = Keyed((ID_NAME[0], *columns), ID_NAME[:1])
    (one,) = keys.find(side("a"), side("b"), keyed, rows=1, stop=NeverStop()).shown
    assert (len(one.values), one.more) == (keys.VALUES_SHOWN, 30 - keys.VALUES_SHOWN)
