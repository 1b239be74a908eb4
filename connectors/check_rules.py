"""What a check of each kind needs, and what stands against one: told field by field before anything is run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from connectors.checks import LABELS, LONGEST_NAME, MAX_CHECKS, Check, CheckKind, Severity
from connectors.column import Column
from connectors.errors import ConnectorError

STAGED = "{staged}"
MOST_VALUES, LONGEST_PATTERN, LONGEST_QUERY = 1000, 2000, 20_000
MOST_COLUMNS = 32
_COMMON = frozenset({"kind", "name", "severity", "time_limit_s"})
_WHOLE = re.compile(r"\d{1,18}")
_NUMBERS = frozenset({"INT64", "FLOAT64", "NUMERIC", "BIGNUMERIC"})
_TIMES = frozenset({"DATE", "DATETIME", "TIMESTAMP"})
_ORDERED = _NUMBERS | _TIMES | {"TIME", "STRING", "INTERVAL"}
_DOCUMENTS = frozenset({"STRUCT", "JSON", "GEOGRAPHY", "RANGE"})


@dataclass(frozen=True)
class Needs:
    """What a kind goes by: how many `columns` at least and at most, and which other fields it has a use for."""

    columns: tuple[int, int] = (0, 0)
    uses: tuple[str, ...] = ()


NEEDS = {
    CheckKind.NOT_NULL: Needs((1, MOST_COLUMNS)),
    CheckKind.UNIQUE: Needs((1, MOST_COLUMNS)),
    CheckKind.ACCEPTED: Needs((1, 1), ("values",)),
    CheckKind.RANGE: Needs((1, 1), ("minimum", "maximum")),
    CheckKind.REGEX: Needs((1, 1), ("pattern",)),
    CheckKind.RELATION: Needs((1, MOST_COLUMNS), ("table", "table_columns")),
    CheckKind.SQL: Needs(uses=("query",)),
    CheckKind.ROW_COUNT: Needs(uses=("minimum", "maximum", "percent", "runs")),
    CheckKind.FRESHNESS: Needs((1, 1), ("max_age_s",)),
    CheckKind.CHECKSUM: Needs((0, MOST_COLUMNS)),
}


def uses(kind: CheckKind) -> frozenset[str]:
    """The fields that a check of this kind goes by."""
    needs = NEEDS[kind]
    return _COMMON | set(needs.uses) | ({"columns"} if needs.columns[1] else set())


def only_used(check: Check) -> Check:
    """The same check without what its kind has no use for, as a form sends it along."""
    unused: dict[str, Any] = {
        field.name: field.default for field in fields(check) if field.name not in uses(check.kind)
    }
    return replace(check, **unused)


def named(checks: Sequence[Check]) -> tuple[Check, ...]:
    """Each check with a name of its own; without one it is called as what it checks."""
    taken = {check.name for check in checks if check.name}
    found = []
    for check in checks:
        name, number = check.name or check.what[:LONGEST_NAME], 1
        while not check.name and name in taken:
            number += 1
            name = f"{check.what[: LONGEST_NAME - 4]} {number}"
        taken.add(name)
        found.append(replace(check, name=name))
    return tuple(found)


def objections(check: Check) -> Iterator[ConnectorError]:
    """What is wrong with a check whatever the columns are; each error names the check's field."""
    needs, label = NEEDS[check.kind], LABELS[check.kind]
    least, most = needs.columns
    if len(check.name) > LONGEST_NAME:
        yield _wrong("name", f"A name has at most {LONGEST_NAME} characters.")
    for field in fields(check):
        if field.name not in uses(check.kind) and getattr(check, field.name) != field.default:
            yield _wrong(field.name, f"{label} has no use for it.", "Leave it empty.")
    if most and not least <= len({name.lower() for name in check.columns}) == len(check.columns) <= most:
        count = "one column" if most == 1 else f"{least} to {most} different columns"
        yield _wrong("columns", f"{label} is about {count}.", "Name it as the source does." if most == 1 else "")
    if check.severity is Severity.QUARANTINE and not check.is_row_level:
        yield _wrong("severity", f"{label} does not say which rows are bad.", "Hold the run, or only warn.")
    if check.time_limit_s < 1:
        yield _wrong("time_limit_s", "At least a second.")
    yield from _kinds_own(check)


