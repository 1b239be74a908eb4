"""What a definition says of changes of its source's columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.schema_policy import SchemaPolicy
from pipelines.models import Pipeline


def said(pipeline: Pipeline) -> dict[str, str]:
    """Nothing where they are followed, as definitions from before it could be chosen."""
    return {} if pipeline.schema_policy == SchemaPolicy.EVOLVE else {"schema_policy": str(pipeline.schema_policy)}


def policy_of(definition: Mapping[str, Any]) -> SchemaPolicy:
    return SchemaPolicy(definition.get("schema_policy", SchemaPolicy.EVOLVE))
