"""What stands against deletions and histories in a target, as the catalogs tell before a row is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.modes import Deletes, WriteDisposition, WriteMode
from connectors.postgres.client import Session
from connectors.postgres.publish import in_place_rules, marks
from connectors.postgres.publish.existing import Existing
from connectors.writing import Target


def refuse(
    session: Session,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    stays: Existing | None,
    *,
    besides: Collection[str] = (),
) -> ConnectorError | None:
    """Why `mode` cannot delete rows or keep their history; `stays` is the table that keeps its place, if one does."""
    refusal = marks.refuse_names(columns, mode)
    if refusal is not None or stays is None:
        return refusal
    refusal = marks.refuse_staying(session, target, stays, mode)
    if refusal is None and mode.disposition is WriteDisposition.MERGE and mode.deletes is Deletes.HARD:
        # A delete may reach other tables, as that of a replace in place.
        refusal = in_place_rules.refuse(session, target, columns, (), besides=besides)
    return refusal
