"""The engine: plan, load, check, publish as separate calls; callbacks in, facts out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from connectors import column_rules, cursor, receipt
from connectors.base import (
    NO_GUARD,
    Changes,
    Column,
    Fence,
    Guard,
    Owner,
    ReadPlan,
    ReadRequest,
    Refresh,
    Reporter,
    Source,
    StopSignal,
    Target,
    TextPolicy,
    Watermark,
    WriteDisposition,
    WriteMode,
    column_from_json,
)
from connectors.column_rules import ColumnRule
from connectors.counting import Count, refuse_missing
from connectors.cursor import Span
from connectors.definition import refuse_changed, refuse_redefined
from connectors.errors import ConnectorError, Held
from connectors.incremental import interval_facts, narrowed, tell_interval, watermark_after
from connectors.postgres.control import AlreadyApplied
from connectors.receipt import Receipt
from connectors.target_options import TargetOptions

if TYPE_CHECKING:
    from connectors.postgres.destination import PostgresDestination
    from connectors.postgres.load import Load

Crash = Callable[[str], None]
"""Called with the name of each point that tests end the process at."""


def no_crash(point: str) -> None:
    """What goes on after every point."""


@dataclass(frozen=True)
class TransferRequest:
    """What one run moves, and where to.

    `fingerprint` names the pipeline's definition and is kept with the target. `expected` are the
    columns as the definition knew them: one that is gone or has another type ends the run. `rules` say
    which columns are skipped, and which are stored as another type than the usual one. With `read.cursor`
    only new rows are read; its watermark is taken from the destination.
    """

    owner: Owner
    read: ReadRequest
    target: Target
    mode: WriteMode
    fingerprint: str = ""
    adopt: bool = False
    expected: tuple[Column, ...] = ()
    rules: Mapping[str, ColumnRule] = field(default_factory=dict)
    text_policy: TextPolicy = TextPolicy.FAIL
    guard: Guard = NO_GUARD
    refresh: Refresh = Refresh.NEW


@dataclass(frozen=True)
class Prepared:
    """What will be read, and the seconds that finding out took; `read` is the request as the destination narrows it."""

    read: ReadRequest
    plan: ReadPlan
    seconds: float


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
    refuse_redefined(fence, request)
    if fence.leftovers:
        destination.forget_staged(fence, fence.leftovers)
    read = replace(narrowed(request, fence), skip=column_rules.skipped(request.rules))
    began = time.monotonic()
    stop.check()
    plan = source.plan(read, max_parts=parts, spread=True, stop=stop) if parts else source.plan(read, stop=stop)
    refuse_changed(column_rules.without(request.expected, read.skip), plan.columns)
    plan = replace(plan, columns=column_rules.apply(plan.columns, request.rules))
    return Prepared(read, plan, time.monotonic() - began)


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
    load_of = partial(destination.load, text_policy=request.text_policy, guard=request.guard)
    with (
        already_applied(reporter) as earlier,
        load_of(fence, plan.columns, mode, reporter=reporter, stop=stop) as load,
    ):
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
    if request.rules:
        reporter.log("info", _ruled(prepared.read.skip, plan.columns))
    tell_interval(fence, plan, request, reporter)


def publish_staged(
    destination: PostgresDestination,
    fence: Fence,
    *,
    reporter: Reporter,
    stop: StopSignal,
    crash: Crash = no_crash,
) -> Receipt:
    """Publish what this run staged before a person approved it; nothing is read from the source.

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
    mode = WriteMode(
        WriteDisposition(facts["mode"]["disposition"]),
        tuple(facts["mode"]["key"]),
        facts["mode"]["cursor"],
        TargetOptions.from_json(facts["mode"].get("options", {})),
        Span(**facts["mode"]["span"]) if facts["mode"].get("span") else None,
    )
    seconds = dict(draft.seconds)
    with (
        already_applied(reporter) as earlier,
        destination.load(fence, columns, mode, reporter=reporter, stop=stop) as load,
    ):
        load.reopen(plan, draft.rows)
        load.settle(draft.rows)
        draft = replace(draft, token=fence.token)
        return publish(load, draft, facts["fingerprint"], Watermark(**facts["watermark"]), seconds, reporter, crash)
    return earlier[0]


