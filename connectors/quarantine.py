"""Rows that cannot be stored, or fail a check of their own: what a pipeline says becomes of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from connectors.column import Column, Mask
from connectors.counts import counted
from connectors.errors import ConnectorError, Held

KEEP_DAYS = 30
QUARANTINE_LIMIT = "quarantine_limit"
_HINT = "Nothing was published. Correct the source or the columns' rules, or allow more."
REASONS_SAID = 5


class Beyond(StrEnum):
    """What becomes of a run that would put more rows into the quarantine than it may."""

    FAIL = "fail"
    HOLD = "hold"


class RowState(StrEnum):
    """Where a quarantined row stands; `staged` until its run is published, and shown from then on."""

    STAGED = "staged"
    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"
    SUPERSEDED = "superseded"


@dataclass(frozen=True)
class QuarantineRule:
    """Whether rows may be put aside, how many of a run's at most, and for how long they are kept.

    `most_rows` and `most_percent`, of the rows read: None is no limit.
    """

    is_on: bool = False
    most_rows: int | None = None
    most_percent: int | None = None
    beyond: Beyond = Beyond.FAIL
    keep_days: int = KEEP_DAYS

    def without_limits(self) -> QuarantineRule:
        """For rows of which a person has decided already."""
        return replace(self, most_rows=None, most_percent=None)

    @property
    def ends_early(self) -> bool:
        """Whether a load that has put aside too many rows need not go on."""
        return self.most_rows is not None and self.beyond is Beyond.FAIL

    def refuse_more(self, target: object, quarantined: int) -> None:
        """Raise ConnectorError where a load that is under way has put aside more rows than it may."""
        if self.ends_early and self.most_rows is not None and quarantined > self.most_rows:
            message = f"More than {counted(self.most_rows)} for {target} would go into quarantine, which is the limit."
            raise ConnectorError(message, hint=_HINT, code="quarantine_limit", field="quarantine_rows")

    def judge(self, target: object, quarantined: int, read: int) -> None:
        """Raise ConnectorError, or Held, code quarantine_limit, where these are more rows than may be put aside."""
        is_over = self.most_rows is not None and quarantined > self.most_rows
        share = self.most_percent is not None and quarantined * 100 > self.most_percent * read
        if not (is_over or share):
            return
        limit = counted(self.most_rows or 0) if is_over else f"{self.most_percent} % of the rows read"
        message = f"{counted(quarantined)} of {read:,} for {target} would go into quarantine, at most {limit} may."
        if self.beyond is Beyond.HOLD:
            hint = "Look at why, then approve what is staged, or discard it."
            raise Held(message, hint=hint, code="quarantine_limit")
        raise ConnectorError(message, hint=_HINT, code="quarantine_limit", field="quarantine_rows")


NO_QUARANTINE = QuarantineRule()


def masks_in_words(columns: Iterable[Column]) -> str:
    """What masks a row was put aside with; empty where none was: it is replayed under the same, or not at all."""
    masks = {path: [str(mask.kind), mask.keep, mask.key_id] for path, mask in _masks(columns)}
    return json.dumps(masks, sort_keys=True) if masks else ""


def _masks(columns: Iterable[Column], above: str = "") -> Iterator[tuple[str, Mask]]:
    """The masks of columns, and of fields in them, by their paths."""
    for column in columns:
        path = f"{above}{column.name.lower()}"
        if column.mask is not None:
            yield path, column.mask
        yield from _masks(column.columns, f"{path}.")


def in_words(reasons: Mapping[str, int]) -> str:
    """How many rows of a run were put aside, and why, for its log: `reasons` are counts by column and code."""
    total = sum(reasons.values())
    most = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    told = ", ".join(f"{reason} ({rows:,})" for reason, rows in most[:REASONS_SAID])
    more = len(most) - REASONS_SAID
    return f"{counted(total)} went into quarantine: {told}{f' and {more} more reasons' if more > 0 else ''}."
