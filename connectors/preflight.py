"""What becomes of each column, told before the first run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from connectors import column_rules, masks
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.modes import TextPolicy
from connectors.postgres.names import MAX_BYTES, column_names, postgres_name, target_name
from connectors.types import bigquery_text, bigquery_type, casts_of, form_of, postgres_type, usual_type

_NUL = {
    TextPolicy.FAIL: "a NUL character ends the run",
    TextPolicy.STRIP: "NUL characters are removed",
    TextPolicy.REPLACE: "NUL characters are replaced by \N{REPLACEMENT CHARACTER}",
}
_TEXTS = frozenset({"STRING", "JSON", "GEOGRAPHY"})
COSTS = ("low", "medium", "high")
_HEAVY = frozenset({"BIGNUMERIC", "RANGE", "STRUCT"})
_EXAMPLES = {"numeric": "numeric(12,2)", "character varying": "character varying(100)"}


@dataclass(frozen=True)
class ColumnPlan:
    """What becomes of one column of the source; without a `target_name` it is skipped, without a `target_type` unknown.

    `compared` is "by value" or "counted only", empty where nothing is; `cost` that of writing a value,
    one of COSTS. `choices` are types that a rule may name, the usual one first; `needs_zone` that the
    rule has to name one. `usual_name` is what it is called without a rule, `masks` are those that a rule may name,
    `masked` is what is stored in the place of its values, in words, empty where they are stored themselves. `error` is
    why the column cannot be loaded so, or its rule cannot be.
    """

    name: str
    source_type: str
    skip: bool = False
    target_name: str = ""
    target_type: str = ""
    is_renamed: bool = False
    compared: str = ""
    mind: tuple[str, ...] = ()
    cost: str = "low"
    choices: tuple[str, ...] = ()
    needs_zone: bool = False
    zone: str = ""
    usual_name: str = ""
    masks: tuple[str, ...] = ()
    masked: str = ""
    error: str = ""


@dataclass(frozen=True)
class Preflight:
    """The plans of all columns, and what is wrong with no single one of them."""

    columns: tuple[ColumnPlan, ...]
    errors: tuple[str, ...] = ()


def look_ahead(columns: Sequence[Column], rules: Any, policy: TextPolicy = TextPolicy.FAIL) -> Preflight:
    """What becomes of `columns` by `rules`, which are as `column_rules.from_json` takes them; raises nothing."""
    read, wrong = column_rules.from_json(rules)
    left, more = column_rules.judge(columns, read)
    wrong += more
    try:
        column_names(left)
    except ConnectorError as error:
        wrong.append(error)
    known = {column.name.lower() for column in columns}
    errors: dict[str, str] = {}
    for one in wrong:
        errors.setdefault(one.field.lower(), f"{one.message} {one.hint}".strip())
    by_name = {column.name: column for column in left}
    asked: Mapping[str, column_rules.ColumnRule] = {name.lower(): rule for name, rule in read.items()}
    plans = [
        _plan(column, by_name.get(column.name), asked.get(column.name.lower()), errors.get(column.name.lower()), policy)
        for column in columns
    ]
    return Preflight(tuple(plans), tuple(text for name, text in errors.items() if name not in known))


def _plan(
    column: Column,
    planned: Column | None,
    rule: column_rules.ColumnRule | None,
    error: str | None,
    policy: TextPolicy,
) -> ColumnPlan:
    usual = postgres_name(column.name)
    plan = ColumnPlan(
        column.name,
        bigquery_type(column),
        choices=_choices(column),
        usual_name=usual,
        masks=masks.offered(column),
        error=error or "",
    )
    if planned is None:
        return replace(plan, skip=True)
    name = planned.target_name or target_name(column)
    is_renamed = name == usual != column.name
    plan = replace(plan, target_name=name, is_renamed=is_renamed, cost=COSTS[_weight(planned)])
    plan = replace(plan, masked=_masked(planned))
    if rule is not None:
        plan = replace(plan, zone=rule.zone, needs_zone=column_rules.needs_zone(column, rule.type))
    try:
        target_type = postgres_type(planned)
    except ConnectorError as unknown:
        return replace(plan, error=plan.error or f"{unknown.message} {unknown.hint}")
    compared = "counted only" if bigquery_text(planned, "x") is None else "by value"
    mind = tuple(_to_mind(planned, name if is_renamed else column.name, policy))
    return replace(plan, target_type=target_type, compared=compared, mind=mind)


def _masked(column: Column) -> str:
    if column.mask is not None:
        return masks.in_words(column.mask.kind, column.mask.keep)
    return "some of its fields" if masks.is_masked(column) else ""


def _choices(column: Column) -> tuple[str, ...]:
    try:
        usual = usual_type(column)
    except ConnectorError:
        return ()
    offered = [form.postgres for form in casts_of(column)]
    examples = []
    for type_ in offered:
        base = type_.removesuffix("[]")
        array = type_[len(base) :]
        examples += [type_] if base == "numeric" else []
        examples.append(f"{_EXAMPLES.get(base, base)}{array}")
    return tuple(dict.fromkeys([usual, *examples]))


def _to_mind(column: Column, name: str, policy: TextPolicy) -> Iterator[str]:
    if name != column.name:
        long = len(column.name.encode()) > MAX_BYTES
        yield (f"the name is shortened to {MAX_BYTES} bytes" if long else "PostgreSQL keeps this name for itself")
    if column.type == "STRUCT" and column.repeated and not column.target_type:
        yield "one JSON array of objects, their keys called as the fields are"
    elif form_of(column).mind:
        yield form_of(column).mind
    if column.repeated:
        yield "a NULL array becomes an empty one"
    if column.mask is not None:
        yield "NULL stays NULL"
    elif _holds_text(column):
        yield _NUL[policy]


def _holds_text(column: Column) -> bool:
    return column.type in _TEXTS or any(_holds_text(field) for field in column.columns)


def _weight(column: Column) -> int:
    """How much work a value is, as an index of COSTS; docs/types.md has what was measured."""
    inner = max((_weight(field) for field in column.columns), default=0)
    is_shape = column.type == "GEOGRAPHY" and bool(column.target_type)
    weight = max(inner, int(column.type in _HEAVY or is_shape))
    return min(weight + int(column.repeated), len(COSTS) - 1)
