"""Typed values of parameters: what is taken, in what form it is kept, what is refused and how."""

from __future__ import annotations

import pytest

from connectors.errors import ConnectorError
from connectors.parameters import (
    Parameter,
    canonical,
    declared,
    given_to,
    kind_of,
    names_it,
    resolved,
    used_in,
    value_of,
)


@pytest.mark.parametrize(
    ("type_", "given", "kept"),
    [
        ("STRING", "it's '; DROP TABLE", "it's '; DROP TABLE"),
        ("STRING", "", ""),
        ("INT64", "42", 42),
        ("INT64", -(2**63), -(2**63)),
        ("FLOAT64", "1.5", 1.5),
        ("FLOAT64", "nan", "NaN"),
        ("FLOAT64", "-inf", "-Infinity"),
        ("NUMERIC", "19.990", "19.99"),
        ("NUMERIC", 100, "100"),
        ("BOOL", "TRUE", True),
        ("BOOL", False, False),
        ("DATE", "2026-01-31", "2026-01-31"),
        ("DATETIME", "2026-01-31T06:00", "2026-01-31 06:00:00"),
        ("TIMESTAMP", "2026-01-31 06:00:00+02:00", "2026-01-31 04:00:00+00:00"),
        ("TIMESTAMP", "2026-01-31", "2026-01-31 00:00:00+00:00"),
        ("array<date>", ["2026-01-31"], ["2026-01-31"]),
        ("ARRAY<STRING>", [], []),
        ("INT64", None, None),
    ],
)
def test_a_value_is_kept_in_one_form(type_, given, kept):
    value = value_of(given, kind_of(type_))
    assert (value, type(value)) == (kept, type(kept))
    assert value_of(value, kind_of(type_)) == kept


@pytest.mark.parametrize(
    ("type_", "given"),
    [
        ("STRING", 5),
        ("STRING", "a\x00b"),
        ("STRING", "x" * 10_001),
        ("INT64", "4.2"),
        ("INT64", True),
        ("INT64", 2**63),
        ("FLOAT64", "much"),
        ("NUMERIC", "1e40"),
        ("NUMERIC", "0.0000000001"),
        ("NUMERIC", "NaN"),
        ("BOOL", "yes"),
        ("BOOL", 1),
        ("DATE", "2026-02-30"),
        ("DATE", 20260101),
        ("DATETIME", "2026-01-31 06:00:00+02:00"),
        ("TIMESTAMP", "soon"),
        ("ARRAY<INT64>", "1, 2"),
        ("ARRAY<INT64>", [1, None]),
        ("ARRAY<INT64>", [1, "x"]),
        ("ARRAY<INT64>", [1] * 1001),
    ],
)
def test_a_value_of_another_type_is_refused_with_an_example(type_, given):
    with pytest.raises(ConnectorError) as refused:
        value_of(given, kind_of(type_))
    assert refused.value.code == "parameter_value"
    assert refused.value.hint


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"1st": {"type": "DATE"}}, "1st"),
        ({"run_id": {"type": "STRING"}}, "run_id"),
        ({"a": {"type": "STRING"}, "A": {"type": "STRING"}}, "twice"),
        ({"a": {"type": "JSON"}}, "JSON"),
        ({"a": {"type": "INT64", "default": "x"}}, "'x'"),
        ({"a": {"default": 1}}, "needs a type"),
        ({"a": "STRING"}, "needs a type"),
        ({f"p{i}": {"type": "DATE"} for i in range(51)}, "more than 50"),
        (["a"], "no mapping"),
    ],
)
def test_a_wrong_declaration_is_told_by_name(values, word):
    (error,) = declared(values)[1]
    assert (error.code, error.field) == ("parameter", "parameters")
    assert word in error.message


def test_a_declaration_has_one_form():
    assert canonical({"n": {"type": "int64", "default": "5"}, "s": {"type": "String", "default": None}}) == {
        "n": {"type": "INT64", "default": 5},
        "s": {"type": "STRING"},
    }


def test_a_run_takes_what_it_is_given_and_defaults_for_the_rest():
    declares, _ = declared({"country": {"type": "STRING", "default": "DE"}, "days": {"type": "INT64", "default": 7}})
    values, errors = given_to(declares, {"COUNTRY": "FR", "days": "x", "other": 1})
    assert values == {"country": "FR"}
    assert {name: error.code for name, error in errors.items()} == {
        "days": "parameter_value",
        "other": "no_such_parameter",
    }
    found = {each.name: each.value for each in resolved(declares, values, {"run_id": "r"})}
    assert found["country"], found["days"] == ("FR", 7)
    assert found["run_id"], found["scheduled_for"] == ("r", None)


def test_only_what_a_query_names_goes_with_it():
    both = (Parameter("day", "DATE", None), Parameter("days", "INT64", 1))
    assert used_in("SELECT @DAYS", both) == (both[1],)
    assert not names_it("SELECT @days", "day")
