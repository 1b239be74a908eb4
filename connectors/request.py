"""What a run asks of the engine, and what planning it found out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from connectors.checks import Check
from connectors.column import Column
from connectors.column_rules import ColumnRule
from connectors.modes import NO_GUARD, Guard, Refresh, TextPolicy, WriteDisposition, WriteMode
from connectors.quarantine import NO_QUARANTINE, Beyond, QuarantineRule
from connectors.reading import ReadPlan, ReadRequest
from connectors.schema_policy import SchemaPolicy
from connectors.sql_around import SqlAround
from connectors.writing import Owner, Target

Crash = Callable[[str], None]
"""Called with the name of each point that tests end the process at."""


def no_crash(point: str) -> None:
    """What goes on after every point."""


@dataclass(frozen=True)
class TransferRequest:
    """What one run moves, and where to.

    `fingerprint` names the pipeline's definition and is kept with the target. `expected` are the
    columns as the definition knew them; `schema_policy` says what becomes of changes. `rules` say
    which columns are skipped, masked, or stored as another type or by another name than the usual one; `mask_key` is
    what HMACs are made with. With `read.cursor` only new rows are read; its watermark is taken from the destination.
    `checks` are made of what would be published; `former_rows` are the rows of earlier runs, the newest first, None
    where this one is not like them. `sql` is what people have run around the load. `supersedes` is a run published
    before, known to have ended, which nobody will ask about any more: it is forgotten with this publish.
    """

    owner: Owner
    read: ReadRequest
    target: Target
    mode: WriteMode
    fingerprint: str = ""
    adopt: bool = False
    expected: tuple[Column, ...] = ()
    rules: Mapping[str, ColumnRule] = field(default_factory=dict)
    schema_policy: SchemaPolicy = SchemaPolicy.EVOLVE
    mask_key: str = field(default="", repr=False)
    text_policy: TextPolicy = TextPolicy.FAIL
    quarantine: QuarantineRule = NO_QUARANTINE
    guard: Guard = NO_GUARD
    checks: tuple[Check, ...] = ()
    former_rows: tuple[int, ...] | None = ()
    refresh: Refresh = Refresh.NEW
    sql: SqlAround = field(default_factory=SqlAround)
    supersedes: UUID | None = None


@dataclass(frozen=True)
class Prepared:
    """What will be read, and the seconds that finding out took; `read` is the request as the destination narrows it."""

    read: ReadRequest
    plan: ReadPlan
    seconds: float


def write_mode(request: TransferRequest) -> WriteMode:
    """How to write: a full refresh puts new rows in the place of all that are there, and begins a history anew.

    What is checked, may have to wait for a person, or comes behind SQL, is staged.
    """
    waits = request.quarantine.is_on and request.quarantine.beyond is Beyond.HOLD
    sees_all = request.mode.sees_all and request.read.cursor is None and not request.mode.replays
    staged = request.mode.staged or waits or bool(request.checks or request.sql.before)
    mode = replace(request.mode, sees_all=sees_all, staged=staged)
    if request.refresh is not Refresh.FULL:
        return mode
    if mode.disposition is WriteDisposition.HISTORY:
        return replace(mode, anew=True)
    return replace(mode, disposition=WriteDisposition.REPLACE)
