"""What is kept of a target for an undo, as pages show it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from connectors.writing import Target


@dataclass(frozen=True)
class FormerState:
    """A former state of `target`, which `run` put aside as `made_by` left it (None: it was there before).

    It stands in `table`, unless somebody took it away (not `is_there`), with `bytes` on disk and about `rows` rows.
    `last_run` is who published last: an undo is asked for on that ground. What is there now is of another definition
    if `is_redefined`: it may mask, filter or leave out what this state has.
    """

    run: UUID
    target: Target
    table: str
    kept_at: datetime
    made_by: UUID | None
    watermark: str
    is_copy: bool
    is_there: bool
    rows: int | None
    bytes: int
    last_run: UUID | None
    is_redefined: bool = False
