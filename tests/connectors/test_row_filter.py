"""A person's condition: one expression, that nothing can climb out of."""

from __future__ import annotations

import pytest

from connectors import row_filter
from connectors.errors import ConnectorError


@pytest.mark.parametrize(
    "text",
    [
        "country = 'DE' AND day >= DATE '2026-01-01'",
        "(a = 1 OR b IN (2, 3)) AND NOT c",
        "EXTRACT(YEAR FROM `order date`) = 2026",
        "name = 'SELECT -- not a comment; @no' OR name = \"it's\" OR name = r'\\' /*'",
        "text LIKE '''a ' b''' AND x[OFFSET(0)] > -1.5e3",
        "details.select = 1 AND t.current_date IS NULL",
        "STARTS_WITH(name, 'a\\'b')",
    ],
)
def test_what_may_stand_in_a_where_stands_in_parentheses(text: str):
    assert row_filter.condition(f" {text}\n") == f"({text})"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = 1) OR (b = 2", "closes nothing"),
        ("(a = 1", "not closed"),
        ("a IN [1)", "closes nothing"),
        ("a = 1 -- and", "comment"),
        ("a = 1 # and", "comment"),
        ("a = 1 /* and", "comment"),
        ("a = 1; DROP TABLE b", "has ;"),
        ("a = 'b", "not closed"),
        ("a = '''' ) OR (''", "not closed"),
        ("a = `b", "not closed"),
        ("a = '\\'", "not closed"),
        ("a = @day", "parameter"),
        ("a = ?", "parameter"),
        ("a IN (SELECT b FROM c)", "SELECT"),
        ("EXISTS(FROM c |> WHERE TRUE)", "FROM"),
        ("a IN (WITH c AS (SELECT 1) SELECT * FROM c)", "WITH"),
        ("day > CURRENT_DATE() - 3", "CURRENT_DATE"),
        ("rand() < 0.1", "changes while rows are read"),
        ("a = 1" + " " * 10_000, "10,005 characters"),
    ],
)
def test_what_could_climb_out_or_changes_is_refused(text: str, said: str):
    with pytest.raises(ConnectorError, match=said.replace("(", r"\(")) as refused:
        row_filter.condition(text)
    assert (refused.value.code, refused.value.field) == ("row_filter", "row_filter")


@pytest.mark.parametrize("text", ["day > '2026-01-01'", "`DAY` IS NOT NULL", "id = 1 AND t.day = d"])
def test_a_filter_that_names_the_partition_column_is_one(text: str):
    row_filter.refuse_lacking(text, "Table a.b", "day")


@pytest.mark.parametrize(("text", "column"), [("", "day"), ("name = 'day'", "day"), ("id = 1", "_PARTITIONTIME")])
def test_a_filter_that_does_not_is_none(text: str, column: str):
    with pytest.raises(ConnectorError) as refused:
        row_filter.refuse_lacking(text, "Table a.b", column)
    assert refused.value.code == "partition_filter_required"
    assert column in refused.value.hint
