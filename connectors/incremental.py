"""What is new since the last run: what to read of it, how far the watermark goes, what is told of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from connectors import cursor, receipt
from connectors.base import Reporter
from connectors.counts import counted
from connectors.cursor import Span
from connectors.modes import Refresh
from connectors.reading import ReadPlan, ReadRequest
from connectors.writing import Fence, Watermark

if TYPE_CHECKING:
    from connectors.request import TransferRequest


def narrowed(request: TransferRequest, fence: Fence) -> ReadRequest:
    """What to read, given what the destination has."""
    rule = request.read.cursor
    if rule is None:
        return request.read
    watermark = "" if request.refresh is Refresh.FULL else fence.watermark.value
    return replace(request.read, cursor=replace(rule, watermark=watermark))


def span_of(request: TransferRequest) -> Span | None:
    """The past range that a backfill fills in."""
    return request.read.cursor.span if request.read.cursor else None


def watermark_after(fence: Fence, plan: ReadPlan, request: TransferRequest) -> Watermark:
    """The watermark that this plan's publish leaves; it never moves back but by a full refresh.

    A backfill leaves it alone.
    """
    interval = plan.interval
    if span_of(request) is not None or request.mode.replays:
        return fence.watermark
    if interval is None:
        return Watermark()
    before = Watermark() if request.refresh is Refresh.FULL else fence.watermark
    if not interval.high:
        return before
    is_behind = bool(before.value) and cursor.number_of(before.value, interval.type) > cursor.number_of(
        interval.high, interval.type
    )
    return Watermark(before.value, interval.below) if is_behind else Watermark(interval.high, interval.through)


def interval_facts(fence: Fence, plan: ReadPlan, request: TransferRequest) -> dict[str, Any] | None:
    """What was read of the cursor, for the receipt."""
    interval = plan.interval
    if interval is None:
        return None
    known = None if request.refresh is Refresh.FULL or not fence.watermark.value else fence.watermark.rows
    late = None if known is None or span_of(request) is not None else interval.below - known
    names = ("column", "type", "low", "high", "rows", "nulls", "left")
    return {**{name: getattr(interval, name) for name in names}, "late": late}


def tell_interval(fence: Fence, plan: ReadPlan, request: TransferRequest, reporter: Reporter) -> None:
    """Say what an incremental read takes and leaves."""
    facts, rule, span = interval_facts(fence, plan, request), request.read.cursor, span_of(request)
    if facts is not None and span is not None:
        told = f"{counted(facts['rows'])}, {span.column} from {span.low} on, below {span.high}"
        reporter.log("info", f"Filling in a past range: {told}. The watermark stays where it is.")
        return
    if facts is not None and rule is not None:
        for level, message in receipt.interval_lines(facts, reads_again=bool(rule.lookback)):
            reporter.log(level, message)
