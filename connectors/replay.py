"""Quarantined rows as a source: a replay is a load of them, through the same engine as any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from connectors import column_rules, drift
from connectors.base import Reporter, Source, StepResult, StopSignal
from connectors.checks import CheckKind
from connectors.column import Column
from connectors.counts import counted
from connectors.errors import ConnectorError
from connectors.masks import is_masked
from connectors.modes import Refresh, WriteDisposition
from connectors.quarantine import masks_in_words
from connectors.reading import Description, Part, Preview, ReadPlan, ReadRequest, TableInfo
from connectors.request import TransferRequest
from connectors.sides import Side, Survey
from connectors.target_columns import Memory
from connectors.writing import Fence

if TYPE_CHECKING:
    import pyarrow as pa

# In one run; what is left waits for the next.
MOST_ROWS = 100_000
_BATCH = 1_000
_NAME = "quarantine"


@dataclass(frozen=True)
class QuarantinedRow:
    """A row by its id, as it came."""

    id: str
    raw: str
    masks: str = ""


class ReplaySource(Source):
    """Those of the `rows` that can be read as `columns`; `left` has the reason of each of the others.

    `loaded` are the same columns as the engine makes them: what was masked when it was put aside is a text, and goes
    nowhere once the masks are others. `skip` are names of columns that nobody wants any more.
    """

    is_masked = True

    def __init__(
        self,
        rows: Sequence[QuarantinedRow],
        columns: Sequence[Column],
        loaded: Sequence[Column],
        skip: Sequence[str] = (),
    ) -> None:
        self.columns = tuple(columns)
        self._skip = tuple(skip)
        self.ids: tuple[str, ...] = ()
        self.left: Counter[str] = Counter()
        hidden = {column.name.lower(): column for column in loaded if is_masked(column)}
        self._as_kept = tuple(hidden.get(column.name.lower(), column) for column in columns)
        self._batches: list[pa.RecordBatch] = []
        masks = masks_in_words(loaded)
        fitting = [row for row in rows if row.masks == masks]
        if len(fitting) < len(rows):
            self.left["They were put aside under other masks."] = len(rows) - len(fitting)
        for start in range(0, len(fitting), _BATCH):
            self._add(fitting[start : start + _BATCH])

    def _add(self, rows: Sequence[QuarantinedRow]) -> None:
        from connectors.columns.raw import Unreadable, read_texts  # brings pyarrow

        try:
            self._batches.append(read_texts([row.raw for row in rows], self._as_kept, self._skip))
            self.ids += tuple(row.id for row in rows)
        except Unreadable as error:
            if len(rows) == 1:
                self.left[f"Column {error.column} {error.why}."] += 1
                return
            half = len(rows) // 2
            self._add(rows[:half])
            self._add(rows[half:])

    def plan(
        self, request: ReadRequest, *, max_parts: int = 10, spread: bool = False, stop: StopSignal | None = None
    ) -> ReadPlan:
        rows = sum(batch.num_rows for batch in self._batches)
        columns = column_rules.without(self.columns, request.skip)
        return ReadPlan(columns, (Part(_NAME),), datetime.now(UTC), rows, facts={"from": _NAME}, source_rows=rows)

    def resume(self, plan: ReadPlan) -> None:
        return None

    def open_part(self, part: Part, *, stop: StopSignal) -> Part | None:
        return part

    def read(self, part: Part, *, start: int = 0, stop: StopSignal) -> Iterator[pa.RecordBatch]:
        yield from self._batches

    def count(self, request: ReadRequest, plan: ReadPlan, *, stop: StopSignal) -> int | None:
        return plan.source_rows

    def close(self) -> None:
        self._batches.clear()

    def describe(self, request: ReadRequest) -> Description:
        return Description(self.columns)

    # Nobody looks at it or compares with it: it is made of what stands at the destination.

    def check(self) -> Iterator[StepResult]:
        raise NotImplementedError

    def datasets(self) -> list[str]:
        raise NotImplementedError

    def tables(self, dataset: str) -> list[TableInfo]:
        raise NotImplementedError

    def preview(self, *asked: Any, **more: Any) -> Preview:
        raise NotImplementedError

    def survey(self, *asked: Any, **more: Any) -> Survey:
        raise NotImplementedError

    def comparing(self, *asked: Any, **more: Any) -> Side:
        raise NotImplementedError


def columns_of(fence: Fence, source: Source, read: ReadRequest) -> tuple[Column, ...]:
    """The source's columns as the target knows them; asked for anew where it does not."""
    known = Memory.from_json(fence.columns).columns
    if known:
        return tuple(each.column for each in known if not each.is_gone)
    return source.describe(read).columns


def loaded_columns(fence: Fence, request: TransferRequest, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """The columns as rules make them now."""
    return tuple(drift.followed(fence, replace(request, refresh=Refresh.KEEP), columns))


def refuse_redefined(fence: Fence, request: TransferRequest) -> None:
    """Raise ConnectorError where a run has yet to write the table by the definition of today."""
    if fence.fingerprint != request.fingerprint:
        raise ConnectorError(
            f"What goes into {fence.target} was defined differently when its rows were written.",
            hint="Let a run write that table by the new definition first, then replay what is still in quarantine."
            " If none writes it any more, as under a name with values in it, discard these rows.",
            code="definition_changed",
        )


def request_of(request: TransferRequest, fence: Fence, source: ReplaySource) -> TransferRequest:
    """What the engine is asked for: a merge goes on merging, everything else adds the rows to those that are there.

    Whoever chose the rows has decided: no limit holds, and checks of the whole table say nothing of a few rows.
    """
    disposition = request.mode.disposition
    if disposition is WriteDisposition.REPLACE:
        disposition = WriteDisposition.APPEND
    mode = replace(
        request.mode,
        disposition=disposition,
        key=() if disposition is WriteDisposition.APPEND else request.mode.key,
        cursor="" if disposition is WriteDisposition.APPEND else request.mode.cursor,
        replays=source.ids,
        span=None,
    )
    checks = tuple(check for check in request.checks if check.is_row_level or check.kind is CheckKind.UNIQUE)
    # A replace takes its definition as it is, whatever wrote the table; what only adds has to agree with it.
    kept = Refresh.KEEP if request.mode.disposition is WriteDisposition.REPLACE else Refresh.NEW
    rule = replace(request.quarantine, is_on=True).without_limits()
    # No source is asked, so there is nothing to filter.
    read = replace(request.read, row_filter="")
    return replace(request, mode=mode, read=read, checks=checks, quarantine=rule, refresh=kept, adopt=False)


def tell(source: ReplaySource, reporter: Reporter, *, chosen: int, later: int = 0) -> None:
    """Say what is replayed, and what stays; raises ConnectorError, code nothing_quarantined, where nothing is.

    `later` came into quarantine after a person had looked.
    """
    if later:
        told = f"{counted(later)} like these came since they were looked at"
        reporter.log("warning", f"{told}: left in quarantine.")
    for why, rows in sorted(source.left.items()):
        reporter.log("warning", f"{why} {counted(rows)} {'stays' if rows == 1 else 'stay'} in quarantine.")
    if not source.ids:
        raise ConnectorError(
            "There is nothing to replay: none of these rows is open and can be read.",
            hint="Somebody else may have decided on them, or a later run has made them old.",
            code="nothing_quarantined",
        )
    reporter.log("info", f"Replaying {counted(len(source.ids))} of the quarantine.")
    if chosen >= MOST_ROWS:
        reporter.log("warning", f"No more than {MOST_ROWS:,} rows are replayed at once: the others stay.")
