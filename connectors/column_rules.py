"""What a pipeline says of single columns: skip one, or store it as another type than the usual one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

from connectors.base import Column, ReadRequest
from connectors.errors import ConnectorError
from connectors.types import NEED_ZONE, base_type, casts_of, usual_type

_TYPE = re.compile(r"(?P<name>[a-z][a-z0-9 ]*?) ?(?P<lengths>\( ?\d{1,8}(?: ?, ?\d{1,8})? ?\))? ?(?P<array>\[ ?\])?")
# As people write them → as `format_type` does.
_ALIASES = {
    "bool": "boolean",
    "int2": "smallint",
    "int": "integer",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "decimal": "numeric",
    "varchar": "character varying",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
}
# How many lengths a type takes, and must have.
_LENGTHS = {"numeric": (0, 2), "character varying": (1, 1)}
MAX_PRECISION, MAX_CHARACTERS = 1000, 10_485_760
_KEYS = frozenset({"skip", "type", "zone"})
_EXAMPLE = 'Write for example {"skip": true} or {"type": "integer"}.'


@dataclass(frozen=True)
class ColumnRule:
    """Either `skip`, or the PostgreSQL `type` to store the column as, in any of its spellings.

    `zone` goes with a DATETIME that becomes a timestamptz, or a TIMESTAMP that becomes a timestamp.
    """

    skip: bool = False
    type: str = ""
    zone: str = ""


def from_json(values: Any) -> tuple[dict[str, ColumnRule], list[ConnectorError]]:
    """The rules by column that `values` has, and what is wrong with the others."""
    if not isinstance(values, Mapping):
        return {}, [_wrong("", "The rules are not an object.", 'Write for example {"amount": {"type": "integer"}}.')]
    rules: dict[str, ColumnRule] = {}
    errors = []
    seen: dict[str, str] = {}
    for name, given in values.items():
        other = seen.setdefault(name.lower(), name)
        try:
            if other != name:
                raise _wrong(name, f"Column {name} has two rules, the other as {other}.", "Leave one of them out.")
            rules[name] = _rule(name, given)
        except ConnectorError as error:
            errors.append(error)
    return rules, errors


def judge(
    columns: Sequence[Column], rules: Mapping[str, ColumnRule]
) -> tuple[tuple[Column, ...], list[ConnectorError]]:
    """The columns that are left, with their types by the rules, and what is wrong with the rules; each with its column.

    A column whose rule is wrong stays as it is.
    """
    by_name = {name.lower(): rule for name, rule in rules.items()}
    known = {column.name.lower() for column in columns}
    errors = [
        _wrong(name, f"The source has no column {name}, which has a rule.", "Correct its name, or remove the rule.")
        for name in rules
        if name.lower() not in known
    ]
    left = []
    for column in columns:
        rule = by_name.get(column.name.lower(), ColumnRule())
        if rule.skip:
            continue
        try:
            left.append(_retyped(column, rule))
        except ConnectorError as error:
            errors.append(error)
            left.append(column)
    if columns and not left:
        errors.append(_wrong("", "Every column is skipped.", "Leave at least one."))
    return tuple(left), errors


def apply(columns: Sequence[Column], rules: Mapping[str, ColumnRule]) -> tuple[Column, ...]:
    """The columns to load, with their types by the rules; raises ConnectorError, code column_rule, if one cannot be.

    A column that was to be skipped and is gone is no harm.
    """
    known = {column.name.lower() for column in columns}
    left, errors = judge(columns, {n: rule for n, rule in rules.items() if not rule.skip or n.lower() in known})
    for error in errors:
        raise error
    return left


def skipped(rules: Mapping[str, ColumnRule]) -> tuple[str, ...]:
    return tuple(name for name, rule in rules.items() if rule.skip)


def without(columns: Sequence[Column], skip: Sequence[str]) -> tuple[Column, ...]:
    """The columns whose names are not in `skip`, in any case."""
    gone = {name.lower() for name in skip}
    return tuple(column for column in columns if column.name.lower() not in gone)


def narrowed(columns: Sequence[Column], read: ReadRequest) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
    """The columns that are read, and those that are not because others were to be read `only`."""
    kept = without(columns, read.skip)
    if not read.only:
        return kept, ()
    wanted = {name.lower() for name in read.only}
    return (
        tuple(column for column in kept if column.name.lower() in wanted),
        tuple(column for column in kept if column.name.lower() not in wanted),
    )


def needs_zone(column: Column, type_: str) -> bool:
    """Whether the column as `type_`, in any spelling, needs the zone of its times."""
    return (column.type, spelled(type_).removesuffix("[]")) in NEED_ZONE


def _rule(name: str, given: Any) -> ColumnRule:
    if not isinstance(given, Mapping) or not given or set(given) - _KEYS:
        raise _wrong(name, f"The rule for column {name} is not understood.", _EXAMPLE)
    rule = ColumnRule(given.get("skip", False), given.get("type", ""), given.get("zone", ""))
    if not isinstance(rule.skip, bool) or not isinstance(rule.type, str) or not isinstance(rule.zone, str):
        raise _wrong(name, f"The rule for column {name} is not understood.", _EXAMPLE)
    if rule.skip == bool(rule.type):
        raise _wrong(name, f"The rule for column {name} must either skip it or name a type.", _EXAMPLE)
    return rule


def _retyped(column: Column, rule: ColumnRule) -> Column:
    if not rule.type:
        return column
    usual, wanted = usual_type(column), spelled(rule.type)
    base = base_type(wanted)
    if wanted == usual:
        type_ = ""
    elif base in {form.postgres for form in casts_of(column)}:
        type_ = wanted
    else:
        offered = ", ".join(dict.fromkeys([usual, *(form.postgres for form in casts_of(column))]))
        source = f"ARRAY<{column.type}>" if column.repeated else column.type
        raise _wrong(
            column.name, f"Column {column.name} ({source}) cannot be stored as {rule.type}.", f"It may be {offered}."
        )
    if type_:
        _check_lengths(column.name, type_)
    is_needed = needs_zone(column, wanted)
    if is_needed != bool(rule.zone):
        hint = 'Add the zone, for example "zone": "Europe/Berlin".' if is_needed else "Leave it out."
        what = "needs the zone that its times are told in" if is_needed else "has no use for a zone"
        raise _wrong(column.name, f"Column {column.name} as {wanted} {what}.", hint)
    if rule.zone:
        _check_zone(column.name, rule.zone)
    return replace(column, target_type=type_, zone=rule.zone)


def spelled(type_: str) -> str:
    """A type as `format_type` spells it; as it is if that is not clear."""
    found = _TYPE.fullmatch(" ".join(type_.lower().split()))
    if found is None:
        return type_
    name = _ALIASES.get(found["name"], found["name"])
    lengths = found["lengths"] or ""
    numbers = [int(number) for number in re.findall(r"\d+", lengths)]
    if name == "numeric" and len(numbers) == 1:
        numbers.append(0)
    lengths = f"({','.join(map(str, numbers))})" if numbers else ""
    return f"{name}{lengths}{'[]' if found['array'] else ''}"


def _check_lengths(column: str, type_: str) -> None:
    name = base_type(type_).removesuffix("[]")
    numbers = [int(number) for number in re.findall(r"\d+", type_)]
    fewest, most = _LENGTHS.get(name, (0, 0))
    if not fewest <= len(numbers) <= most:
        example = {"numeric": "numeric(10,2)", "character varying": "varchar(20)"}.get(name, name)
        raise _wrong(column, f"{type_} is not a type with the right number of lengths.", f"Write {example}.")
    if name == "character varying" and not 1 <= numbers[0] <= MAX_CHARACTERS:
        raise _wrong(column, f"{type_} cannot be: a length is 1 to {MAX_CHARACTERS:,}.", "Use text for longer ones.")
    if name == "numeric" and numbers and not (1 <= numbers[0] <= MAX_PRECISION and numbers[1] <= numbers[0]):
        raise _wrong(
            column,
            f"{type_} cannot be: it has 1 to {MAX_PRECISION:,} digits, no more of them after the point than in all.",
            "Use numeric alone for any number of digits.",
        )


def _check_zone(column: str, zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:  # not found, no name at all, a folder
        hint = "Write it as Europe/Berlin or UTC."
        raise _wrong(column, f"There is no time zone {zone!r}.", hint) from error


def _wrong(column: str, message: str, hint: str) -> ConnectorError:
    return ConnectorError(message, hint=hint, code="column_rule", field=column)