def set_watermark(
    source: Source,
    destination: PostgresDestination,
    fence: Fence,
    request: TransferRequest,
    value: str,
    *,
    reporter: Reporter,
) -> Receipt:
    """Say from where on the next load reads, without moving a row; an empty `value` makes it read all.

    Raises ConnectorError: not_incremental, no_watermark, cursor_value.
    """
    if fence.applied is not None:
        return Receipt.from_json(fence.applied.receipt)
    rule = request.read.cursor
    if rule is None:
        raise ConnectorError(
            "This pipeline reads all rows every time: it has no watermark.",
            code="not_incremental",
            field="cursor_column",
        )
    if fence.last_run is None:
        raise ConnectorError(
            f"Nothing was loaded into {fence.target} yet: there is no watermark to move.",
            hint="Give the pipeline an initial value to begin with.",
            code="no_watermark",
        )
    column = cursor.find_column(source.describe(request.read).columns, rule.column)
    number = cursor.number_of(value, column.type, field="watermark") if value.strip() else None
    after = Watermark("" if number is None else cursor.text_of(number, column.type))
    now = datetime.now(UTC)
    draft = Receipt(
        rows=0,
        bytes=0,
        method="set_watermark",
        target=request.target,
        disposition=request.mode.disposition,
        token=fence.token,
        snapshot_time=now,
        published_at=now,  # the database's clock replaces it
        changes=Changes(0),
        watermark_before=fence.watermark.value,
        watermark_after=after.value,
    )
    with already_applied(reporter) as earlier:
        written = destination.move_watermark(fence, after, draft.to_json(), request.fingerprint)
        before = fence.watermark.value or "nothing"
        reporter.log("info", f"The watermark was {before} and is {after.value or 'nothing'} now.")
        return Receipt.from_json(written)
    return earlier[0]


@contextmanager
def already_applied(reporter: Reporter) -> Iterator[list[Receipt]]:
    """Take a former attempt's receipt for this one's, where the publish finds that it came late."""
    earlier: list[Receipt] = []
    try:
        yield earlier
    except AlreadyApplied as done:
        reporter.log("info", "A former attempt has published this run already.")
        earlier.append(Receipt.from_json(done.receipt))


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

    with _timed(seconds, "load"), Count(source, read, plan, stop) as count:
        load.open()
        reporter.log("info", receipt.opening(load.method, request.target))
        crash("load.begin")
        readers = [partial(source.read, part, stop=stop) for part in plan.parts]
        copied = load.copy(readers, on_batch)
        reporter.progress(rows=copied.rows, bytes=copied.bytes)
        for column, values in copied.repaired.items():
            reporter.log("warning", receipt.repaired(column, values, request.text_policy))
        crash("load.end")
        source_rows = count.result(reporter, copied.rows)
        refuse_missing(request.target, copied.rows, source_rows)
        load.settle(copied.rows)
    return Receipt(
        rows=copied.rows,
        bytes=copied.bytes,
        method=load.method,
        target=request.target,
        disposition=request.mode.disposition,
        token=fence.token,
        snapshot_time=plan.snapshot_time,
        published_at=plan.snapshot_time,  # the database's clock replaces it
        changes=load.changes,
        repaired=copied.repaired,
        source=plan.facts,
        source_rows=source_rows,
        interval=interval_facts(fence, plan, request),
        watermark_before=fence.watermark.value,
        watermark_after=watermark_after(fence, plan, request).value,
    )


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
) -> Receipt:
    """Make the staged rows visible, and commit; with `facts` they are kept instead where a guard refuses."""
    with _timed(seconds, "publish"):
        reporter.publishing()
        load.wait_for_readers()
        crash("publish.before_lock")
        try:
            load.lock(draft.rows)
        except Held:
            if facts is not None:
                load.hold(facts())
                crash("publish.held")
            raise
        crash("publish.after_lock")
        draft = replace(
            draft,
            method=load.method,
            changes=load.changes,
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


def kept_facts(
    plan: ReadPlan, mode: WriteMode, draft: Receipt, request: TransferRequest, watermark: Watermark
) -> dict[str, Any]:
    """All that publishing the staged rows later has to know."""
    return {
        "columns": [asdict(column) for column in plan.columns],
        "mode": {
            **{"disposition": mode.disposition.value, "key": list(mode.key), "cursor": mode.cursor},
            "options": mode.options.to_json(),
            "span": mode.span and asdict(mode.span),
        },
        "draft": draft.to_json(),
        "fingerprint": request.fingerprint,
        "watermark": asdict(watermark),
    }


def write_mode(request: TransferRequest) -> WriteMode:
    """How to write: a full refresh puts new rows in the place of all that are there."""
    if request.refresh is Refresh.FULL:
        return replace(request.mode, disposition=WriteDisposition.REPLACE)
    return request.mode


def _ruled(skip: tuple[str, ...], columns: tuple[Column, ...]) -> str:
    """What the rules for columns do, for the log."""
    retyped = [f"{column.name} as {column.target_type}" for column in columns if column.target_type]
    told = [f"not read: {', '.join(skip)}"] if skip else []
    told += [f"stored by a rule: {', '.join(retyped)}"] if retyped else []
    return f"Columns {'; '.join(told) or 'have their usual types'}."


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        seconds[phase] = time.monotonic() - began
