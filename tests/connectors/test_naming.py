"""Names of targets that follow a run: a grammar of our own, in which nothing is looked up or called."""

from __future__ import annotations

import pytest

from connectors.errors import ConnectorError
from connectors.naming import check, fill, may_meet
from connectors.parameters import Kind, Parameter

VALUES = (
    Parameter("data_interval_start", "TIMESTAMP", "2026-10-31 23:30:00+00:00"),
    Parameter("day", "DATE", "2026-02-03"),
    Parameter("at", "DATETIME", "2026-02-03 04:05:06"),
    Parameter("country", "STRING", "DE"),
    Parameter("number", "INT64", -7),
    Parameter("flag", "BOOL", True),
    Parameter("price", "NUMERIC", "1.5"),
    Parameter("tags", "STRING", ["a"], repeated=True),
    Parameter("nothing", "STRING", None),
)
KINDS = {each.name: Kind(each.type, each.repeated) for each in VALUES}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("events", "events"),
        ("events_{data_interval_start:%Y%m}", "events_202610"),
        ("events_{data_interval_start:%Y%m@Europe/Berlin}", "events_202611"),
        ("events_{data_interval_start}", "events_20261031T233000"),
        ("{day}", "20260203"),
        ("y{day:%Y-d%j}", "y2026-d034"),
        ("{at:%H%M%S}", "040506"),
        ("{country}_{number}_{flag}", "DE_-7_true"),
        ("a{{b}}", "a{b}"),
    ],
)
def test_places_are_filled_in(text, name):
    check(text, KINDS, "target_table")
    assert fill(text, VALUES, "target_table") == name


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "a}b",
        "{}",
        "{country",
        "{unknown}",
        "{country.upper}",
        "{country!r}",
        "{country[0]}",
        "{country:%Y}",
        "{country:>30}",
        "{day:%H}",
        "{day:%x}",
        "{day:}",
        "{day:%Y@Europe/Berlin}",
        "{data_interval_start:%Y@Europe/Nowhere}",
        "{data_interval_start:%Y@/etc/passwd}",
        "{price}",
        "{tags}",
        "{country}}",
    ],
)
def test_what_no_run_could_fill_in_is_refused(text):
    with pytest.raises(ConnectorError) as refused:
        check(text, KINDS, "target_table")
    assert (refused.value.code, refused.value.field) == ("name_template", "target_table")


@pytest.mark.parametrize("value", ["", "a b", 'x"; DROP', "a.b", "ä", "x" * 64, "{day}"])
def test_a_text_that_makes_no_name_is_refused(value):
    with pytest.raises(ConnectorError) as refused:
        fill("{country}", (Parameter("country", "STRING", value),), "target_table")
    assert (refused.value.code, refused.value.field) == ("name_value", "country")


def test_a_value_that_is_missing_is_named():
    with pytest.raises(ConnectorError) as refused:
        fill("x_{nothing}", VALUES, "target_table")
    assert (refused.value.code, refused.value.field) == ("name_value", "nothing")


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("events_{day:%Y%m}", "events_202601", True),
        ("events_{day:%Y%m}", "events_2026", False),
        ("events_{day:%Y%m}", "events_{data_interval_start:%Y%m}", True),
        ("events_{day:%Y%m}", "events_{day:%Y%m%d}", False),
        ("{country}_x", "de_x", True),
        ("events", "events", True),
        ("events_{", "events_1", False),
        ("{country}{number}", "a", False),
        ("{country}_{number}_x", "a_b_c_x", True),
        ("{country}_{number}_x", "a_x", False),
        # No number of places takes long to compare.
        ("{country}" * 12, "a" * 60 + "!", False),
        ("{country}_" * 12, "a_" * 30 + "!", False),
    ],
)
def test_names_that_may_become_the_same_are_found(one, other, meet):
    assert may_meet(("public", one), ("public", other)) is meet
    assert may_meet(("public", other), ("public", one)) is meet
    assert not may_meet(("public", one), ("other", other))
