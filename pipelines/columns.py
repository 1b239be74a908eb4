"""What becomes of a pipeline's columns, as pages, the form and the API tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from connectors.column import column_from_json
from connectors.modes import TextPolicy
from connectors.preflight import Preflight, look_ahead
from pipelines import lookups
from pipelines.given import sample_parameters
from pipelines.models import Pipeline


def known_columns(pipeline: Pipeline, names: Mapping[str, str] = MappingProxyType({})) -> Preflight | None:
    """By the source's columns as they were when somebody last looked; None if nobody did.

    `names` are those of the target, by the source's in small letters, as far as they are not the usual ones.
    """
    if pipeline.source_columns is None:
        return None
    known = [{**each, "target_name": names.get(each["name"].lower(), "")} for each in pipeline.source_columns]
    return preflight(known, pipeline.column_rules, pipeline.text_policy)


def columns_now(pipeline: Pipeline) -> Preflight:
    """By the source's columns as they are; raises LookupFailed."""
    table, query = pipeline.source_table, pipeline.source_query
    parameters = sample_parameters(pipeline)
    found = lookups.source_columns(pipeline.source, table=table, query=query, parameters=parameters)
    return preflight(found, pipeline.column_rules, pipeline.text_policy)


def preflight(columns: Sequence[dict[str, Any]], rules: Any, policy: str) -> Preflight:
    """By columns in the form of JSON."""
    return look_ahead([column_from_json(column) for column in columns], rules, TextPolicy(policy))
