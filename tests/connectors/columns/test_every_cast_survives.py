"""Columns that a rule stores as another type: generated values go through a real COPY and come back as they should."""

from __future__ import annotations

import datetime as dt
import json
import math
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.column import Column
from connectors.column_rules import ColumnRule, apply
from connectors.errors import ConnectorError
from connectors.types import CASTS, base_type, postgres_type
from tests.connectors.columns.documents import as_json, equal
from tests.connectors.columns.test_every_type_survives import make, round_trip, table
from tests.connectors.columns.values import KINDS, Kind, decimals, few, same, texts

__all__ = ["table"]  # a fixture

BERLIN = ZoneInfo("Europe/Berlin")


def digits(value: Decimal) -> str:
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def iso(value: Any) -> str:
    if isinstance(value, dt.datetime | dt.time):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value.isoformat()


def as_range(value: dict[str, Any]) -> str:
    start, end = ("UNBOUNDED" if bound is None else iso(bound) for bound in (value["start"], value["end"]))
    return f"[{start}, {end})"


def once_in_berlin(moment: dt.datetime) -> bool:
    """Whether clocks in Berlin show this once; Python knows nothing of year 1's or 9999's neighbours."""
    if not 1 < moment.year < 9999:
        return False
    first, second = (moment.replace(tzinfo=BERLIN, fold=fold).astimezone(dt.UTC) for fold in (0, 1))
    return first == second


