"""Checks as values."""

from __future__ import annotations

import pytest
from psycopg2 import sql

from connectors.checks import Check, CheckKind, CheckResult, Severity, Status
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.postgres.auditing.conditions import condition


@pytest.mark.parametrize(
    "check",
    [
        Check(CheckKind.NOT_NULL, "ids", ("id",)),
        Check(CheckKind.ACCEPTED, "states", ("state",), Severity.WARN, values=("a", "b")),
        Check(CheckKind.RANGE, columns=("x",), minimum="0"),
        Check(CheckKind.RELATION, columns=("x", "y"), table="public.other", table_columns=("a", "b")),
        Check(CheckKind.ROW_COUNT, percent=20, runs=5),
        Check(CheckKind.FRESHNESS, columns=("at",), max_age_s=60, time_limit_s=5),
    ],
)
def test_a_check_survives_json_which_says_only_what_is_not_as_usual(check: Check) -> None:
    told = check.to_json()
    assert Check.from_json(told) == check
    assert Check.from_json({**told, "from_a_newer_version": 1}) == check
    assert "time_limit_s" not in told or check.time_limit_s != 300


def test_a_result_survives_json_without_its_rows() -> None:
    result = CheckResult("ids", CheckKind.UNIQUE, Severity.HOLD, Status.FAILED, "2 rows are bad.", 2, 0.5)
    assert CheckResult.from_json(result.to_json()) == result
    assert "sample" not in result.to_json()


@pytest.mark.parametrize(
    ("status", "severity", "holds"),
    [
        (Status.PASSED, Severity.HOLD, False),
        (Status.FAILED, Severity.HOLD, True),
        (Status.UNKNOWN, Severity.HOLD, True),
        (Status.FAILED, Severity.WARN, False),
        (Status.SKIPPED, Severity.HOLD, False),
    ],
)
def test_what_failed_or_cannot_be_judged_holds_unless_it_only_warns(
    status: Status, severity: Severity, holds: bool
) -> None:
    assert CheckResult("a", CheckKind.UNIQUE, severity, status, "").holds is holds


def test_a_check_of_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConnectorError, match="no column gone") as raised:
        condition(Check(CheckKind.NOT_NULL, columns=("ID", "gone")), [Column("id", "INT64")])
    assert raised.value.code == "check_column"


def test_a_condition_is_made_of_identifiers_and_literals_only() -> None:
    hostile = "x' OR true --"
    made = condition(Check(CheckKind.ACCEPTED, columns=('we"ird',), values=(hostile,)), [Column('we"ird', "STRING")])
    parts = list(made.seq) if isinstance(made, sql.Composed) else []
    assert all(hostile not in part.string for part in parts if isinstance(part, sql.SQL))
