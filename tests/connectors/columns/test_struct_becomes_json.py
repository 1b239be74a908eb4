"""STRUCT → jsonb: every type inside, every character, every depth."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.column import Column
from connectors.columns.characters import Characters
from connectors.columns.json_text import json_text
from connectors.errors import ConnectorError
from tests.connectors.columns.values import few

DOUBTFUL = '"\\/\b\f\n\r\t\x01\x1f\x7f é😀\u2028</script>'


def documents(array: pa.Array, column: Column) -> list[Any]:
    """What PostgreSQL would read: numbers keep their digits."""
    texts = json_text(array, column, Characters("fail")).to_pylist()
    return [None if text is None else json.loads(text, parse_float=decimal.Decimal) for text in texts]


def struct(*children: Column, repeated: bool = False) -> Column:
    return Column("s", "STRUCT", repeated, columns=children)


@few
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
@example([DOUBTFUL, "", '\\"', "\\\\", "\\u0041", '"' * 3])
def test_every_character_is_escaped(texts: list[str]) -> None:
    array = pa.array([{"v": text} for text in texts], pa.struct([("v", pa.string())]))
    assert documents(array, struct(Column("v", "STRING"))) == [{"v": text} for text in texts]


def test_structs_in_arrays_in_structs_keep_their_keys() -> None:
    inner = Column('odd "key"', "STRUCT", True, columns=(Column("d", "DATE"), Column("n", "NUMERIC", True)))
    column = struct(Column("id", "INT64"), inner, repeated=True)
    rows: list[Any] = [
        [{"id": 1, 'odd "key"': [{"d": dt.date(2020, 1, 2), "n": [decimal.Decimal("1.50"), None]}, None]}, None],
        [],
        None,
        [{"id": None, 'odd "key"': None}],
    ]
    arrow = pa.struct([("d", pa.date32()), ("n", pa.list_(pa.decimal128(38, 9)))])
    array = pa.array(rows, pa.list_(pa.struct([("id", pa.int64()), ('odd "key"', pa.list_(arrow))])))
    assert json_text(array, column, Characters("fail")).to_pylist() == [
        '[{"id":1,"odd \\"key\\"":[{"d":"2020-01-02","n":[1.5,null]},null]},null]',
        "[]",
        "[]",
        '[{"id":null,"odd \\"key\\"":[]}]',
    ]


def test_values_under_a_null_struct_do_not_show() -> None:
    values = pa.array([1, 2, 3], pa.int64())
    array = pa.StructArray.from_arrays([values], ["a"], mask=pa.array([False, True, False]))
    assert json_text(array, struct(Column("a", "INT64")), Characters("fail")).to_pylist() == [
        '{"a":1}',
        None,
        '{"a":3}',
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0", "0"),
        ("-0.000000001", "-0.000000001"),
        ("0.000000150", "0.00000015"),
        ("100", "100"),
        ("1.500000000", "1.5"),
        ("99999999999999999999999999999.999999999", "99999999999999999999999999999.999999999"),
        ("10.010000000", "10.01"),
    ],
)
def test_a_numeric_keeps_its_digits_and_no_others(text: str, shown: str) -> None:
    array = pa.array([{"n": decimal.Decimal(text)}], pa.struct([("n", pa.decimal128(38, 9))]))
    assert json_text(array, struct(Column("n", "NUMERIC")), Characters("fail")).to_pylist() == [f'{{"n":{shown}}}']


def test_a_nul_inside_a_struct_names_the_path_to_it() -> None:
    array = pa.array([{"a": {"b": "x"}}, {"a": {"b": "x\0"}}], pa.struct([("a", pa.struct([("b", pa.string())]))]))
    column = struct(Column("a", "STRUCT", columns=(Column("b", "STRING"),)))
    with pytest.raises(ConnectorError) as caught:
        json_text(array, column, Characters("fail"))
    assert (caught.value.code, caught.value.field) == ("nul_character", "s.a.b")
