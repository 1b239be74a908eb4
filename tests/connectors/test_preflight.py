"""What becomes of each column, told before the first run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from connectors.column import Column
from connectors.modes import TextPolicy
from connectors.preflight import ColumnPlan, look_ahead

STRUCT = Column("s", "STRUCT", columns=(Column("x", "STRING"), Column("y", "BIGNUMERIC", repeated=True)))


def plan_of(column: Column, rules: object = None, policy: TextPolicy = TextPolicy.FAIL) -> ColumnPlan:
    (plan,) = look_ahead([column], rules or {}, policy).columns
    return plan


def test_names_that_postgresql_cannot_take_are_shown_as_it_will_have_them():
    long, own = plan_of(Column("a" * 70, "INT64")), plan_of(Column("xmin", "INT64"))
    assert (long.is_renamed, len(long.target_name), long.mind) == (True, 63, ("the name is shortened to 63 bytes",))
    assert (own.is_renamed, own.target_name, own.mind) == (True, "xmin_", ("PostgreSQL keeps this name for itself",))


def test_a_name_and_a_mask_by_a_rule_are_told():
    plan = plan_of(Column("iban", "STRING"), {"iban": {"name": "account", "mask": "keep_last", "keep": 4}})
    assert (plan.target_name, plan.usual_name, plan.is_renamed) == ("account", "iban", False)
    assert (plan.target_type, plan.compared, plan.masked) == ("text", "counted only", "its last 4 characters")
    assert plan.masks == ("hmac", "hmac_base64", "redact", "keep_last")
    assert plan_of(Column("f", "FLOAT64")).masks == ("redact",)
    long = plan_of(Column("a" * 70, "INT64"), {"a" * 70: {"name": "short"}})
    assert (long.target_name, long.mind, long.error) == ("short", (), "")


def test_two_columns_of_one_name_are_told_at_the_second():
    first, second = look_ahead([Column("xmin", "INT64"), Column("xmin_", "INT64")], {}).columns
    assert (first.error, "would both be called xmin_" in second.error) == ("", True)


def test_a_type_that_cannot_be_loaded_is_told_and_may_be_skipped():
    column = Column("odd", "HLL_SKETCH")
    assert "cannot be loaded" in plan_of(column).error
    skipped = plan_of(column, {"odd": {"skip": True}})
    assert skipped == ColumnPlan("odd", "HLL_SKETCH", skip=True, usual_name="odd", masks=("redact",))
    assert plan_of(column, {"odd": {"mask": "redact"}}).target_type == "text"


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (TextPolicy.FAIL, "a NUL character ends the run"),
        (TextPolicy.STRIP, "NUL characters are removed"),
        (TextPolicy.REPLACE, "NUL characters are replaced by �"),
    ],
)
def test_columns_that_hold_text_say_what_becomes_of_nul(policy: TextPolicy, said: str):
    for column in (Column("v", "STRING"), Column("v", "JSON"), Column("v", "GEOGRAPHY"), STRUCT):
        assert said in plan_of(column, policy=policy).mind
    assert said not in plan_of(Column("v", "BYTES"), policy=policy).mind


@pytest.mark.parametrize(
    ("column", "cost"),
    [
        (Column("v", "INT64"), "low"),
        (Column("v", "INT64", repeated=True), "medium"),
        (Column("v", "BIGNUMERIC"), "medium"),
        (Column("v", "BIGNUMERIC", repeated=True), "high"),
        (STRUCT, "high"),
        (Column("v", "GEOGRAPHY", target_type="geography"), "medium"),
    ],
)
def test_what_takes_work_to_write_is_told(column: Column, cost: str):
    assert plan_of(column).cost == cost


def test_a_rule_that_cannot_be_leaves_the_usual_type_and_says_why():
    plan = plan_of(Column("at", "DATETIME"), {"AT": {"type": "timestamptz"}})
    assert (plan.target_type, plan.needs_zone) == ("timestamp without time zone", True)
    assert "needs the zone" in plan.error
    assert look_ahead([Column("v", "INT64")], "nonsense").errors[0].startswith("The rules are not an object.")


def test_the_web_can_look_ahead_without_pyarrow():
    heavy = ["pyarrow", "google.cloud", "numpy"]
    code = f"import sys, connectors.preflight; assert not set({heavy}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
