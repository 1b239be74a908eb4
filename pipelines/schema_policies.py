"""What a definition says of changes of its source's columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition
from connectors.schema_policy import SchemaPolicy
from pipelines import deletions
from pipelines.models import Pipeline

# What a run stops with that only a full refresh can follow.
INCOMPATIBLE = "schema_incompatible"


def said(pipeline: Pipeline) -> dict[str, str]:
    """Nothing where they are followed, as definitions from before it could be chosen."""
    return {} if pipeline.schema_policy == SchemaPolicy.EVOLVE else {"schema_policy": str(pipeline.schema_policy)}


def policy_of(definition: Mapping[str, Any]) -> SchemaPolicy:
    return SchemaPolicy(definition.get("schema_policy", SchemaPolicy.EVOLVE))


def begins_anew(definition: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Whether a load whose target cannot follow becomes a full refresh; it has to read every row to be one.

    A replace writes everything anew as it is. An append whose every run adds all that it reads is the sum of its runs,
    of which a full refresh would leave one.
    """
    disposition = definition["write_disposition"]
    return (
        policy_of(definition) is SchemaPolicy.REFRESH
        and (
            disposition == WriteDisposition.MERGE
            or (disposition == WriteDisposition.APPEND and definition["incremental"])
        )
        and deletions.reads_every_row(definition, options)
    )


def is_followed(pipeline: Pipeline, code: str) -> bool:
    """Whether what stands against a target as it is will be followed by writing it anew."""
    return code == INCOMPATIBLE and pipeline.schema_policy == SchemaPolicy.REFRESH


def objections(pipeline: Pipeline) -> Iterator[ConnectorError]:
    """Where a full refresh that nobody asked for would take away what it does not bring."""
    if pipeline.schema_policy != SchemaPolicy.REFRESH:
        return
    hint = "Let the pipeline follow: what its table cannot follow stops the run, and a person decides."
    if pipeline.write_disposition == WriteDisposition.HISTORY:
        message = "A full refresh deletes every version of a history: it is not started without being asked for."
        yield ConnectorError(message, hint=hint, code="refresh_forgets", field="schema_policy")
    elif pipeline.write_disposition == WriteDisposition.APPEND and not pipeline.incremental:
        message = "The table has the rows of every run: a full refresh would leave only those of one."
        yield ConnectorError(message, hint=hint, code="refresh_forgets", field="schema_policy")
    elif pipeline.write_disposition != WriteDisposition.REPLACE and deletions.is_of_times(pipeline.source_query):
        message = "The query gives other rows at every run: a full refresh would leave only those of one."
        yield ConnectorError(message, hint=hint, code="refresh_unseen", field="schema_policy")
