"""An undo: a former state of the target is put back, with its watermark, by a run of its own kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from connectors.base import Reporter, StopSignal
from connectors.counts import counted
from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition
from connectors.publishing import already_applied
from connectors.receipt import Receipt
from connectors.request import Crash, no_crash
from connectors.writing import Changes, Fence, Target

if TYPE_CHECKING:
    from connectors.postgres.destination import PostgresDestination

MAY_DIFFER = "What is masked, filtered or left out by now may be in it as it was, for all who may read the table."


@dataclass(frozen=True)
class UndoRequest:
    """What to put back: the state that the run `kept` put aside, provided that `expected` was the last to publish.

    `depth` is how many former states the pipeline keeps.
    """

    target: Target
    kept: UUID
    expected: UUID | None
    depth: int


def undo(
    destination: PostgresDestination,
    fence: Fence,
    request: UndoRequest,
    *,
    reporter: Reporter,
    stop: StopSignal,
    crash: Crash = no_crash,
) -> Receipt:
    """Put a former state back in one transaction, or nothing; the watermark goes back with it.

    Returns the former receipt if this run was already published. Raises ConnectorError: undo_overtaken, kept_gone,
    kept_altered, undo_columns, and what a replace may raise.
    """
    if fence.applied is not None:
        return Receipt.from_json(fence.applied.receipt)
    if fence.last_run != request.expected:
        raise ConnectorError(
            f"Another run was published to {request.target} since this undo was asked for.",
            hint="Look at what is there now, and ask again if it is still to go.",
            code="undo_overtaken",
        )
    crash("plan.after")
    with (
        already_applied(reporter) as earlier,
        destination.undo(fence, request.kept, depth=request.depth, reporter=reporter, stop=stop) as load,
    ):
        former = load.open()
        how = "takes its name back" if load.method == "rename" else "gets its rows back in place"
        made_by = f"run {former.made_by} left it" if former.made_by else "it was before its first run"
        reporter.log("info", f"{request.target} {how}: as {made_by}, {counted(load.rows)}.")
        redefined = former.fingerprint != fence.fingerprint
        if redefined:
            reporter.log("warning", f"It was written under another definition than what is there now. {MAY_DIFFER}")
        # Of a copy they were counted, of a run that wrote the whole table they are in its receipt.
        had = former.rows if former.is_copy else former.made_rows
        if load.written or had not in (None, load.rows):
            left = f" Its run left {had:,} rows." if had not in (None, load.rows) else ""
            wrote = f" {load.written:,} of its rows were written since." if load.written else ""
            reporter.log(
                "warning", f"{former.table} was changed by someone else, or by SQL after its load.{left}{wrote}"
            )
        reporter.publishing()
        load.wait_for_readers()
        crash("publish.before_lock")
        load.lock()
        crash("publish.after_lock")
        now = datetime.now(UTC)
        draft = Receipt(
            rows=load.rows,
            bytes=0,
            method="undo",
            target=request.target,
            disposition=WriteDisposition.REPLACE,
            token=fence.token,
            snapshot_time=now,
            published_at=now,  # the database's clock replaces it
            changes=load.changes or Changes(0),
            lock_wait_ms=round(load.lock_wait_ms, 1),
            lock_held_ms=round(load.lock_held_ms, 1),
            watermark_before=fence.watermark.value,
            watermark_after=former.watermark.value,
            kept=load.totals.to_json(),
            undo={
                "way": load.method,
                "rows": load.rows,
                "put_aside_by": str(former.run),
                "as_left_by": former.made_by and str(former.made_by),
                "put_aside_at": former.kept_at.isoformat(),
                "in_place_of": fence.last_run and str(fence.last_run),
                "redefined": redefined,
                "rows_before": had,
                "written_since": load.written,
            },
        )
        written = load.record(draft.to_json())
        crash("publish.before_commit")
        load.commit()
        held_ms = round(load.lock_held_ms, 1)
        crash("publish.after_commit")
        reporter.log("info", f"Put back {counted(load.rows)} of {request.target}; what was there is kept in its turn.")
        if fence.watermark != former.watermark:
            before, after = fence.watermark.value or "nothing", former.watermark.value or "nothing"
            reporter.log("info", f"The watermark was {before} and is {after} again.")
        return replace(Receipt.from_json(written), lock_held_ms=held_ms)
    return earlier[0]
