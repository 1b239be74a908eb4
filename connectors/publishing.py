"""The end of a load: what is staged becomes visible in one transaction, or is kept for a person to decide."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from connectors import mending, receipt
from connectors.base import Reporter, StopSignal
from connectors.column import column_from_json
from connectors.errors import ConnectorError, Held, NewGeneration
from connectors.modes import NO_GUARD, WriteMode
from connectors.postgres.auditing import CHECK_FAILED, refuse_bad
from connectors.postgres.control import AlreadyApplied
from connectors.quarantine import QUARANTINE_LIMIT, in_words
from connectors.reading import ReadPlan
from connectors.receipt import Receipt
from connectors.request import Crash, TransferRequest, no_crash
from connectors.sql_around import AFTER
from connectors.writing import Fence, Watermark

if TYPE_CHECKING:
    from connectors.postgres.destination import PostgresDestination
    from connectors.postgres.load import Load


def publish_staged(
    destination: PostgresDestination,
    fence: Fence,
    request: TransferRequest,
    *,
    approved: str = "",
    reporter: Reporter,
    stop: StopSignal,
    ends: mending.Ends = mending.ends_at_once,
    crash: Crash = no_crash,
) -> Receipt:
    """Publish what this run staged before a person approved it; nothing is read from the source.

    What decided which rows those are, and how they become visible, was kept with them; `request` says the rest.
    `approved` is the code that it was held for when it was approved, empty for the one that was kept with the rows:
    an attempt that died may have held them again, of which nobody was told.

    Raises ConnectorError: overtaken, staging_gone, and what a publish may raise.
    """
    if fence.applied is not None:
        return Receipt.from_json(fence.applied.receipt)
    plan = destination.staged(fence)
    if plan is None:
        raise ConnectorError(
            f"No rows are staged for {fence.target}.", hint="Run the pipeline again.", code="staging_gone"
        )
    facts = plan.facts
    draft = Receipt.from_json(facts["draft"])
    columns = tuple(map(column_from_json, facts["columns"]))
    mode = WriteMode.from_json(facts["mode"])
    # Who approved what was held for one reason was told of no other: those have yet to look.
    held_by = {approved or facts.get("held_by", ""), *facts.get("allowed", ())} - {
        QUARANTINE_LIMIT,
        *mending.NO_DECISION,
    }
    # Held before anybody judged how many rows were put aside, it has that before it.
    is_untold = facts.get("held_by") == QUARANTINE_LIMIT and approved not in ("", QUARANTINE_LIMIT)
    is_judged = facts.get("judged", True) and not is_untold
    left = replace(request, quarantine=request.quarantine.without_limits()) if is_judged else request
    if held_by:
        left = replace(left, checks=(), guard=request.guard if held_by == {CHECK_FAILED} else NO_GUARD)
    seconds = dict(draft.seconds)
    with (
        already_applied(reporter) as earlier,
        destination.load(fence, columns, mode, left, reporter=reporter, stop=stop) as load,
    ):
        load.reopen(plan, draft.rows, ends=ends)
        try:
            load.quarantine.look_again(plan.generation, sum(draft.quarantined.values()))
        except NewGeneration as gone:  # what was approved is not to be read anew
            raise ConnectorError(gone.message, hint="Run the pipeline again.", code="staging_gone") from gone
        rows = load.settle(draft.rows)
        draft = replace(draft, token=fence.token, rows=rows, quarantined=load.quarantine.reasons)
        return publish(
            *(load, draft, facts["fingerprint"], Watermark(**facts["watermark"]), seconds, reporter, crash),
            facts=lambda: {"allowed": sorted(held_by), "judged": is_judged or load.against is None},
            ends=ends,
        )
    return earlier[0]


def publish(
    load: Load,
    draft: Receipt,
    fingerprint: str,
    watermark: Watermark,
    seconds: dict[str, float],
    reporter: Reporter,
    crash: Crash,
    *,
    facts: Callable[[], Mapping[str, Any]] | None = None,
    ends: mending.Ends = mending.ends_at_once,
) -> Receipt:
    """Make the staged rows visible, and commit; with `facts` they are kept instead where a guard refuses.

    So are those of earlier transactions where what `ends` the run can be mended.
    """
    with timed(seconds, "publish"):
        reporter.publishing()
        if load.quarantine.rows:
            reporter.log("warning", in_words(load.quarantine.reasons))
        try:
            if load.against is not None:
                raise load.against
            load.quarantine.judge(draft.rows)
            results = load.audit(draft.rows)
            draft = replace(draft, checks=draft.checks or tuple(result.to_json() for result in results))
            crash("publish.checked")
            refuse_bad(results)
            load.wait_for_readers()
            crash("publish.before_lock")
            with load.explained():
                load.lock(draft.rows, draft.snapshot_time)
                crash("publish.after_lock")
                load.around.run(AFTER)
                load.see_constraints()
        except ConnectorError as error:
            held = _as_held(error, load, ends)
            if held is None:
                raise
            held.staged = draft.rows, draft.bytes
            if facts is not None:
                is_judged = load.against is None
                load.hold({"judged": is_judged, **facts(), "draft": draft.to_json(), "held_by": held.code})
                crash("publish.held")
            raise held from error.__cause__
        draft = replace(
            draft,
            method=load.method,
            changes=load.changes,
            columns=load.evolution.remembered(load.method, draft.drift).to_json() if draft.drift else None,
            kept=load.kept,
            sql=load.around.facts,
            lock_wait_ms=round(load.lock_wait_ms, 1),
            lock_held_ms=round(load.lock_held_ms, 1),
            seconds={name: round(value, 4) for name, value in seconds.items()},
        )
        written = load.record(draft.rows, draft.to_json(), fingerprint, watermark)
        crash("publish.before_commit")
        load.commit()
        held_ms = round(load.lock_held_ms, 1)
        crash("publish.after_commit")
    done = replace(Receipt.from_json(written), lock_held_ms=held_ms, seconds=seconds)
    reporter.log("info", receipt.summary(done))
    waited = receipt.lock_line(done)
    if waited:
        reporter.log("info", waited)
    return done


def _as_held(error: ConnectorError, load: Load, ends: mending.Ends) -> Held | None:
    """What leaves it to a person: a guard, or what they can mend, with rows that were staged maybe for hours kept."""
    if isinstance(error, Held):
        return error
    hint = mending.hint(error, is_opening=load.against is not None)
    if not hint or not load.can_go_back or not ends(error):
        return None
    return Held(error.message, hint=hint, code=error.code, field=error.field)


def kept_facts(
    plan: ReadPlan, mode: WriteMode, draft: Receipt, request: TransferRequest, watermark: Watermark
) -> dict[str, Any]:
    """All that publishing the staged rows later has to know."""
    return {
        "columns": [asdict(column) for column in plan.columns],
        "mode": mode.to_json(),
        "draft": draft.to_json(),
        "fingerprint": request.fingerprint,
        "watermark": asdict(watermark),
    }


@contextmanager
def already_applied(reporter: Reporter) -> Iterator[list[Receipt]]:
    """Take a former attempt's receipt for this one's, where the publish finds that it came late."""
    earlier: list[Receipt] = []
    try:
        yield earlier
    except AlreadyApplied as done:
        reporter.log("info", "A former attempt has published this run already.")
        earlier.append(Receipt.from_json(done.receipt))


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        seconds[phase] = time.monotonic() - began
