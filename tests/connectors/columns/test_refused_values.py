"""What PostgreSQL would refuse is found in Arrow, by column, before a COPY breaks."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import pyarrow as pa
import pytest

from connectors.column import Column
from connectors.columns.encode import BatchEncoder
from connectors.errors import ConnectorError


def encode(columns: list[Column], **arrays: pa.Array) -> bytes:
    encoder = BatchEncoder(columns)
    batch = pa.record_batch(list(arrays.values()), names=list(arrays))
    return b"".join([encoder.header(), *encoder.encode(batch), encoder.finish()])


def refusal(columns: list[Column], **arrays: pa.Array) -> ConnectorError:
    with pytest.raises(ConnectorError) as caught:
        encode(columns, **arrays)
    return caught.value


@pytest.mark.parametrize(
    ("column", "array"),
    [
        (Column("v", "STRING"), pa.array(["a", "b\0c", None, "\0"])),
        (Column("v", "STRING", repeated=True), pa.array([["a"], ["\0", "x\0y"]])),
        (Column("v", "JSON"), pa.array(['"\\u0000"', '{"a\\u0000":1}', "1"])),
        (Column("v", "JSON"), pa.array(['"\\\\\\u0000"', "[1]", '["\\u0000"]'])),
        (Column("v", "JSON", repeated=True), pa.array([['"\\u0000"'], ["1", '"\\u0000\\u0000"']])),
    ],
)
def test_nul_is_refused_with_the_column_and_how_many_values(column: Column, array: pa.Array) -> None:
    error = refusal([column], v=array)
    assert (error.code, error.field) == ("nul_character", "v")
    assert "2 values" in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("column", "array"),
    [
        (Column("v", "BYTES"), pa.array([b"\0"])),
        (Column("v", "JSON"), pa.array(['"\\\\u0000"', '"\\\\\\\\u0000"'])),
        (Column("v", "STRING"), pa.array(["a", "\0", "b"]).slice(2, 1)),
        (Column("v", "STRING"), pa.array(["\\u0000"])),
    ],
)
def test_what_only_looks_like_nul_passes(column: Column, array: pa.Array) -> None:
    assert encode([column], v=array)


@pytest.mark.parametrize(
    ("column", "array"),
    [
        (Column("v", "FLOAT64"), pa.array([1])),
        (Column("v", "INT64"), pa.array([1.0])),
        (Column("v", "INT64"), pa.array([dt.datetime(2020, 1, 1)], pa.timestamp("us"))),
        (Column("v", "DATETIME"), pa.array([dt.datetime(2020, 1, 1)], pa.timestamp("us", "UTC"))),
        (Column("v", "TIMESTAMP"), pa.array([dt.datetime(2020, 1, 1)], pa.timestamp("us"))),
        (Column("v", "TIMESTAMP"), pa.array([dt.datetime(2020, 1, 1)], pa.timestamp("ns", "UTC"))),
        (Column("v", "STRING"), pa.array([["a"]])),
        (Column("v", "STRING", repeated=True), pa.array(["a"])),
        (Column("v", "STRUCT", columns=(Column("a", "INT64"),)), pa.array([{"a": "x"}])),
        (Column("v", "STRUCT", columns=(Column("a", "INT64"),)), pa.array([{"b": 1}])),
        (Column("v", "RANGE", element="DATE"), pa.array([{"start": 1, "end": 2}])),
    ],
)
def test_a_type_that_was_not_announced_is_refused(column: Column, array: pa.Array) -> None:
    error = refusal([Column("id", "INT64"), column], id=pa.array([1]), v=array)
    assert (error.code, error.field) == ("column_type_changed", "v")
    assert str(array.type) in error.message


def test_a_column_that_does_not_arrive_is_named() -> None:
    error = refusal([Column("id", "INT64"), Column("v", "STRING")], id=pa.array([1]))
    assert (error.code, error.field) == ("column_type_changed", "v")


def test_a_type_that_changes_between_batches_is_refused() -> None:
    encoder = BatchEncoder([Column("v", "INT64")])
    encoder.header()
    list(encoder.encode(pa.record_batch([pa.array([1])], names=["v"])))
    with pytest.raises(ConnectorError, match="announced as INT64, but arrives as double"):
        list(encoder.encode(pa.record_batch([pa.array([1.0])], names=["v"])))


def test_a_decimal_with_more_digits_than_numeric_has_is_out_of_range() -> None:
    array = pa.array([decimal.Decimal(10) ** 37], pa.decimal128(38, 0))
    error = refusal([Column("v", "NUMERIC")], v=array)
    assert (error.code, error.field) == ("value_out_of_range", "v")


def test_a_large_batch_is_encoded_in_slices_of_about_a_megabyte() -> None:
    encoder = BatchEncoder([Column("v", "STRING")])
    batch: Any = pa.record_batch([pa.array(["x" * 1000] * 20_000)], names=["v"])
    encoder.header()
    buffers = [*encoder.encode(batch), encoder.finish()]
    assert max(map(len, buffers)) < 4 << 20
    assert sum(map(len, buffers)) == 20_000 * (2 + 4 + 1000) + 2
