"""Generated values of every type go through a real binary COPY and come back as they were."""

from __future__ import annotations

import decimal
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg2 import sql

from connectors.base import NeverStop
from connectors.column import Column
from connectors.postgres.copy import copy_batches
from connectors.postgres.ddl import create_table
from tests.connectors.columns.values import KINDS, Kind, few

TABLE = sql.Identifier("survives")
POSITION = Column("position", "INT64")


@pytest.fixture
def table(warehouse_cursor: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """An empty table (position, v) for the column that the test is given."""
    cursor = warehouse_cursor
    cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(TABLE))
    cursor.execute("SET timezone = 'UTC'")
    yield cursor
    cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(TABLE))


def make(cursor: Any, column: Column) -> None:
    cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(TABLE))
    cursor.execute(create_table(TABLE, (POSITION, column)))


def round_trip(cursor: Any, column: Column, arrow: pa.DataType, values: Sequence[Any], read: str) -> list[Any]:
    """COPY `values` in two slices of a longer array, columns in the wrong order, and read them back."""
    cursor.execute(sql.SQL("TRUNCATE {}").format(TABLE))
    padding = list(values[:1]) * 3
    array = pa.array([*padding, *values, *padding], arrow)
    batch = pa.record_batch([array, pa.array(range(-3, len(array) - 3), pa.int64())], names=["v", "position"])
    half = len(values) // 2
    parts = [batch.slice(3, half), batch.slice(3 + half, len(values) - half)]
    done = copy_batches(
        cursor, TABLE, (POSITION, column), iter(parts), on_batch=lambda rows, bytes: None, stop=NeverStop()
    )
    assert done.rows == len(values)
    cursor.execute(f"SELECT {read} FROM survives ORDER BY position")
    return [value for (value,) in cursor.fetchall()]


def prepared(kind: Kind, value: Any) -> Any:
    return None if value is None else kind.into(value)


def seen(kind: Kind, value: Any) -> Any:
    return None if value is None else kind.seen(value)


def back(kind: Kind, value: Any) -> Any:
    return None if value is None else kind.back(value)


@pytest.mark.parametrize("name", KINDS)
def test_a_scalar_comes_back_as_it_was(table: Any, name: str) -> None:
    kind = KINDS[name]
    column = kind.column("v", name)
    make(table, column)

    @few
    @given(st.lists(st.none() | kind.values, max_size=20))
    def check(values: list[Any]) -> None:
        found = round_trip(table, column, kind.arrow, [prepared(kind, v) for v in values], kind.read.format(x="v"))
        assert [back(kind, v) for v in found] == [seen(kind, v) for v in values]

    check()


@pytest.mark.parametrize("name", KINDS)
def test_an_array_comes_back_as_it_was_and_a_null_array_empty(table: Any, name: str) -> None:
    kind = KINDS[name]
    column = kind.column("v", name, repeated=True)
    make(table, column)
    read = "v"
    if kind.read != "{x}":
        each = kind.read.format(x="e")
        read = (
            f"CASE WHEN v IS NOT NULL THEN ARRAY(SELECT {each} FROM unnest(v) WITH ORDINALITY u (e, o) ORDER BY o) END"
        )

    @few
    @given(st.lists(st.none() | st.lists(st.none() | kind.values, max_size=5), max_size=8))
    def check(rows: list[Any]) -> None:
        sent = [None if row is None else [prepared(kind, v) for v in row] for row in rows]
        found = round_trip(table, column, pa.list_(pa.field("l", kind.arrow)), sent, read)
        assert [None if row is None else [back(kind, v) for v in row] for row in found] == [
            [seen(kind, v) for v in row or []] for row in rows
        ]

    check()


def test_a_bignumeric_shows_no_more_digits_than_it_has(table: Any) -> None:
    column = Column("v", "BIGNUMERIC")
    make(table, column)
    texts = ["1.5", "100", "0.00000000000000000000000000000000000001", "-12345.678900001", "10000", "0.1", "0"]
    values = [decimal.Decimal(text) for text in texts]
    assert round_trip(table, column, pa.decimal256(76, 38), values, "v::text") == texts


@few
@given(st.lists(st.decimals(-(10**20), 10**20, places=5), max_size=10))
@example([decimal.Decimal("-0.00010"), decimal.Decimal("99999999.99999")])
def test_a_decimal128_of_any_scale_will_do_for_bignumeric(table: Any, values: list[decimal.Decimal]) -> None:
    column = Column("v", "BIGNUMERIC")
    make(table, column)
    assert round_trip(table, column, pa.decimal128(38, 5), values, "v") == values
