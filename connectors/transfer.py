"""The engine: plan, load, check, publish as separate calls; callbacks in, facts out."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from connectors import column_rules, drift, masks, receipt
from connectors.base import Reporter, Source, StopSignal
from connectors.checksums import source_sums
from connectors.columns import masking
from connectors.counting import Count, refuse_missing
from connectors.definition import refuse_redefined
from connectors.incremental import interval_facts, narrowed, tell_interval, watermark_after
from connectors.publishing import already_applied, kept_facts, publish, publish_staged, timed
from connectors.reading import ReadPlan, ReadRequest
from connectors.receipt import Receipt
from connectors.request import Crash, Prepared, TransferRequest, no_crash, write_mode
from connectors.set_watermark import set_watermark
from connectors.writing import Fence

if TYPE_CHECKING:
    from connectors.postgres.destination import PostgresDestination
    from connectors.postgres.load import Load

__all__ = ["TransferRequest", "direct", "prepare", "publish_staged", "set_watermark", "tell_plan"]


def prepare(
    source: Source,
    destination: PostgresDestination,
    fence: Fence,
    request: TransferRequest,
    *,
    parts: int = 0,
    stop: StopSignal,
) -> Prepared:
    """Plan the read; with `parts`, for about so many that are loaded on their own.

    What former attempts left staged is taken away first. Raises ConnectorError where the definition and what is
    there do not go together.
    """
    read = reading(fence, request)
    if fence.leftovers:
        destination.forget_staged(fence, fence.leftovers)
    began = time.monotonic()
    stop.check()
    plan = source.plan(read, max_parts=parts, spread=True, stop=stop) if parts else source.plan(read, stop=stop)
    columns = masks.with_key(drift.followed(fence, request, plan.columns), request.mask_key)
    plan = replace(plan, columns=columns)
    return Prepared(read, plan, time.monotonic() - began)


def reading(fence: Fence, request: TransferRequest) -> ReadRequest:
    """What is to be read, as the destination narrows it; raises ConnectorError if that was defined otherwise."""
    refuse_redefined(fence, request)
    skip, only = column_rules.skipped(request.rules), drift.reading_only(fence, request)
    return replace(narrowed(request, fence), skip=skip, only=only)


def direct(
    source: Source,
    destination: PostgresDestination,
    fence: Fence,
    request: TransferRequest,
    *,
    prepared: Prepared | None = None,
    reporter: Reporter,
    stop: StopSignal,
    crash: Crash = no_crash,
) -> Receipt:
    """Move everything in one transaction of the destination, or nothing.

    Returns the former receipt if this run was already published. Raises ConnectorError, by type
    worth another try or not; Held where a guard wants a person to decide, with the rows kept in their
    staging table; OutcomeUnknown if only a raised fence can tell.
    """
    if fence.applied is not None:
        return Receipt.from_json(fence.applied.receipt)
    prepared = prepared or prepare(source, destination, fence, request, stop=stop)
    read, plan, seconds = prepared.read, prepared.plan, {"plan": prepared.seconds}
    tell_plan(fence, request, prepared, reporter)
    crash("plan.after")
    mode = write_mode(request)
    with (
        already_applied(reporter) as earlier,
        destination.load(fence, plan.columns, mode, request, reporter=reporter, stop=stop) as load,
    ):
        load.ask_source = source_sums(source, request, plan, stop)
        draft = _fill(load, source, fence, request, read, plan, seconds, reporter, stop, crash)
        after = watermark_after(fence, plan, request)
        facts = partial(kept_facts, plan, mode, draft, request, after)
        return publish(load, draft, request.fingerprint, after, seconds, reporter, crash, facts=facts)
    return earlier[0]


def tell_plan(fence: Fence, request: TransferRequest, prepared: Prepared, reporter: Reporter) -> None:
    """Say what will be read."""
    plan = prepared.plan
    reporter.planned(plan)
    for warning in plan.warnings:
        reporter.log("warning", warning)
    if prepared.read.row_filter:
        reporter.log("info", f"Only rows that meet the filter are read: {prepared.read.row_filter}")
    if request.rules:
        reporter.log("info", column_rules.in_words(request.rules, plan.columns))
    drift.tell(fence, request, plan, reporter)
    tell_interval(fence, plan, request, reporter)


def _fill(
    load: Load,
    source: Source,
    fence: Fence,
    request: TransferRequest,
    read: ReadRequest,
    plan: ReadPlan,
    seconds: dict[str, float],
    reporter: Reporter,
    stop: StopSignal,
    crash: Crash,
) -> Receipt:
    """Bring the rows to where they can be published from, and see that all of them came."""
    rows = size = 0

    def on_batch(batch_rows: int, batch_bytes: int) -> None:
        nonlocal rows, size
        rows, size = rows + batch_rows, size + batch_bytes
        reporter.progress(rows=rows, bytes=size)
        crash("load.middle")

    with timed(seconds, "load"), Count(source, read, plan, stop) as count:
        load.open()
        reporter.log("info", receipt.opening(load.method, request.target))
        crash("load.begin")
        read_part = masking.reader(source, plan.columns, request.mask_key)
        readers = [partial(read_part, part, stop=stop) for part in plan.parts]
        copied = load.copy(readers, on_batch)
        reporter.progress(rows=copied.read, bytes=copied.bytes)
        for column, values in copied.repaired.items():
            reporter.log("warning", receipt.repaired(column, values, request.text_policy))
        crash("load.end")
        source_rows = count.result(reporter, copied.read)
        refuse_missing(request.target, copied.read, source_rows)
        rows = load.settle(copied.rows)
    return Receipt(
        rows=rows,
        bytes=copied.bytes,
        method=load.method,
        target=request.target,
        disposition=request.mode.disposition,
        token=fence.token,
        snapshot_time=plan.snapshot_time,
        published_at=plan.snapshot_time,  # the database's clock replaces it
        changes=load.changes,
        repaired=copied.repaired,
        quarantined=load.quarantine.reasons,
        replayed=len(request.mode.replays),
        source=plan.facts,
        source_rows=source_rows,
        interval=interval_facts(fence, plan, request),
        watermark_before=fence.watermark.value,
        watermark_after=watermark_after(fence, plan, request).value,
        drift=drift.told(fence, request, plan),
    )
