"""The values at the ends of every type, in the Arrow form of BigQuery's Storage API, through a real COPY."""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from connectors.column import Column
from connectors.errors import ConnectorError
from tests.connectors.columns.values import range_arrow

FIRST_DAY, LAST_DAY = dt.date(1, 1, 1), dt.date(9999, 12, 31)
FIRST, LAST = dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)
UTC_FIRST, UTC_LAST = FIRST.replace(tzinfo=dt.UTC), LAST.replace(tzinfo=dt.UTC)
NUMERIC_MAX = Decimal("99999999999999999999999999999.999999999")
NUMERIC_MIN = Decimal("-99999999999999999999999999999.999999999")
NUMERIC_STEP = Decimal("0.000000001")
BIG_MAX = "578960446186580977117854925043439539266.34992332820282019728792003956564819967"
BIG_MIN = "-578960446186580977117854925043439539266.34992332820282019728792003956564819968"
BIG_STEP = "0.00000000000000000000000000000000000001"
FACES = "👩‍👩‍👧‍👦 🇳🇱 e\u0301 \U0010ffff \u200b\ufeff"


def of_77_digits(*texts: str | None) -> pa.Array:
    """BIGNUMERIC as BigQuery sends it: decimal256(76, 38) of up to 77 digits, which pyarrow will not make."""
    whole = [0 if text is None else int(text.replace(".", "")) for text in texts]
    data = b"".join(number.to_bytes(32, "little", signed=True) for number in whole)
    valid = pa.array([text is not None for text in texts]).buffers()[1]
    return pa.Array.from_buffers(pa.decimal256(76, 38), len(texts), [valid, pa.py_buffer(data)])


@pytest.mark.parametrize(
    ("column", "array"),
    [
        (Column("v", "BOOL"), pa.array([True, False, None])),
        (Column("v", "INT64"), pa.array([-(2**63), 2**63 - 1, 0, None])),
        (Column("v", "FLOAT64"), pa.array([math.inf, -math.inf, 5e-324, 1.7976931348623157e308, -(2.0**53) - 2, None])),
        (
            Column("v", "NUMERIC"),
            pa.array([NUMERIC_MAX, NUMERIC_MIN, NUMERIC_STEP, -NUMERIC_STEP, Decimal(0), None], pa.decimal128(38, 9)),
        ),
        (Column("v", "STRING"), pa.array(["", FACES, "é" * (1 << 19), "x" * (1 << 20), None])),
        (Column("v", "DATE"), pa.array([FIRST_DAY, LAST_DAY, dt.date(1999, 12, 31), dt.date(2000, 1, 1), None])),
        (Column("v", "TIME"), pa.array([dt.time(0), dt.time(23, 59, 59, 999999), None], pa.time64("us"))),
        (
            Column("v", "DATETIME"),
            pa.array([FIRST, LAST, dt.datetime(1969, 12, 31, 23, 59, 59, 1)], pa.timestamp("us")),
        ),
        (Column("v", "TIMESTAMP"), pa.array([UTC_FIRST, UTC_LAST, None], pa.timestamp("us", "UTC"))),
        (Column("v", "STRING", True), pa.array([[], [""], ["", None, FACES], [None, None], ["NULL", "{}", ","]])),
        (Column("v", "INT64", True), pa.array([[2**63 - 1, None, -(2**63)], [], [None]])),
        (
            Column("v", "TIMESTAMP", True),
            pa.array([[UTC_FIRST, None, UTC_LAST], []], pa.list_(pa.timestamp("us", "UTC"))),
        ),
        (
            Column("v", "NUMERIC", True),
            pa.array([[NUMERIC_MAX, None, NUMERIC_MIN], []], pa.list_(pa.decimal128(38, 9))),
        ),
    ],
)
def test_both_ends_come_back(survivors: Any, column: Column, array: pa.Array) -> None:
    assert survivors(column, array) == array.to_pylist()


def test_nan_and_the_sign_of_zero_come_back(survivors: Any) -> None:
    found = survivors(Column("v", "FLOAT64"), pa.array([math.nan, -0.0, 0.0]), "v::text")
    assert found == ["NaN", "-0", "0"]


def test_bytes_of_ten_megabytes_come_back(survivors: Any) -> None:
    large = bytes(range(256)) * 40_960
    found = survivors(Column("v", "BYTES"), pa.array([b"", large, b"\0", None]))
    assert [value if value is None else bytes(value) for value in found] == [b"", large, b"\0", None]


def test_bignumeric_keeps_all_77_digits(survivors: Any) -> None:
    texts = [BIG_MAX, BIG_MIN, BIG_STEP, f"-{BIG_STEP}", None]
    assert survivors(Column("v", "BIGNUMERIC"), of_77_digits(*texts), "v::text") == texts


def test_bignumeric_keeps_all_77_digits_in_an_array(survivors: Any) -> None:
    array = pa.ListArray.from_arrays(pa.array([0, 2, 2, 4], pa.int32()), of_77_digits(BIG_MAX, None, BIG_MIN, BIG_STEP))
    found = survivors(Column("v", "BIGNUMERIC", True), array, "v::text")
    assert found == [f"{{{BIG_MAX},NULL}}", "{}", f"{{{BIG_MIN},{BIG_STEP}}}"]


def test_bignumeric_keeps_all_77_digits_in_a_struct(survivors: Any) -> None:
    array = pa.StructArray.from_arrays([of_77_digits(BIG_MAX, BIG_MIN, BIG_STEP, None)], ["b"])
    found = survivors(Column("v", "STRUCT", columns=(Column("b", "BIGNUMERIC"),)), array, "v ->> 'b'")
    assert found == [BIG_MAX, BIG_MIN, BIG_STEP, None]


