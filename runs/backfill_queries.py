"""How a backfill stands: its slices as cells, counts, and what is left at the pace so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from uuid import UUID

from django.db import connection

from connectors.counts import counted
from runs.models import Backfill, BackfillSlice, BackfillState, SliceStatus
from runs.states import RunStatus

_CSS = {
    SliceStatus.WAITING: "part",
    SliceStatus.RUNNING: "part is-r f4",
    SliceStatus.SUCCEEDED: "part is-d f8",
    SliceStatus.FAILED: "part is-f f8",
    SliceStatus.CANCELLED: "part is-a",
}


@dataclass(frozen=True)
class Cell:
    """A slice: its range and state in words, its run if it had one."""

    slice: BackfillSlice
    css: str
    title: str
    run: object | None


@dataclass(frozen=True)
class Standing:
    """`words` say how many slices are in which state; `seconds_left` goes by those that succeeded."""

    cells: Sequence[Cell]
    counts: dict[str, int]
    words: str
    rows: int
    seconds_left: float | None
    may_retry: bool
    failed: Sequence[Cell]


@dataclass(frozen=True)
class Tally:
    """The same in numbers, without the slices."""

    counts: dict[str, int]
    rows: int = 0
    seconds_left: float | None = None


def tallies_of(backfills: Iterable[Backfill]) -> dict[UUID, Tally]:
    """How many backfills stand, by one query."""
    known = {backfill.pk: backfill for backfill in backfills}
    counts = {pk: dict.fromkeys(SliceStatus.values, 0) for pk in known}
    done: dict[UUID, tuple[int, float | None]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT backfill_id, status, count(*), coalesce(sum(rows), 0),
                percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds)
            FROM runs_backfillslice WHERE backfill_id = ANY(%s) GROUP BY backfill_id, status
            """,
            [list(known)],
        )
        for pk, status, count, rows, seconds in cursor.fetchall():
            counts[pk][status] = count
            if status == SliceStatus.SUCCEEDED:
                done[pk] = (int(rows), seconds)
    found = {}
    for pk, each in counts.items():
        rows, took = done.get(pk, (0, None))
        left = each[SliceStatus.WAITING] + each[SliceStatus.RUNNING]
        goes_on = took is not None and left and known[pk].state == BackfillState.RUNNING
        found[pk] = Tally(each, rows, took * left if took is not None and goes_on else None)
    return found


def standing_of(backfill: Backfill) -> Standing:
    slices = list(backfill.slices.select_related("run").defer("run__receipt").order_by("number"))
    cells = [_cell(each) for each in slices]
    counts = Counter(each.status for each in slices)
    named = [(label, counts[status]) for status, label in SliceStatus.choices if counts[status]]
    took = [each.seconds for each in slices if each.status == SliceStatus.SUCCEEDED and each.seconds is not None]
    left = counts[SliceStatus.WAITING] + counts[SliceStatus.RUNNING]
    failed = counts[SliceStatus.FAILED] + counts[SliceStatus.CANCELLED]
    return Standing(
        cells=cells,
        counts={status: counts[status] for status in SliceStatus.values},
        words=f"{counted(len(slices), 'slice')}: " + ", ".join(f"{count:,} {label.lower()}" for label, count in named),
        rows=sum(each.rows or 0 for each in slices if each.status == SliceStatus.SUCCEEDED),
        seconds_left=median(took) * left if took and left and backfill.state == BackfillState.RUNNING else None,
        may_retry=bool(failed) or (backfill.state == BackfillState.CANCELLED and bool(counts[SliceStatus.WAITING])),
        failed=[cell for cell in cells if cell.slice.status == SliceStatus.FAILED][:20],
    )


def _cell(each: BackfillSlice) -> Cell:
    status = SliceStatus(each.status).label
    run = each.run
    if each.status == SliceStatus.RUNNING and run is not None:
        status = RunStatus(run.status).label
    told = [f"{each.low} to {each.high}: {status.lower()}"]
    if each.rows is not None and each.status == SliceStatus.SUCCEEDED:
        told.append(counted(each.rows))
    if each.error_code:
        told.append(each.error_code)
    if each.tries > 1:
        told.append(f"try {each.tries}")
    return Cell(each, _CSS[SliceStatus(each.status)], ", ".join(told), run)
