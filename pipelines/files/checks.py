"""What a file says of a check: the fields of its model, with their help."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from connectors.check_rules import LONGEST_PATTERN, LONGEST_QUERY, MOST_COLUMNS, MOST_VALUES
from pipelines import checks
from pipelines.models import Check

_LONGEST = {"pattern": LONGEST_PATTERN, "query": LONGEST_QUERY}


def check_schema() -> dict[str, Any]:
    """The JSON Schema of one check."""
    properties = {name: _property(Check._meta.get_field(name)) for name in checks.NAMES}
    return {"type": "object", "properties": properties, "required": ["kind"], "additionalProperties": False}


def _property(field: Any) -> dict[str, Any]:
    default = {} if field.name == "kind" else {"default": field.get_default()}
    said = {"description": str(field.help_text)} if field.help_text else {}
    if field.choices:
        told = "; ".join(f"{value}: {label}" for value, label in field.choices)
        return {"type": "string", "enum": [value for value, _ in field.choices], "description": f"{told}.", **default}
    return {**_schema(field), **said, **default}


def _schema(field: Any) -> dict[str, Any]:
    if isinstance(field, ArrayField):
        item = {"type": "string", "minLength": 1, "maxLength": field.base_field.max_length}
        return {"type": "array", "items": item, "maxItems": MOST_COLUMNS}
    if isinstance(field, models.JSONField):
        return {"type": "array", "items": {"type": "string"}, "maxItems": MOST_VALUES}
    if isinstance(field, models.IntegerField):
        limits = {"minimum": MinValueValidator, "maximum": MaxValueValidator}
        found = {
            name: max(v.limit_value for v in field.validators if isinstance(v, kind))
            if name == "minimum"
            else min(v.limit_value for v in field.validators if isinstance(v, kind))
            for name, kind in limits.items()
        }
        return {"type": ["integer", "null"] if field.null else "integer", **found}
    return {"type": "string", "maxLength": field.max_length or _LONGEST[field.name]}