def whole(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


@dataclass(frozen=True)
class Cast:
    """A rule for one of KINDS: `values` that fit, what becomes of one (`seen`), and how to ask for it (`read`)."""

    kind: str
    type: str
    values: st.SearchStrategy[Any] | None = None
    seen: Callable[[Any], Any] = same
    read: str = "{x}"
    zone: str = ""
    back: Callable[[Any], Any] = same


CASES = (
    Cast("BOOL", "text", seen=lambda value: "true" if value else "false"),
    Cast("INT64", "smallint", whole(-(2**15), 2**15 - 1)),
    Cast("INT64", "integer", whole(-(2**31), 2**31 - 1)),
    Cast("INT64", "numeric", read="{x}::text", seen=str),
    Cast("INT64", "numeric(20,1)", read="{x}::text", seen=lambda value: f"{value}.0"),
    Cast("INT64", "numeric(3,0)", whole(-999, 999)),
    Cast("INT64", "text", seen=str),
    Cast(
        "FLOAT64",
        "real",
        st.floats(width=32) | st.floats(-1e30, 1e30),
        seen=lambda value: "nan" if math.isnan(value) else struct.unpack("f", struct.pack("f", value))[0],
        # Its shortest digits are those of a float, not of the double that psycopg2 reads.
        back=lambda value: "nan" if math.isnan(value) else struct.unpack("f", struct.pack("f", value))[0],
    ),
    Cast("FLOAT64", "text", seen=lambda v: "nan" if math.isnan(v) else v, back=lambda t: t if t == "nan" else float(t)),
    Cast("NUMERIC", "numeric", read="{x}::text", seen=digits),
    Cast("NUMERIC", "numeric(50,12)"),
    Cast("NUMERIC", "numeric(12,2)", decimals(12, 2)),
    Cast("NUMERIC", "numeric(2,2)", decimals(2, 2)),
    Cast("NUMERIC", "bigint", whole(-(2**63), 2**63 - 1).map(Decimal)),
    Cast("NUMERIC", "integer", whole(-(2**31), 2**31 - 1).map(Decimal)),
    Cast("NUMERIC", "smallint", whole(-(2**15), 2**15 - 1).map(Decimal)),
    Cast("NUMERIC", "text", seen=digits),
    Cast("NUMERIC(10,2)", "numeric", read="{x}::text", seen=digits),
    Cast("BIGNUMERIC", "numeric(90,40)"),
    Cast("BIGNUMERIC", "numeric(38,9)", decimals(38, 9)),
    Cast("BIGNUMERIC", "bigint", whole(-(2**63), 2**63 - 1).map(Decimal)),
    Cast("BIGNUMERIC", "integer", whole(-(2**31), 2**31 - 1).map(Decimal)),
    Cast("BIGNUMERIC", "smallint", whole(-(2**15), 2**15 - 1).map(Decimal)),
    Cast("BIGNUMERIC", "text", seen=digits),
    Cast("STRING", "varchar(5)", st.builds(lambda text: text[:5], texts)),
    Cast(
        "STRING", "uuid", st.uuids().map(str) | st.uuids().map(lambda value: str(value).upper()), str.lower, "{x}::text"
    ),
    Cast("STRING", "jsonb", KINDS["JSON"].values.map(lambda value: json.dumps(value)), json.loads),
    Cast("STRING", "json", KINDS["JSON"].values.map(lambda value: json.dumps(value)), read="{x}::text"),
    Cast("BYTES", "text", seen=lambda value: value.hex()),
    Cast("DATE", "timestamp", seen=lambda value: dt.datetime.combine(value, dt.time())),
    Cast("DATE", "text", seen=iso),
    Cast("TIME", "text", seen=iso),
    Cast(
        "DATETIME",
        "timestamptz",
        KINDS["DATETIME"].values.filter(once_in_berlin),
        seen=lambda value: value.replace(tzinfo=BERLIN),
        zone="Europe/Berlin",
    ),
    Cast("DATETIME", "timestamptz", seen=lambda value: value.replace(tzinfo=dt.UTC), zone="UTC"),
    Cast("DATETIME", "text", seen=iso),
    Cast(
        "TIMESTAMP",
        "timestamp",
        KINDS["TIMESTAMP"].values.filter(lambda value: 1 < value.year < 9999),
        seen=lambda value: value.astimezone(BERLIN).replace(tzinfo=None),
        zone="Europe/Berlin",
    ),
    Cast("TIMESTAMP", "text", seen=iso),
    Cast("JSON", "json", read="{x}::text", seen=lambda value: json.dumps(value, ensure_ascii=False)),
    Cast("JSON", "text", seen=lambda value: json.dumps(value, ensure_ascii=False)),
    Cast("INTERVAL", "text", seen=lambda value: as_json("INTERVAL", value)),
    Cast("RANGE<DATE>", "text", seen=as_range),
    Cast("RANGE<DATETIME>", "text", seen=as_range),
    Cast("RANGE<TIMESTAMP>", "text", seen=as_range),
)


def columns_of(case: Cast, *, repeated: bool = False) -> tuple[Kind, Column, st.SearchStrategy[Any]]:
    kind = KINDS[case.kind]
    type_ = f"{case.type}[]" if repeated else case.type
    (column,) = apply([kind.column("v", case.kind, repeated=repeated)], {"V": ColumnRule(type=type_, zone=case.zone)})
    return kind, column, case.values if case.values is not None else kind.values


def named(cases: Sequence[Cast]) -> Any:
    return pytest.mark.parametrize("case", [pytest.param(c, id=f"{c.kind}-{c.type}-{c.zone}") for c in cases])


@named(CASES)
def test_a_value_comes_back_as_the_type_says(table: Any, case: Cast) -> None:
    kind, column, values = columns_of(case)
    make(table, column)
    into = same if case.kind == "STRING" else kind.into

    @few
    @given(st.lists(st.none() | values, max_size=20))
    def check(rows: list[Any]) -> None:
        sent = [None if value is None else into(value) for value in rows]
        found = round_trip(table, column, kind.arrow, sent, case.read.format(x="v"))
        assert [None if v is None else case.back(v) for v in found] == [
            None if value is None else case.seen(value) for value in rows
        ]

    check()


def test_every_cast_of_the_table_is_tried() -> None:
    tried = {(c.kind.split("<")[0].split("(")[0], base_type(postgres_type(columns_of(c)[1]))) for c in CASES}
    # Structs have a test of their own below, shapes in test_shapes.py and test_postgis.py.
    known = {(t, form.postgres) for t, forms in CASTS.items() for form in forms if t not in ("STRUCT", "GEOGRAPHY")}
    assert known == tried


@named([case for case in CASES if case.type not in ("json", "jsonb")])
def test_elements_of_an_array_come_back_as_the_type_says(table: Any, case: Cast) -> None:
    kind, column, values = columns_of(case, repeated=True)
    make(table, column)
    read = "v::text[]" if case.read == "{x}::text" or "uuid" in case.type else "v"

    @few
    @given(st.lists(st.none() | st.lists(st.none() | values, max_size=5), max_size=8))
    def check(rows: list[Any]) -> None:
        sent = [None if row is None else [None if v is None else kind.into(v) for v in row] for row in rows]
        found = round_trip(table, column, pa.list_(kind.arrow), sent, read)
        assert [[None if v is None else case.back(v) for v in row] for row in found] == [
            [None if v is None else case.seen(v) for v in row or []] for row in rows
        ]

    check()


@pytest.mark.parametrize("type_", ["jsonb", "json", "text"])
@pytest.mark.parametrize("name", KINDS)
def test_an_array_becomes_one_document(table: Any, name: str, type_: str) -> None:
    kind = KINDS[name]
    (column,) = apply([kind.column("v", name, repeated=True)], {"v": ColumnRule(type=type_)})
    make(table, column)

    @few
    @given(st.lists(st.none() | st.lists(st.none() | kind.values, max_size=3), max_size=4))
    def check(rows: list[Any]) -> None:
        sent = [None if row is None else [None if v is None else kind.into(v) for v in row] for row in rows]
        found = round_trip(table, column, pa.list_(kind.arrow), sent, "v::text")
        for text, row in zip(found, rows, strict=True):
            assert equal(json.loads(text, parse_float=Decimal), [as_json(name, value) for value in row or []])

    check()


@pytest.mark.parametrize("type_", ["json", "text"])
@pytest.mark.parametrize("repeated", [False, True])
def test_a_struct_becomes_the_same_document_as_text(survivors: Any, type_: str, repeated: bool) -> None:
    fields = (Column("a", "INT64"), Column("s", "STRING"))
    (column,) = apply([Column("v", "STRUCT", repeated, columns=fields)], {"v": ColumnRule(type=type_)})
    row = {"a": 2**53 + 1, "s": '"é'}
    rows = [[row, None], []] if repeated else [row, None]
    struct_ = pa.struct([("a", pa.int64()), ("s", pa.string())])
    found = survivors(column, pa.array(rows, pa.list_(struct_) if repeated else struct_), "v::text")
    assert [text and json.loads(text) for text in found] == rows


def moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


REFUSED = [
    ("INT64", "smallint", "", 2**15),
    ("INT64", "integer", "", -(2**31) - 1),
    ("INT64", "numeric(3,0)", "", 1000),
    ("INT64", "numeric(3,2)", "", 10),
    ("INT64", "numeric(2,2)", "", 1),
    ("FLOAT64", "real", "", 1e39),
    ("NUMERIC", "numeric(10,2)", "", Decimal("0.001")),
    ("NUMERIC", "numeric(10,2)", "", Decimal("123456789")),
    ("NUMERIC", "numeric(2,2)", "", Decimal("1")),
    ("NUMERIC", "bigint", "", Decimal("0.5")),
    ("NUMERIC", "integer", "", Decimal(2**31)),
    ("BIGNUMERIC", "numeric(38,9)", "", Decimal("0.0000000001")),
    ("BIGNUMERIC", "smallint", "", Decimal(2**15)),
    ("BIGNUMERIC", "bigint", "", Decimal(10**37)),
    ("STRING", "varchar(3)", "", "abcd"),
    ("STRING", "varchar(3)", "", "abc   "),
    ("STRING", "uuid", "", "123e4567e89b12d3a456426614174000"),
    ("STRING", "uuid", "", "123e4567-e89b-12d3-a456-42661417400g"),
    ("STRING", "uuid", "", "123e4567-e89b-12d3-a456_426614174000"),
    ("STRING", "uuid", "", "é23e4567-e89b-12d3-a456-42661417400"),
    ("DATETIME", "timestamptz", "Europe/Berlin", moment("2024-03-31T02:30:00")),
    ("DATETIME", "timestamptz", "Europe/Berlin", moment("2024-10-27T02:30:00")),
]


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(("name", "type_", "zone", "value"), REFUSED)
def test_a_value_that_does_not_fit_ends_the_load_and_names_the_column(
    survivors: Any, name: str, type_: str, zone: str, value: Any, repeated: bool
) -> None:
    rule = ColumnRule(type=f"{type_}[]" if repeated else type_, zone=zone)
    kind = KINDS[name]
    (column,) = apply([kind.column("v", name, repeated=repeated)], {"v": rule})
    array = pa.array([None, value], kind.arrow)
    if repeated:
        array = pa.ListArray.from_arrays(pa.array([0, len(array)], pa.int32()), array)
    with pytest.raises(ConnectorError) as caught:
        survivors(column, array)
    assert (caught.value.code, caught.value.field) == ("value_out_of_range", "v")
    assert column.target_type in caught.value.message


def test_a_uuid_may_be_all_there_is_or_nothing(survivors: Any) -> None:
    (column,) = apply([Column("v", "STRING")], {"v": ColumnRule(type="uuid")})
    value = str(uuid.UUID(int=2**128 - 1))
    assert survivors(column, pa.array([None, None], pa.string()), "v::text") == [None, None]
    assert survivors(column, pa.array([value, None, value]), "v::text") == [value, None, value]
