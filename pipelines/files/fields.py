"""What a file says of each kind of definition: the one list that schema, reading, writing and diffs go by.

Labels, help, defaults and limits are those of the models and of the connectors' options; a pipeline has what its form
has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.text import capfirst

from connectors import registry
from connectors.checks import MAX_CHECKS
from connectors.column import MaskKind
from connectors.masks import KEEP_MOST
from connectors.parameters import TYPES
from pipelines import schedules
from pipelines.files.checks import check_schema
from pipelines.forms.pipelines import PipelineForm
from pipelines.models import Calendar, Connection, DependencyRule, GiveUp, Pipeline, Pool, Priority
from pipelines.models.dependencies import LONGEST_OFFSET_S, LONGEST_WAIT_HOURS

TEXT, NUMBER, SWITCH, LIST = "string", "integer", "boolean", "array"
Schema = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """One entry. `choices` are what a file writes → what a page shows; `schema` is its JSON Schema but for labels."""

    name: str
    label: str
    help: str
    schema: Schema
    default: Any = None
    required: bool = False
    choices: Mapping[Any, str] = field(default_factory=dict)


NAMES: Schema = {"type": LIST, "items": {"type": TEXT, "minLength": 1, "maxLength": 300}}
_COLUMN_RULE: Schema = {
    "type": "object",
    "properties": {
        "skip": {"type": SWITCH, "description": "The column is not read at all."},
        "type": {"type": TEXT, "description": "The PostgreSQL type to store it as, for example numeric(12,2)."},
        "zone": {"type": TEXT, "description": "For a time that changes its kind, for example Europe/Berlin."},
        "name": {"type": TEXT, "minLength": 1, "maxLength": 63, "description": "What it is called in the target."},
        "mask": {
            "type": TEXT,
            "enum": [str(kind) for kind in MaskKind],
            "description": "What is stored in the place of its values; of a STRUCT's field by its path.",
        },
        "keep": {
            "type": NUMBER,
            "minimum": 1,
            "maximum": KEEP_MOST,
            "description": "For keep_last: so many characters at the end stay.",
        },
    },
    "additionalProperties": False,
}
_INDEX: Schema = {
    "type": "object",
    "properties": {
        "columns": {**NAMES, "minItems": 1},
        "unique": {"type": SWITCH, "default": False, "description": "No two rows may be the same in these columns."},
    },
    "required": ["columns"],
    "additionalProperties": False,
}
_SCHEDULE: Schema = {
    "type": "object",
    "properties": {
        "cron": {
            "type": TEXT,
            "maxLength": schedules.MAX_CRON_LENGTH,
            "description": "minute hour day-of-month month day-of-week, for example 30 6 * * 1-5; or @daily.",
        },
        "zone": {"type": TEXT, "default": "UTC", "description": "The time zone of the cron text."},
        "every_s": {
            "type": NUMBER,
            "minimum": 1,
            "maximum": schedules.MAX_EVERY_S,
            "description": "An interval in seconds, in place of a cron text.",
        },
        "active_from": {
            "type": TEXT,
            "description": "No tick before it, and intervals count from here: on the clocks of the zone, for example "
            "2026-12-01T06:00, or with an offset.",
        },
        "active_until": {"type": TEXT, "description": "No tick after it."},
        "calendar": {"type": TEXT, "minLength": 1, "description": "The name of the calendar that closes ticks of it."},
        "jitter_s": {
            "type": NUMBER,
            "minimum": 0,
            "maximum": schedules.MAX_JITTER_S,
            "default": 0,
            "description": "Runs start up to so many seconds later.",
        },
    },
    "oneOf": [{"required": ["cron"]}, {"required": ["every_s"]}],
    "dependentRequired": {"zone": ["cron"]},
    "additionalProperties": False,
}
_DEPENDENCY: Schema = {
    "type": "object",
    "properties": {
        "pipeline": {"type": TEXT, "minLength": 1, "description": "The name of the pipeline to wait for."},
        "rule": {
            "type": TEXT,
            "enum": [str(rule) for rule in DependencyRule],
            "default": str(DependencyRule.SAME_INTERVAL),
            "description": "; ".join(f"{rule.value}: {rule.label}" for rule in DependencyRule) + ".",
        },
        "offset_s": {
            "type": NUMBER,
            "minimum": 1,
            "maximum": LONGEST_OFFSET_S,
            "description": "For offset: by how many seconds its data interval is earlier.",
        },
        "give_up_hours": {
            "type": NUMBER,
            "minimum": 1,
            "maximum": LONGEST_WAIT_HOURS,
            "default": 24,
            "description": "How long a run waits for it at most.",
        },
        "on_give_up": {
            "type": TEXT,
            "enum": [str(way) for way in GiveUp],
            "default": str(GiveUp.FAIL),
            "description": "What then becomes of the run.",
        },
    },
    "required": ["pipeline"],
    "additionalProperties": False,
}
_PARAMETER: Schema = {
    "type": "object",
    "properties": {
        "type": {"type": TEXT, "description": f"{', '.join(TYPES)}, or ARRAY<…> of one of these."},
        "default": {"description": "What a run takes that is given nothing else; left out, NULL."},
    },
    "required": ["type"],
    "additionalProperties": False,
}
_SPECIAL: dict[str, Schema] = {
    "parameters": {"type": "object", "additionalProperties": _PARAMETER},
    "column_rules": {"type": "object", "additionalProperties": _COLUMN_RULE},
    "indexes": {"type": LIST, "items": _INDEX},
    "closed": {
        "type": LIST,
        "items": {"type": TEXT, "maxLength": schedules.MAX_LINE_LENGTH},
        "maxItems": schedules.MAX_LINES,
    },
    # What is archived here is archived by hand, or for not being in the file.
    "state": {"type": TEXT, "enum": ["active", "paused"]},
}
_HELP = {
    "parameters": "Typed values that the query names as @name.",
    "state": "Left out, a pipeline stays as it is, and a new one is active.",
    "source": "The name of the connection that is read from.",
    "destination": "The name of the connection that is written to.",
    "pool": "The name of the pool.",
    "column_rules": "What is to be different from the usual, by column.",
    "indexes": "Made after the rows are loaded.",
    "run_budget_bytes": "Bytes that a run may read that BigQuery bills, queries and the Storage Read API together. A "
    "run that a dry run finds beyond it waits until somebody approves its cost.",
    "month_budget_bytes": "Bytes that all its runs may read in a calendar month of UTC. A run that would go beyond it "
    "waits until somebody approves its cost, the budget is raised, or the next month begins.",
    "merge_key": "The columns that identify a row. Merge and history need them; replace uses them where something "
    "depends on the table and its rows are changed in place.",
    "primary_key": "The columns of the table's primary key; none may be NULL.",
}
SCHEDULES = Field(
    "schedules", "Schedules", "When it runs.", {"type": LIST, "items": _SCHEDULE, "maxItems": 20}, default=[]
)

DEPENDENCIES = Field(
    "dependencies",
    "Dependencies",
    "The pipelines that it waits for. Without a schedule of its own, it starts when they have succeeded.",
    {"type": LIST, "items": _DEPENDENCY, "maxItems": 50},
    default=[],
)


CHECKS = Field(
    "checks",
    "Checks",
    "What rows must pass before they are published.",
    {"type": LIST, "items": check_schema(), "maxItems": MAX_CHECKS},
    default=[],
)

# Choices that are numbers in the database and words everywhere else.
WORDS = {"priority": Priority}


def of_model(model: type[models.Model], *names: str) -> tuple[Field, ...]:
    return tuple(_of_field(model._meta.get_field(name)) for name in names)


def _of_field(of: Any) -> Field:
    words = WORDS.get(of.name)
    choices = {m.name.lower(): str(m.label) for m in words} if words else dict(of.flatchoices)
    default = of.get_default() if of.has_default() or of.blank else None
    if words is not None:
        default = words(default).name.lower()
    schema = dict(_SPECIAL.get(of.name) or _schema_of(of, choices))
    if of.null:
        schema["type"] = [schema["type"], "null"]
    return Field(
        of.name,
        capfirst(str(of.verbose_name)),
        _HELP.get(of.name, str(of.help_text)),
        schema,
        str(default) if isinstance(default, Enum) else default,
        required=not (of.has_default() or of.blank or of.null),
        choices={str(value): str(label) for value, label in choices.items()},
    )


def _schema_of(of: Any, choices: Mapping[Any, str]) -> Schema:
    if choices:
        return {"type": TEXT, "enum": [str(value) for value in choices]}
    if isinstance(of, models.BooleanField):
        return {"type": SWITCH}
    if isinstance(of, ArrayField):
        return NAMES
    if isinstance(of, models.IntegerField):
        lowest = [v.limit_value for v in of.validators if isinstance(v, MinValueValidator)]
        highest = [v.limit_value for v in of.validators if isinstance(v, MaxValueValidator)]
        return {"type": NUMBER, "minimum": max(lowest), "maximum": min(highest)}
    schema: Schema = {"type": TEXT}
    if not of.blank:
        schema["minLength"] = 1
    if of.max_length:
        schema["maxLength"] = of.max_length
    return schema


CALENDAR = of_model(Calendar, "zone", "closed", "description")
POOL = of_model(Pool, "slots", "description")
CONNECTION = of_model(Connection, "kind", "max_running")
PIPELINE = (
    *of_model(Pipeline, *(name for name in PipelineForm.Meta.fields if name != "name")),
    SCHEDULES,
    DEPENDENCIES,
    CHECKS,
)


@cache
def options_of(kind: str) -> tuple[Field, ...]:
    """The options of a kind of connection, without its secrets; raises ConnectorError for a kind that is not there."""
    return tuple(of_option(option) for option in _options(kind) if not option.metadata.get("secret"))


@cache
def secrets_of(kind: str) -> tuple[Field, ...]:
    return tuple(of_option(option) for option in _options(kind) if option.metadata.get("secret"))


@cache
def addresses_of(kind: str) -> frozenset[str]:
    """The options that decide who is sent the secrets."""
    return frozenset(option.name for option in _options(kind) if option.metadata.get("address"))


def _options(kind: str) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(registry.options_type(kind))


def of_option(option: dataclasses.Field[Any]) -> Field:
    required = option.default is dataclasses.MISSING
    kinds = {int: NUMBER, bool: SWITCH, "int": NUMBER, "bool": SWITCH}
    schema: Schema = {"type": kinds.get(option.type, TEXT)}
    choices = option.metadata.get("choices") or ()
    if choices:
        schema["enum"] = list(choices)
    elif required and schema["type"] == TEXT:
        schema["minLength"] = 1
    return Field(
        option.name,
        str(option.metadata.get("label") or option.name),
        str(option.metadata.get("help", "")),
        schema,
        None if required else option.default,
        required,
        {choice: choice or "Automatic" for choice in choices},
    )