@pytest.mark.parametrize(
    ("element", "bound", "low", "high"),
    [
        ("DATE", pa.date32(), FIRST_DAY, LAST_DAY),
        ("DATETIME", pa.timestamp("us"), FIRST, LAST),
        ("TIMESTAMP", pa.timestamp("us", "UTC"), UTC_FIRST, UTC_LAST),
    ],
)
@pytest.mark.parametrize("repeated", [False, True])
def test_a_missing_bound_of_a_range_is_unbounded(
    survivors: Any, element: str, bound: pa.DataType, low: Any, high: Any, repeated: bool
) -> None:
    ends = [(low, high), (None, high), (low, None), (None, None)]
    rows: list[Any] = [{"start": start, "end": end} for start, end in ends]
    rows.append(None)
    type_ = range_arrow(bound)
    array = pa.array([rows], pa.list_(type_)) if repeated else pa.array(rows, type_)
    found = survivors(Column("v", "RANGE", repeated, element=element), array)
    found = found[0] if repeated else found
    assert [(value.lower, value.upper) for value in found[:4]] == ends
    assert [(value.lower_inc, value.upper_inc) for value in found[:4]] == [
        (start is not None, False) for start, _ in ends
    ]
    assert not any(value.isempty for value in found[:4])
    assert found[4] is None


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((0, 0, 0), "00:00:00"),
        ((120_000, 3_660_000, 0), "10000 years 3660000 days"),
        ((-120_000, -3_660_000, 0), "-10000 years -3660000 days"),
        ((14, -3, -1_000), "1 year 2 mons -3 days -00:00:00.000001"),
        ((-1, 2, 86_399_999_999_000), "-1 mons +2 days 23:59:59.999999"),
        ((0, 0, 9_223_372_036_854_775_000), "2562047:47:16.854775"),
        ((0, 0, -9_223_372_036_854_775_000), "-2562047:47:16.854775"),
    ],
)
def test_an_interval_keeps_months_days_and_microseconds_apart(survivors: Any, parts: Any, text: str) -> None:
    value = pa.MonthDayNano(parts)
    type_ = pa.month_day_nano_interval()
    assert survivors(Column("v", "INTERVAL"), pa.array([value, None], type_), "v::text") == [text, None]
    array = pa.array([[value, None]], pa.list_(type_))
    assert survivors(Column("v", "INTERVAL", True), array, "v::text[]") == [[text, None]]


@pytest.mark.parametrize("column", [Column("v", "INTERVAL"), Column("v", "STRUCT", columns=(Column("i", "INTERVAL"),))])
def test_nanoseconds_that_would_be_lost_are_refused(survivors: Any, column: Column) -> None:
    array = pa.array([pa.MonthDayNano((0, 0, 1_500)), None], pa.month_day_nano_interval())
    if column.type == "STRUCT":
        array = pa.StructArray.from_arrays([array], ["i"])
    with pytest.raises(ConnectorError) as caught:
        survivors(column, array)
    assert (caught.value.code, caught.value.field) == ("value_out_of_range", "v")


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "{}",
        '""',
        '{"":""}',
        json.dumps(FACES, ensure_ascii=False),
        json.dumps(FACES),
        json.dumps("\\u0000 \\\\u0000"),
        "[1e308, -1e-308, 18446744073709551615, 0.1, -9223372036854775808]",
        "[" * 500 + "]" * 500,
        json.dumps({"k": "x" * (1 << 20)}),
    ],
)
def test_a_json_document_says_the_same(survivors: Any, text: str) -> None:
    exact = {"parse_float": Decimal, "parse_int": Decimal}
    (found,) = survivors(Column("v", "JSON"), pa.array([text]), "v::text")
    assert json.loads(found, **exact) == json.loads(text, **exact)


def test_floats_that_json_has_no_number_for_are_texts_in_a_struct(survivors: Any) -> None:
    column = Column("v", "STRUCT", columns=(Column("f", "FLOAT64", True),))
    row = {"f": [math.inf, -math.inf, math.nan, 5e-324, 0.1, None]}
    array = pa.array([row, {"f": [1.5]}], pa.struct([("f", pa.list_(pa.float64()))]))
    assert survivors(column, array) == [
        {"f": ["Infinity", "-Infinity", "NaN", 5e-324, 0.1, None]},
        {"f": [1.5]},
    ]


def test_fifteen_levels_of_structs_and_arrays_come_back(survivors: Any) -> None:
    column, type_, value = Column("leaf", "STRING"), pa.string(), FACES
    row: Any = value
    for level in range(15):
        repeated = level % 2 == 1
        struct = pa.struct([(column.name, type_), ("n", pa.int64())])
        row = {column.name: row, "n": None if repeated else level}
        row, type_ = ([row, None], pa.list_(struct)) if repeated else (row, struct)
        column = Column(f"level_{level}", "STRUCT", repeated, columns=(column, Column("n", "INT64")))
    top = Column("v", "STRUCT", columns=column.columns)
    assert survivors(top, pa.array([row, None], type_)) == [row, None]


def test_a_large_struct_comes_back(survivors: Any) -> None:
    column = Column("v", "STRUCT", True, columns=(Column("b", "BYTES"), Column("s", "STRING")))
    rows = [[{"b": b"\xff" * (3 << 20), "s": '"\\' * (1 << 19)}, {"b": None, "s": ""}]]
    (found,) = survivors(column, pa.array(rows, pa.list_(pa.struct([("b", pa.binary()), ("s", pa.string())]))))
    assert found == [{"b": "////" * (1 << 20), "s": '"\\' * (1 << 19)}, {"b": None, "s": ""}]
