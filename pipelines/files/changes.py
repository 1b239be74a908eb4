"""What differs between two definitions, in the words of the form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any

from connectors import check_rules, masks
from connectors.checks import Check
from connectors.column import column_from_json
from connectors.types import bigquery_type
from pipelines.checks import in_words as check_words
from pipelines.dependencies import in_words
from pipelines.files.fields import Field
from pipelines.files.values import Values, spec_of
from pipelines.models import DependencyRule, GiveUp

ADDED, CHANGED, REMOVED = "+", "~", "-"
NOTHING = "empty"


@dataclass(frozen=True)
class FieldChange:
    """One field, or one entry of one. `before` is None for what is new, `after` for what goes.

    `lines` is a diff of texts that have several lines, in place of both.
    """

    label: str
    before: str | None
    after: str | None
    lines: tuple[str, ...] = ()

    @property
    def sign(self) -> str:
        if self.before is None:
            return ADDED
        return REMOVED if self.after is None else CHANGED

    @property
    def words(self) -> str:
        if self.lines:
            return ""
        return " → ".join(text for text in (self.before, self.after) if text is not None)


@dataclass(frozen=True)
class Change:
    """What becomes of one pool, connection or pipeline."""

    sign: str
    what: str
    name: str
    fields: tuple[FieldChange, ...] = ()
    note: str = ""


def between(of: Iterable[Field], before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[FieldChange, ...]:
    """What differs, in the order of the form."""
    changes: list[FieldChange] = []
    for field in of:
        old, new = before.get(field.name, field.default), after.get(field.name, field.default)
        if old != new:
            changes += _field_changes(field, old, new)
    return tuple(changes)


def first(of: Iterable[Field], values: Values) -> tuple[FieldChange, ...]:
    """What a new one says that goes without saying otherwise."""
    told: list[FieldChange] = []
    for field in of:
        value = values[field.name]
        if field.required or value != field.default:
            if field.name in _ENTRIES:
                told += _field_changes(field, field.default, value)
            else:
                text = _in_words(field, value)
                told.append(FieldChange(field.label, None, text, _diff("", text)))
    return tuple(told)


def _field_changes(field: Field, old: Any, new: Any) -> Iterator[FieldChange]:
    if field.name in _ENTRIES:
        entries = _ENTRIES[field.name]
        was, now = entries(old), entries(new)
        for label in dict.fromkeys([*was, *now]):
            if was.get(label) != now.get(label):
                yield FieldChange(label[0], was.get(label), now.get(label))
        if list(was) != list(now) and dict(was) == dict(now):
            yield FieldChange(field.label, ", ".join(was.values()), ", ".join(now.values()))
        return
    before, after = _in_words(field, old), _in_words(field, new)
    yield FieldChange(field.label, before, after, _diff("" if old == "" else before, "" if new == "" else after))


def _diff(before: str, after: str) -> tuple[str, ...]:
    """Line by line, with three lines of context, if one of the texts has several lines."""
    if "\n" not in before + after:
        return ()
    lines = unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=3)
    hunks = [line.rstrip() if line.strip() == "" else line for line in lines][3:]  # without the names of files
    return tuple("…" if line.startswith("@@") else line for line in hunks)


def _in_words(field: Field, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or NOTHING
    if value in field.choices:
        return field.choices[value]
    return NOTHING if value in (None, "") else str(value)


# Fields that hold several things are told thing by thing: {(label, key): words}.
Entries = dict[tuple[str, str], str]


def _schedules(value: Any) -> Entries:
    return {("Schedule", str(each)): spec_of(each).words for each in value}


def _dependencies(value: Any) -> Entries:
    return {(f"Waits for {each['pipeline']}", ""): _dependency(each) for each in value}


def _dependency(each: Mapping[str, Any]) -> str:
    hours, gives_up = each.get("give_up_hours", 24), each.get("on_give_up", GiveUp.FAIL)
    rule = in_words(each.get("rule", DependencyRule.SAME_INTERVAL), each.get("offset_s"))
    return f"until it {rule}, at most {hours} h, then {GiveUp(gives_up).label.lower()}"


def _indexes(value: Any) -> Entries:
    return {
        ("Index", str(each)): f"{'unique, ' if each.get('unique') else ''}on {', '.join(each['columns'])}"
        for each in value
    }


def _column_rules(value: Any) -> Entries:
    return {(f"Column {name}", ""): _rule(rule) for name, rule in value.items()}


def _parameters(value: Any) -> Entries:
    return {
        (f"Parameter {name}", ""): f"{each.get('type', '?')}, {_default(each.get('default'))}"
        for name, each in value.items()
    }


def _default(value: Any) -> str:
    return "NULL" if value is None else json.dumps(value, ensure_ascii=False)


def _rule(rule: Mapping[str, Any]) -> str:
    if rule.get("skip"):
        return "skipped"
    told = [f"called {rule['name']}"] if rule.get("name") else []
    if rule.get("mask"):
        told.append(f"masked: {masks.in_words(rule['mask'], rule.get('keep', 0))}")
    if rule.get("type") or not told:
        told.append(f"as {rule.get('type', '?')}")
    if rule.get("zone"):
        told.append(f"times of {rule['zone']}")
    return ", ".join(told)


def _checks(value: Any) -> Entries:
    checks = check_rules.named(tuple(map(Check.from_json, value)))
    return {(f"Check {check.name}", ""): check_words(check) for check in checks}


def _source_columns(value: Any) -> Entries:
    return {
        (f"Source column {column['name']}", ""): bigquery_type(column_from_json({"columns": (), **column}))
        for column in value or ()
    }


_ENTRIES = {
    "schedules": _schedules,
    "dependencies": _dependencies,
    "checks": _checks,
    "indexes": _indexes,
    "column_rules": _column_rules,
    "parameters": _parameters,
    "source_columns": _source_columns,
}


def renamed(row: Any, name: str) -> str:
    return "" if row.name == name else f"called {row.name} so far"
