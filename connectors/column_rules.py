"""What a pipeline says of single columns: skip one, call it otherwise, store it as another type, or mask it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

from connectors import masks
from connectors.column import KEYED_MASKS, Column, MaskKind
from connectors.errors import ConnectorError
from connectors.postgres.names import MAX_BYTES, check_identifier, is_reserved
from connectors.reading import ReadRequest
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
_KINDS = {"skip": bool, "type": str, "zone": str, "name": str, "mask": str, "keep": int}
_EXAMPLE = 'Write for example {"skip": true}, {"type": "integer"}, {"name": "total"} or {"mask": "hmac"}.'
_MASKS = ", ".join(MaskKind)


@dataclass(frozen=True)
class ColumnRule:
    """Either `skip`, or another `name` in the target, and the `type` to store it as or the `mask` to store instead.

    `type` is PostgreSQL's, in any of its spellings; `zone` goes with a DATETIME that becomes a timestamptz, or a
    TIMESTAMP that becomes a timestamp. `keep` is the number of characters that the mask keep_last leaves. The rule of
    a STRUCT's field, by its path, can only mask.
    """

    skip: bool = False
    type: str = ""
    zone: str = ""
    name: str = ""
    mask: str = ""
    keep: int = 0


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
        if name.lower() not in known and name.partition(".")[0].lower() not in known
    ]
    left = []
    for column in columns:
        rule = by_name.get(column.name.lower(), ColumnRule())
        if rule.skip:
            continue
        try:
            left.append(_within(_ruled(column, rule), rules))
        except ConnectorError as error:
            errors.append(_wrong(column.name, error.message, error.hint))
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


def is_keyed(rules: Mapping[str, ColumnRule]) -> bool:
    """Whether what goes into the target depends on the key for masks."""
    return any(rule.mask in KEYED_MASKS for rule in rules.values())


def in_words(rules: Mapping[str, ColumnRule], columns: Sequence[Column]) -> str:
    """What the rules do to the columns that are left, for the log."""
    skip = skipped(rules)
    told = [f"not read: {', '.join(skip)}"] if skip else []
    renamed = [f"{column.name} as {column.target_name}" for column in columns if column.target_name]
    told += [f"renamed: {', '.join(renamed)}"] if renamed else []
    retyped = [f"{column.name} as {column.target_type}" for column in columns if column.target_type]
    told += [f"stored by a rule: {', '.join(retyped)}"] if retyped else []
    hidden = [f"{name} ({masks.in_words(rule.mask, rule.keep)})" for name, rule in rules.items() if rule.mask]
    told += [f"masked: {', '.join(hidden)}"] if hidden else []
    return f"Columns {'; '.join(told) or 'have their usual types'}."


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
    is_known = isinstance(given, Mapping) and bool(given) and not set(given) - set(_KINDS)
    # A bool is an int to Python.
    if not is_known or any(type(value) is not _KINDS[key] for key, value in given.items()):
        raise _wrong(name, f"The rule for column {name} is not understood.", _EXAMPLE)
    rule = ColumnRule(**given)
    others = (rule.type, rule.zone, rule.name, rule.mask)
    if rule.skip == any(others) or (rule.zone and not rule.type):
        raise _wrong(name, f"The rule for column {name} must either skip it or say what is different.", _EXAMPLE)
    if rule.type and rule.mask:
        raise _wrong(name, f"Column {name} cannot be masked and have a type: a mask is text.", "Leave one of them out.")
    _check_mask(name, rule)
    _check_name(name, rule.name)
    return rule


def _check_mask(name: str, rule: ColumnRule) -> None:
    if rule.mask and rule.mask not in list(MaskKind):
        raise _wrong(name, f"There is no mask {rule.mask!r} for column {name}.", f"There are: {_MASKS}.")
    if (rule.mask == MaskKind.KEEP_LAST) != bool(rule.keep) or not 0 <= rule.keep <= masks.KEEP_MOST:
        hint = f'Write for example {{"mask": "keep_last", "keep": 4}}, at most {masks.KEEP_MOST}.'
        raise _wrong(name, f"Column {name} has no use for keep, or needs it.", hint)
    if "." in name and rule != ColumnRule(mask=rule.mask, keep=rule.keep):
        raise _wrong(name, f"{name} is a field within a column: it can only be masked.", 'Write {"mask": "redact"}.')


def _check_name(column: str, name: str) -> None:
    if not name:
        return
    try:
        check_identifier(name, field=column)
    except ConnectorError as error:
        raise _wrong(column, error.message, error.hint or f"Choose one of 1 to {MAX_BYTES} bytes.") from error
    if is_reserved(name):
        raise _wrong(column, f"PostgreSQL keeps the name {name} for itself.", "Choose another.")


def _ruled(column: Column, rule: ColumnRule) -> Column:
    """The column by its own rule."""
    kept = masks.masked(column, MaskKind(rule.mask), rule.keep) if rule.mask else _retyped(column, rule)
    return replace(kept, target_name="" if rule.name == column.name else rule.name)


def _within(column: Column, rules: Mapping[str, ColumnRule]) -> Column:
    """The column, its fields masked by the rules that name their paths."""
    for name, rule in rules.items():
        first, _, path = name.partition(".")
        if path and first.lower() == column.name.lower():
            column = _with_field_masked(column, path, rule, name)
    return column


def _with_field_masked(column: Column, path: str, rule: ColumnRule, name: str) -> Column:
    first, _, rest = path.partition(".")
    if column.mask is not None:
        raise _wrong(column.name, f"{name} has a rule, and is within a column that is masked.", "Remove one of them.")
    place = next((i for i, child in enumerate(column.columns) if child.name.lower() == first.lower()), None)
    if place is None:
        raise _wrong(column.name, f"The source has no field {name}, which has a rule.", "Correct its path.")
    child = column.columns[place]
    kind = MaskKind(rule.mask)
    made = _with_field_masked(child, rest, rule, name) if rest else masks.masked(child, kind, rule.keep)
    return replace(column, columns=(*column.columns[:place], made, *column.columns[place + 1 :]))


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
