"""A run was published whose source had other columns than the one before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.target_columns import Memory
from pipelines import drift as definitions
from runs.models import SchemaChange
from runs.services.ownership import Claim

KEPT = 50


def note(claimed: Claim, receipt: Mapping[str, Any]) -> None:
    """Write down the changes, and let the definition follow; in the transaction that ends the run."""
    # The pipeline's row first, as whoever saves it locks it before its runs.
    memory = Memory.from_json(receipt["columns"])
    taken = [known.column for known in memory.columns if not known.is_gone]
    definitions.follow(claimed.pipeline, claimed.definition, taken)
    SchemaChange.objects.create(
        pipeline_id=claimed.pipeline, run_id=claimed.run, changes=receipt["drift"], columns=receipt["columns"]
    )
    mine = SchemaChange.objects.filter(pipeline=claimed.pipeline)
    SchemaChange.objects.filter(pk__in=list(mine.values_list("pk", flat=True)[KEPT:])).delete()
