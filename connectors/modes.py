"""How a run writes: what becomes of rows that are there, of characters, of what a guard holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from connectors.cursor import Span
from connectors.target_options import TargetOptions

if TYPE_CHECKING:
    pass


class WriteDisposition(StrEnum):
    """What a run does to rows that the target already has."""

    APPEND = "append"
    REPLACE = "replace"
    MERGE = "merge"
    HISTORY = "history"


class Deletes(StrEnum):
    """What becomes of rows of the target that a merge no longer finds in its source."""

    KEEP = "keep"
    SOFT = "soft"
    HARD = "hard"


class TextPolicy(StrEnum):
    """What becomes of characters that PostgreSQL cannot store."""

    FAIL = "fail"
    STRIP = "strip"
    REPLACE = "replace"


@dataclass(frozen=True)
class Guard:
    """What a publish that makes rows vanish may do by itself; beyond that it waits for a person.

    `shrink_percent` is the largest share of the target's rows that may go; None lets any share but all.
    """

    zero_rows: bool = True
    shrink_percent: int | None = 50


NO_GUARD = Guard(zero_rows=False, shrink_percent=None)


class Refresh(StrEnum):
    """How a run takes a target that was written under another definition, or anew on request."""

    NEW = "new"
    KEEP = "keep"
    FULL = "full"


@dataclass(frozen=True)
class WriteMode:
    """A disposition with what it needs: `key` identifies a row, the newest `cursor` wins; columns of the source.

    `options` say what form the target gets. An append with a `span` takes the place of the target's rows in it.
    With `staged`, rows go into a staging table first even where an append could write straight into the target.
    Only a run that `sees_all` rows of the source can tell which are gone: `deletes` says what becomes of those. A
    history begins `anew` in a full refresh.
    `undo_depth` is how many former states of the target are kept where it is replaced.
    `replays` are the ids of quarantined rows that this run takes in.
    """

    disposition: WriteDisposition
    key: tuple[str, ...] = ()
    cursor: str = ""
    options: TargetOptions = field(default_factory=TargetOptions)
    span: Span | None = None
    staged: bool = False
    deletes: Deletes = Deletes.KEEP
    sees_all: bool = False
    anew: bool = False
    undo_depth: int = 0
    replays: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The mode as JSON holds it."""
        return {**asdict(self), "disposition": self.disposition.value, "options": self.options.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> WriteMode:
        """The mode that `to_json` wrote down, now or before it had all its fields."""
        span = values.get("span")
        return cls(
            **{
                **values,
                "disposition": WriteDisposition(values["disposition"]),
                "key": tuple(values["key"]),
                "replays": tuple(values.get("replays", ())),
                "options": TargetOptions.from_json(values.get("options", {})),
                "span": Span(**span) if span else None,
                "deletes": Deletes(values.get("deletes", Deletes.KEEP)),
            }
        )
