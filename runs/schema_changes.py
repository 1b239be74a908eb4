"""How the source's columns of a pipeline changed, for its page."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.models import Pipeline
from runs.models import SchemaChange


def newest_of(pipeline: Pipeline, *, count: int = 10) -> list[SchemaChange]:
    """The newest first."""
    return list(pipeline.schema_changes.all()[:count])


def names_of(changes: Sequence[SchemaChange]) -> dict[str, str]:
    """The names in the target that are not the usual ones, by the source's in small letters, as they are now."""
    return {known.column.name.lower(): known.name for known in changes[0].renamed} if changes else {}
