"""What a rule for a column may say, and what is told of one that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from connectors import column_rules
from connectors.column import Column
from connectors.column_rules import ColumnRule
from connectors.errors import ConnectorError
from connectors.types import casts_of, postgres_type

ROWS = (
    Column("id", "INT64"),
    Column("Price", "NUMERIC"),
    Column("tags", "STRING", repeated=True),
    Column("at", "DATETIME"),
    Column("place", "STRUCT", columns=(Column("x", "INT64"),)),
)


def types(rules: dict[str, Any], columns: tuple[Column, ...] = ROWS) -> dict[str, str]:
    read, errors = column_rules.from_json(rules)
    assert errors == []
    return {column.name: postgres_type(column) for column in column_rules.apply(columns, read)}


def test_columns_without_a_rule_stay_as_they_are():
    assert column_rules.apply(ROWS, {}) == ROWS


def test_a_skipped_column_is_left_out_whatever_its_case():
    assert list(types({"PRICE": {"skip": True}, "tags": {"skip": True}})) == ["id", "at", "place"]


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("int4", "integer"),
        (" INT ", "integer"),
        ("Numeric ( 12 , 2 )", "numeric(12,2)"),
        ("decimal(5)", "numeric(5,0)"),
        ("numeric", "numeric"),
        ("bigint", "bigint"),
    ],
)
def test_a_type_is_understood_as_people_write_it(written: str, stored: str):
    assert types({"Price": {"type": written}})["Price"] == stored


@pytest.mark.parametrize(
    ("column", "usual"),
    [(Column("v", "INT64"), "int8"), (Column("v", "BIGNUMERIC"), "decimal"), (Column("v", "INT64", True), "bigint[]")],
)
def test_the_usual_type_is_no_change(column: Column, usual: str):
    assert column_rules.apply((column,), {"v": ColumnRule(type=usual)}) == (column,)


def test_elements_of_arrays_have_types_of_their_own():
    assert types({"tags": {"type": "varchar(20)[]"}})["tags"] == "character varying(20)[]"
    assert types({"tags": {"type": "jsonb"}})["tags"] == "jsonb"


def test_a_time_changes_its_kind_with_a_zone():
    assert types({"at": {"type": "timestamptz", "zone": "Europe/Berlin"}})["at"] == "timestamp with time zone"


@pytest.mark.parametrize(
    ("rules", "column", "said"),
    [
        ([], "", "not an object"),
        ({"id": "integer"}, "id", "not understood"),
        ({"id": {}}, "id", "not understood"),
        ({"id": {"skip": "yes"}}, "id", "not understood"),
        ({"id": {"typo": "integer"}}, "id", "not understood"),
        ({"id": {"skip": True, "type": "integer"}}, "id", "either skip it or say what is different"),
        ({"id": {"skip": False}}, "id", "either skip it or say what is different"),
        ({"id": {"type": "integer"}, "ID": {"skip": True}}, "ID", "two rules"),
    ],
)
def test_what_is_no_rule_is_told(rules: Any, column: str, said: str):
    _, errors = column_rules.from_json(rules)
    assert [(error.code, error.field) for error in errors] == [("column_rule", column)]
    assert said in errors[0].message
    assert errors[0].hint


@pytest.mark.parametrize(
    ("column", "rule", "said"),
    [
        ("nowhere", {"type": "integer"}, "no column nowhere"),
        ("nowhere", {"skip": True}, "no column nowhere"),
        ("id", {"type": "uuid"}, "INT64) cannot be stored as uuid"),
        ("id", {"type": "integer[]"}, "cannot be stored as integer[]"),
        ("id", {"type": "double precision"}, "cannot be stored as double precision"),
        ("Price", {"type": "float8"}, "cannot be stored as float8"),
        ("id", {"type": "integer); DROP TABLE x"}, "cannot be stored as"),
        ("id", {"type": "integer(4)"}, "right number of lengths"),
        ("Price", {"type": "numeric(0)"}, "cannot be"),
        ("Price", {"type": "numeric(5,6)"}, "cannot be"),
        ("Price", {"type": "numeric(1001,2)"}, "cannot be"),
        ("tags", {"type": "text"}, ""),
        ("tags", {"type": "varchar[]"}, "right number of lengths"),
        ("tags", {"type": "varchar(0)[]"}, "cannot be"),
        ("tags", {"type": "character varying(99999999)[]"}, "cannot be"),
        ("at", {"type": "timestamptz"}, "needs the zone"),
        ("at", {"type": "timestamptz", "zone": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"),
        ("at", {"type": "timestamptz", "zone": "../../etc/passwd"}, "no time zone"),
        ("at", {"type": "text", "zone": "UTC"}, "no use for a zone"),
        ("id", {"type": "bigint", "zone": "UTC"}, "no use for a zone"),
    ],
)
def test_a_rule_that_does_not_suit_its_column_is_told_with_its_column(column: str, rule: dict[str, Any], said: str):
    rules, _ = column_rules.from_json({column: rule})
    left, errors = column_rules.judge(ROWS, rules)
    if not said:
        assert errors == []
        return
    assert [(error.code, error.field) for error in errors] == [("column_rule", column)]
    assert said in errors[0].message
    assert left == ROWS
    if not (rule.get("skip") and column == "nowhere"):
        with pytest.raises(ConnectorError):
            column_rules.apply(ROWS, rules)


def test_a_refusal_says_what_may_be_chosen():
    _, (error,) = column_rules.judge(ROWS, {"id": ColumnRule(type="uuid")})
    assert error.hint == "It may be bigint, smallint, integer, numeric, text."


def test_something_must_be_left():
    _, (error,) = column_rules.judge(ROWS[:1], {"id": ColumnRule(skip=True)})
    assert (error.code, error.message) == ("column_rule", "Every column is skipped.")


def test_a_column_that_was_to_be_skipped_and_is_gone_ends_no_run():
    assert column_rules.apply(ROWS, {"gone": ColumnRule(skip=True)}) == ROWS


def test_a_type_that_cannot_be_loaded_can_be_skipped():
    columns = (*ROWS, Column("sketch", "HLL_SKETCH"))
    assert column_rules.apply(columns, {"sketch": ColumnRule(skip=True)}) == ROWS
    assert casts_of(columns[-1]) == ()
