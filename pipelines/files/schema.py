"""The JSON Schema of a definitions file: for editors, and what `apply` checks a file against first."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from connectors import registry
from pipelines.files import alert_rules, dataset_rules, fields
from pipelines.files.fields import TEXT, Field, Schema

VERSION = 1
WAS = {"type": TEXT, "minLength": 1, "description": "The name that it had before, where it is still called that."}


@cache
def schema() -> Schema:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "DataMantri definitions",
        "type": "object",
        "properties": {
            "version": {"const": VERSION, "description": "Of this format."},
            "connections": _by_name("Systems to read from and write to, without their secrets.", 100, _connection()),
            "calendars": _by_name("Times in which schedules start nothing.", 100, _entry(fields.CALENDAR)),
            "pools": _by_name("Slots that pipelines share.", 100, _entry(fields.POOL)),
            "pipelines": _by_name("What to move, how and when.", 200, _entry(fields.PIPELINE)),
            "dataset_rules": _by_name("What becomes of new tables.", 100, _entry(dataset_rules.FIELDS)),
            "alert_rules": _by_name("Whom to tell of what.", 100, _entry(alert_rules.FIELDS)),
        },
        "required": ["version"],
        "additionalProperties": False,
    }


def _by_name(description: str, longest: int, entry: Schema) -> Schema:
    names = {"type": TEXT, "minLength": 1, "maxLength": longest}
    return {
        "type": ["object", "null"],
        "description": description,
        "propertyNames": names,
        "additionalProperties": entry,
    }


def _connection() -> Schema:
    entry = _entry(fields.CONNECTION)
    entry["properties"]["options"] = {"type": "object", "description": "As its kind needs them."}
    entry["required"] = ["kind", "options"]
    entry["allOf"] = [
        {
            "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
            "then": {"properties": {"options": _object(fields.options_of(kind))}},
        }
        for kind in registry.KINDS
    ]
    return entry


def _entry(of: Iterable[Field]) -> Schema:
    made = _object(of)
    return {**made, "properties": {"was": WAS, **made["properties"]}}


def _object(of: Iterable[Field]) -> Schema:
    of = tuple(of)
    return {
        "type": "object",
        "properties": {field.name: _property(field) for field in of},
        "required": [field.name for field in of if field.required],
        "additionalProperties": False,
    }


def _property(field: Field) -> Schema:
    choices = "; ".join(f"{value or '(empty)'}: {label}" for value, label in field.choices.items())
    said = {
        "title": field.label,
        "description": " ".join(filter(None, [field.help, choices and f"{choices}."])),
    }
    default: dict[str, Any] = {} if field.required or field.name == "state" else {"default": field.default}
    return {**field.schema, **{name: text for name, text in said.items() if text}, **default}
