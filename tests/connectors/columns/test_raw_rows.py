"""What cannot be stored is kept as text that loses nothing: written in Arrow, read back as it was."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.column import Column
from connectors.columns.raw import Unreadable, raw_texts, read_texts
from tests.connectors.columns.values import KINDS, Kind, few


def there_and_back(column: Column, array: pa.Array) -> pa.Array:
    texts = raw_texts([array], [column]).to_pylist()
    return read_texts(texts, [column]).column(0)


@pytest.mark.parametrize("type_", KINDS)
def test_every_type_comes_back_as_it_was(type_: str) -> None:
    kind = KINDS[type_]

    @few
    @given(st.lists(st.none() | kind.values, min_size=1, max_size=8))
    def check(values: list[Any]) -> None:
        array = pa.array([None, *(None if v is None else kind.into(v) for v in values)], kind.arrow).slice(1)
        back = there_and_back(kind.column("v", type_), array)
        assert seen(kind, back) == seen(kind, array)

    check()


def seen(kind: Kind, array: pa.Array) -> list[Any]:
    """As texts where the array is one of shapes in bytes: those come back as their hexadecimal digits."""
    if pa.types.is_binary(array.type):
        return [None if value is None else value.hex() for value in array.to_pylist()]
    see = (lambda value: value) if kind.arrow == pa.binary() else kind.seen
    return [None if value is None else see(value) for value in array.to_pylist()]


NESTED = Column(
    "s", "STRUCT", columns=(Column("tags", "STRING", repeated=True), Column("at", "DATE"), Column("b", "BYTES"))
)


def test_nested_values_keep_their_form() -> None:
    rows = [{"tags": ["a\0", 'q"\\'], "at": None, "b": b"\xff\0"}, None, {"tags": [], "at": 20_000, "b": None}]
    type_ = pa.struct([("tags", pa.list_(pa.string())), ("at", pa.date32()), ("b", pa.binary())])
    array = pa.array(rows, type_)
    assert there_and_back(NESTED, array).equals(array)
    told = json.loads(raw_texts([array], [NESTED])[0].as_py())
    assert told == {"s": {"tags": ["a\0", 'q"\\'], "at": None, "b": "/wA="}}


def test_bytes_that_are_no_utf8_are_not_lost() -> None:
    data = b"ok \xff\xfe caf\xe9"
    array = pa.array([data, "ü".encode(), b"\xc3"], pa.binary()).view(pa.string())
    back = there_and_back(Column("v", "STRING"), array)
    assert back.view(pa.binary()).to_pylist() == [data, "ü".encode(), b"\xc3"]


def test_days_and_moments_that_no_calendar_has_are_kept_as_numbers() -> None:
    days = pa.array([-2_500_000, 0, None, 3_000_000], pa.int32()).view(pa.date32())
    moments = pa.array([-(2**62), 0, None, 2**62], pa.int64()).view(pa.timestamp("us"))
    assert there_and_back(Column("v", "DATE"), days).equals(days)
    assert there_and_back(Column("v", "DATETIME"), moments).equals(moments)
    assert json.loads(raw_texts([days], [Column("v", "DATE")])[1].as_py()) == {"v": "1970-01-01"}


def test_whole_numbers_keep_every_digit() -> None:
    array = pa.array([2**63 - 1], pa.int64())
    assert raw_texts([array], [Column("v", "INT64")]).to_pylist() == ['{"v":"9223372036854775807"}']


def test_a_column_that_came_later_is_null_and_one_that_is_retyped_or_gone_is_named() -> None:
    v, w = Column("v", "STRING"), Column("w", "INT64")
    texts = raw_texts([pa.array(["x"]), pa.array([None], pa.int64())], [v, Column("gone", "INT64")]).to_pylist()
    assert read_texts(texts, [Column("V", "STRING"), w]).to_pylist() == [{"V": "x", "w": None}]
    for columns in ([Column("v", "INT64")], [w]):
        with pytest.raises(Unreadable) as caught:
            read_texts(texts, columns)
        assert caught.value.column == "v"
    assert read_texts(texts, [w], ["V"]).to_pylist() == [{"w": None}]


def test_a_field_that_is_gone_is_named() -> None:
    array = pa.array(
        [{"tags": ["a"], "at": None, "b": None}],
        pa.struct([("tags", pa.list_(pa.string())), ("at", pa.date32()), ("b", pa.binary())]),
    )
    texts = raw_texts([array], [NESTED]).to_pylist()
    untimed = Column("S", "STRUCT", columns=(Column("Tags", "STRING", repeated=True),))
    assert read_texts(texts, [untimed]).to_pylist() == [{"S": {"Tags": ["a"]}}]
    with pytest.raises(Unreadable) as caught:
        read_texts(texts, [Column("s", "STRUCT", columns=(Column("at", "DATE"),))])
    assert caught.value.column == "tags"
