"""A definition expects the columns that its source was last seen with: by a person, or by a run that took them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from connectors import column_rules
from connectors.column import Column, column_from_json, declared_to_json
from pipelines import services
from pipelines.models import Pipeline


def follow(pipeline: UUID, definition: Mapping[str, Any], taken: Sequence[Column]) -> None:
    """Expect the columns that a run of `definition` took from now on, as a new revision; in the caller's transaction.

    Where nobody has ever looked at the source, or somebody has since, nothing is changed.
    """
    row = Pipeline.objects.select_for_update(no_key=True).filter(pk=pipeline).first()
    if row is None or row.source_columns is None:
        return
    source = definition["source"]
    if (row.source_columns, row.source_table, row.source_query, str(row.source_id)) != (
        *(source["columns"], source["table"], source["query"]),
        source["connection"],
    ):
        return
    row.source_columns = _merged(row, taken)
    row.save(update_fields=["source_columns"])
    services.revise(row, None)


def _merged(row: Pipeline, taken: Sequence[Column]) -> list[dict[str, Any]]:
    """The columns as taken, new ones last; what a rule skips no run can see, so it stays as it was."""
    now = {column.name.lower(): declared_to_json(column) for column in taken}
    skip = {name.lower() for name in column_rules.skipped(column_rules.from_json(row.column_rules)[0])}
    merged = []
    for before in row.source_columns:
        here = now.pop(before["name"].lower(), None)
        if here is not None:
            same = declared_to_json(column_from_json({"columns": (), **before}))
            merged.append(before if {**same, "description": ""} == {**here, "description": ""} else here)
        elif before["name"].lower() in skip:
            merged.append(before)
    return [*merged, *now.values()]
