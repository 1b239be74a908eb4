"""What is written, by whom, and where the destination stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Changes:
    """What a publish did to the target's rows.

    `duplicates` are rows of the source beyond one for each key; `stale` those older than what the
    target has. `deleted` were deleted, marked as such or, in a history, ended, `marked` of them marked; `revived` were
    so before, and are there again. Of what a history inserted, `versions` are of keys that it knew.
    """

    inserted: int
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    duplicates: int = 0
    stale: int = 0
    revived: int = 0
    versions: int = 0
    marked: int = 0


@dataclass(frozen=True)
class Target:
    """The table that readers see."""

    schema: str
    table: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True)
class Owner:
    """Who writes: the ids that the destination keeps in `head` and `applied`, and the claim's token."""

    installation: UUID
    pipeline: UUID
    run: UUID
    token: int


@dataclass(frozen=True)
class Watermark:
    """The highest cursor value committed at the destination, and how many rows the source had up to it."""

    value: str = ""
    rows: int | None = None


@dataclass(frozen=True)
class Applied:
    """A published run, as the destination remembers it."""

    run: UUID
    rows: int
    published_at: datetime
    receipt: Mapping[str, Any]


@dataclass(frozen=True)
class Fence:
    """The destination after a new owner raised its token: what this owner plans on.

    `applied` is this run's own publish, when a former attempt got that far; `leftovers` are staging tables that
    no load has a use for: of other runs that were overtaken, and what this run staged in a former attempt.
    `columns` is what the head has of the target's columns, as `connectors.drift` writes it; empty before it does.
    `kept` is how many former states of the target are kept for an undo.
    `has_quarantine` where rows of the target stand in its quarantine, decided on or not.
    """

    target: Target
    owner: Owner
    token: int
    last_run: UUID | None
    fingerprint: str
    applied: Applied | None
    watermark: Watermark = Watermark()
    leftovers: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    kept: int = 0
    has_quarantine: bool = False
