"""Parameters as BigQuery's client sends them along with a query."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from google.cloud import bigquery

from connectors.parameters import Parameter, used_in


def of_query(sql: str, parameters: Sequence[Parameter]) -> list[Any]:
    """What has to go with `sql`: only what it names, as BigQuery refuses a type that it cannot tell is of use."""
    return [_sent(each) for each in used_in(sql, parameters)]


def _sent(parameter: Parameter) -> Any:
    name, type_, value = parameter.name, parameter.type, parameter.value
    if parameter.repeated:
        return bigquery.ArrayQueryParameter(name, type_, [_value(each, type_) for each in value or ()])
    return bigquery.ScalarQueryParameter(name, type_, _value(value, type_))


def _value(value: Any, type_: str) -> Any:
    return Decimal(value) if type_ == "NUMERIC" and value is not None else value


def told(parameters: Sequence[Parameter]) -> str:
    """The values as one text, for a job's name: another value makes another job."""
    return json.dumps([each.to_json() for each in parameters], sort_keys=True) if parameters else ""
