"""Names: 63 bytes, always the same for the same column, never two columns under one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2 import sql

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres.ddl import create_table
from connectors.postgres.names import MAX_BYTES, check_identifier, column_names, shorten


def named(*names: str) -> list[Column]:
    return [Column(name, "INT64") for name in names]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300))
def test_a_name_fits_and_is_always_the_same(name: str) -> None:
    short = shorten(name)
    assert len(short.encode()) <= MAX_BYTES
    assert short == shorten(name)
    assert short == name or len(name.encode()) > MAX_BYTES


def test_long_names_that_begin_alike_stay_apart() -> None:
    names = column_names(named("a" * 100, "a" * 99 + "b", "é" * 40))
    assert len({*names}) == 3
    assert all(len(name.encode()) <= MAX_BYTES for name in names)


def test_case_is_kept_but_does_not_tell_columns_apart() -> None:
    assert column_names(named("userId", "NAME")) == ("userId", "NAME")
    with pytest.raises(ConnectorError) as caught:
        column_names(named("userId", "name", "UserID"))
    assert caught.value.code == "name_collision"
    assert "userId" in caught.value.message
    assert "UserID" in caught.value.message


def test_a_name_that_is_another_ones_short_form_collides() -> None:
    long = "a" * 100
    with pytest.raises(ConnectorError, match=f"Columns {long} and {shorten(long)} would both be called"):
        column_names(named(long, shorten(long)))


def test_a_bounding_box_can_be_loaded_although_postgresql_has_its_own_xmin(warehouse_cursor: Any) -> None:
    columns = named("xmin", "xmax", "ymin", "tableoid")
    assert column_names(columns) == ("xmin_", "xmax_", "ymin", "tableoid_")
    warehouse_cursor.execute(create_table(sql.Identifier("pg_temp", "box"), columns))


@pytest.mark.parametrize(
    ("name", "code"), [("", "name_empty"), ("  ", "name_empty"), ("a\0b", "name_illegal"), ("é" * 32, "name_too_long")]
)
def test_a_name_as_typed_is_refused_with_its_field(name: str, code: str) -> None:
    with pytest.raises(ConnectorError) as caught:
        check_identifier(name, field="schema")
    assert (caught.value.code, caught.value.field) == (code, "schema")


@pytest.mark.parametrize("name", ["public", "Odd Name", 'quo"te', "é" * 31])
def test_any_other_name_will_do(name: str) -> None:
    check_identifier(name, field="schema")