def _kinds_own(check: Check) -> Iterator[ConnectorError]:
    match check.kind:
        case CheckKind.ACCEPTED:
            if not 1 <= len(check.values) <= MOST_VALUES:
                yield _wrong("values", f"Give 1 to {MOST_VALUES:,} values.", "One on each line.")
            elif any(value != value.strip() or not value or len(value.splitlines()) > 1 for value in check.values):
                message = "A value is one line, not empty and without blanks around it."
                yield _wrong("values", message, "A regular expression can say what this list cannot.")
        case CheckKind.RANGE:
            if check.minimum == check.maximum == "":
                yield _wrong("minimum", "A range has a lowest value, a highest, or both.")
        case CheckKind.REGEX:
            if not 1 <= len(check.pattern) <= LONGEST_PATTERN:
                yield _wrong("pattern", f"Give a regular expression of at most {LONGEST_PATTERN:,} characters.")
        case CheckKind.RELATION:
            yield from _against_relation(check)
        case CheckKind.SQL:
            if not 1 <= len(check.query.strip()) <= LONGEST_QUERY:
                yield _wrong("query", f"Give one SELECT of at most {LONGEST_QUERY:,} characters that gives bad rows.")
            elif STAGED not in check.query:
                yield _wrong("query", f"It does not name {STAGED}: it would not look at the rows that came.")
        case CheckKind.ROW_COUNT:
            yield from _against_row_count(check)
        case CheckKind.FRESHNESS:
            if not check.max_age_s:
                yield _wrong("max_age_s", "Say how old the newest row may be.", "In seconds; 86400 is a day.")


def _against_relation(check: Check) -> Iterator[ConnectorError]:
    if not all(check.table.strip(".").split(".")) or check.table.count(".") > 1 or not check.table:
        yield _wrong("table", "Name the table that values are to be found in.", "Write schema.table.")
    if len(check.table_columns) != len(check.columns):
        message = f"It has as many columns as are checked: {len(check.columns)}, not {len(check.table_columns)}."
        yield _wrong("table_columns", message, "In the same order.")


def _against_row_count(check: Check) -> Iterator[ConnectorError]:
    if check.percent is None and check.minimum == check.maximum == "":
        yield _wrong("percent", "Say how far from the usual number, or give a lowest or a highest.")
    for name in ("minimum", "maximum"):
        if getattr(check, name) and not _WHOLE.fullmatch(getattr(check, name)):
            yield _wrong(name, "A number of rows is a whole number.", "Without points, for example 100000.")
    if check.runs < 1:
        yield _wrong("runs", "At least one earlier run.")


def objections_of_all(checks: Sequence[Check]) -> Iterator[tuple[int, ConnectorError]]:
    """What is wrong with checks beside each other, by the number of the check."""
    seen: set[str] = set()
    for number, check in enumerate(checks):
        if check.name and check.name in seen:
            yield (
                number,
                _wrong("name", f"Another check is called {check.name}.", "Their results are told apart by it."),
            )
        seen.add(check.name)
    if len(checks) > MAX_CHECKS:
        yield MAX_CHECKS, _wrong("kind", f"A pipeline has at most {MAX_CHECKS} checks.")


def objections_of_columns(check: Check, columns: Sequence[Column]) -> Iterator[ConnectorError]:
    """What the source's columns, as they will be loaded, have against a check."""
    there = {column.name.lower(): column for column in columns}
    for name in check.columns:
        column = there.get(name.lower())
        if column is None:
            yield _wrong(
                "columns", f"There is no column {name} in what is loaded.", "Columns are called as in the source."
            )
        elif why_not := _unfit(check, column):
            yield _wrong("columns", f"Column {column.name}: {why_not}.", "Use SQL for it, or choose another kind.")
        else:
            yield from _unread_values(check, column)


def _unfit(check: Check, column: Column) -> str:
    if check.kind in (CheckKind.NOT_NULL, CheckKind.CHECKSUM):
        return ""
    if column.repeated or column.type in _DOCUMENTS:
        return "values of this type are not compared"
    if check.kind is CheckKind.FRESHNESS and (column.type not in _TIMES or column.target_type == "text"):
        return "how new a row is, a date or a time tells"
    if check.kind is CheckKind.RANGE and column.type not in _ORDERED:
        return "values of this type have no order"
    return ""


def _unread_values(check: Check, column: Column) -> Iterator[ConnectorError]:
    """Numbers that are none; PostgreSQL reads the rest."""
    if column.type not in _NUMBERS or column.target_type == "text":
        return
    given = [("minimum", check.minimum), ("maximum", check.maximum)] if check.kind is CheckKind.RANGE else []
    given += [("values", value) for value in check.values]
    for field, text in given:
        try:
            Decimal(text or "0")
        except InvalidOperation:
            yield _wrong(field, f"{text[:40]} is no number, and {column.name} holds numbers.")


def _wrong(field: str, message: str, hint: str = "") -> ConnectorError:
    return ConnectorError(message, hint=hint, code="check_invalid", field=field)
