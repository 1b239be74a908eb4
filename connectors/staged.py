"""The staged way: a plan, parts that any worker loads in committed batches, one publish.

Each step is a transaction, or several, of its own, and each can be made by another process. What holds them
together is at the destination: the fence that the plan was made under, a checkpoint for each part, `applied`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from connectors import drift, masks, mending, receipt
from connectors.base import Reporter, Source, StopSignal
from connectors.checks import CheckKind
from connectors.checksums import source_sums
from connectors.columns import masking
from connectors.counting import Count, refuse_missing
from connectors.counts import counted
from connectors.errors import ConnectorError, NewGeneration, Overtaken, TransientError
from connectors.incremental import interval_facts, watermark_after
from connectors.modes import WriteDisposition
from connectors.postgres.checkpoints import Checkpoint, PartKey
from connectors.postgres.copy import Feed
from connectors.publishing import already_applied, kept_facts, publish
from connectors.reading import Part, ReadPlan
from connectors.receipt import Receipt
from connectors.request import Crash, Prepared, TransferRequest, no_crash, write_mode
from connectors.transfer import tell_plan
from connectors.writing import Fence

if TYPE_CHECKING:
    import pyarrow as pa

    from connectors.postgres.checkpoints import PartLoad
    from connectors.postgres.destination import PostgresDestination
    from connectors.postgres.load import Load
    from connectors.postgres.quarantine import Quarantine

# From this size on, losing an attempt costs more than what checkpoints cost.
LARGE_BYTES = 2 << 30
LARGE_ROWS = 20_000_000
# What a crash may cost of a part, and what a transaction may hold back VACUUM.
BATCH_BYTES = 64 << 20
BATCH_S = 10.0
REOPENED_MOST = 3
# What a plan was made for is not there any more.
_VOID = ("source_changed", "snapshot_gone")


class Unfinished(Exception):
    """Parts that were taken for done are not: `parts` must be loaded (again) under the fence raised now."""

    def __init__(self, parts: list[int], generation: int) -> None:
        super().__init__(f"{len(parts)} parts are not done")
        self.parts = parts
        self.generation = generation


@dataclass(frozen=True)
class Staged:
    """A plan that is ready for its parts."""

    generation: int
    parts: tuple[Part, ...]


def is_large(plan: ReadPlan) -> bool:
    """Whether the staged way is worth its cost for a read of this size."""
    if plan.estimated_bytes is not None:
        return plan.estimated_bytes >= LARGE_BYTES
    return (plan.estimated_rows or 0) >= LARGE_ROWS


def stage(
    destination: PostgresDestination,
    fence: Fence,
    request: TransferRequest,
    prepared: Prepared,
    *,
    generation: int,
    reporter: Reporter,
    stop: StopSignal,
    crash: Crash = no_crash,
) -> Staged | None:
    """Make the staging table, with what was planned and a checkpoint for each part.

    None, with nothing done, where the rows can only be loaded in one go. Raises ConnectorError as a load does.
    """
    plan = prepared.plan
    if not plan.parts:
        return None
    facts = {"read": plan.to_json(), "seconds": {"plan": prepared.seconds}}
    crash("stage.before")
    with _transaction(destination, fence, plan, request, reporter, stop) as load:
        crash("stage.before_commit")
        if not load.stage(generation, len(plan.parts), facts):
            reporter.log("info", "Partitions of a new table are filled in one go: this load is not divided.")
            return None
        crash("stage.after_commit")
    tell_plan(fence, request, prepared, reporter)
    reporter.log("info", receipt.opening(load.method, request.target))
    reporter.log("info", f"The read is divided into {len(plan.parts)} parts, which any worker may load.")
    return Staged(generation, plan.parts)


def _transaction(
    destination: PostgresDestination,
    fence: Fence,
    plan: ReadPlan,
    request: TransferRequest,
    reporter: Reporter,
    stop: StopSignal,
) -> Load:
    """The destination's transaction of the run's first step, or of its last."""
    return destination.load(
        fence,
        plan.columns,
        write_mode(request),
        request,
        reporter=reporter,
        stop=stop,
    )


@dataclass(frozen=True)
class PartDone:
    """What was committed of a part; not `done` where it was asked to let go."""

    rows: int
    bytes: int
    done: bool


def load_part(
    source: Source,
    destination: PostgresDestination,
    fence: Fence,
    key: PartKey,
    request: TransferRequest,
    *,
    reporter: Reporter,
    stop: StopSignal,
    is_over: Callable[[], bool] = lambda: False,
    on_commit: Callable[[int, int, bool], None] = lambda rows, bytes, done: None,
    crash: Crash = no_crash,
) -> PartDone:
    """Bring a part from its last checkpoint to its end, or as far as it comes until `is_over` says so.

    `on_commit` is told, now and after each commit, what the destination has: rows, bytes, and whether that is all.
    Raises NewGeneration where nothing that was staged can be used, StaleToken for one with a newer owner, and
    TransientError: what was committed stays, and another try goes on behind it.
    """
    with destination.load_part(fence, key, stop=stop) as load:
        crash("part.taken")
        on_commit(load.at.rows, load.at.bytes, load.at.done)
        plan = ReadPlan.from_json(load.facts["read"])
        quarantine = load.quarantine(plan.columns, request)
        source.resume(plan)
        part = plan.parts[key.part]
        if load.at.position:
            reporter.log("info", f"Going on behind {counted(load.at.position)} committed already.")
        for reopened in range(REOPENED_MOST + 1):
            if load.at.done or is_over():
                break
            reading = part
            try:
                opened = Part(load.at.reading) if load.at.reading else source.open_part(part, stop=stop)
                if opened is None:
                    load.finish(lambda: crash("checkpoint.before_done"))
                    crash("checkpoint.after_done")
                    on_commit(load.at.rows, load.at.bytes, load.at.done)
                    break
                reading = opened
                _read(source, load, quarantine, reading, part, plan, request, reporter, stop, is_over, on_commit, crash)
                break
            except ConnectorError as error:
                if error.code in _VOID:
                    raise NewGeneration(error.message, hint=error.hint) from error
                if error.code != "session_lost":
                    raise
                if reading.id == part.id or reopened == REOPENED_MOST:
                    raise NewGeneration(
                        f"{error.message} Its streams cannot be read in the same order again.",
                        hint="The next attempt makes a new plan and reads from the start.",
                    ) from error
                reporter.log("warning", f"{error.message} This part starts over, the others keep what they have.")
                load.start_over(quarantine, lambda: crash("checkpoint.before_start_over"))
                crash("checkpoint.after_start_over")
                on_commit(0, 0, False)
        reporter.progress(rows=load.at.rows, bytes=load.at.bytes)
        return PartDone(load.at.rows, load.at.bytes, load.at.done)


def _read(
    source: Source,
    load: PartLoad,
    quarantine: Quarantine,
    reading: Part,
    part: Part,
    plan: ReadPlan,
    request: TransferRequest,
    reporter: Reporter,
    stop: StopSignal,
    is_over: Callable[[], bool],
    on_commit: Callable[[int, int, bool], None],
    crash: Crash,
) -> None:
    """Commit batch after batch of `reading`, behind what is committed; raises what the source raised in the end."""
    rows, size = load.at.rows, load.at.bytes

    def on_batch(batch_rows: int, batch_bytes: int) -> None:
        nonlocal rows, size
        rows, size = rows + batch_rows, size + batch_bytes
        reporter.progress(rows=rows, bytes=size)
        crash("part.middle")

    start = load.at.position
    read = masking.reader(source, plan.columns, request.mask_key)
    with Feed([lambda: read(reading, start=start, stop=stop)], stop, keeps=True, is_over=is_over) as feed:
        while not load.at.done:
            feed.pauses_at = None  # outside a transaction there is time
            first = next(iter(feed), None)
            if first is None and not feed.is_drained:
                break
            load.add(
                plan.columns,
                _some(first, feed),
                reading.id,
                is_last=lambda: feed.is_drained,
                text_policy=request.text_policy,
                quarantine=quarantine,
                knows_rows_by_key=request.mode.disposition in (WriteDisposition.MERGE, WriteDisposition.HISTORY),
                may_restart=reading.id != part.id,
                checks=request.checks,
                on_batch=on_batch,
                before_commit=lambda: crash("checkpoint.before_commit"),
            )
            crash("checkpoint.after_commit")
            on_commit(load.at.rows, load.at.bytes, load.at.done)
            stop.check()
    if feed.error is not None and not load.at.done:
        raise feed.error


def _some(first: pa.RecordBatch | None, feed: Feed) -> Iterator[pa.RecordBatch]:
    """`first` and what follows it, as much as is committed together."""
    feed.pauses_at = time.monotonic() + BATCH_S
    batch, size = first, 0
    while batch is not None:
        yield batch
        size += batch.nbytes
        if size >= BATCH_BYTES or time.monotonic() > feed.pauses_at:
            return
        batch = next(iter(feed), None)


def publish_parts(
    source: Source,
    destination: PostgresDestination,
    fence: Fence,
    request: TransferRequest,
    *,
    reporter: Reporter,
    stop: StopSignal,
    ends: mending.Ends = mending.ends_at_once,
    crash: Crash = no_crash,
) -> Receipt:
    """See that every part is whole and every row there, and make them visible.

    Raises Unfinished; NewGeneration where what was staged is of no use any more; Held and ConnectorError as a
    direct load does, with the staged rows kept: another try publishes them. Held also where what `ends` the run can be
    mended.
    """
    if fence.applied is not None:
        return Receipt.from_json(fence.applied.receipt)
    stored = destination.staged(fence)
    if stored is None or "read" not in stored.facts:
        raise NewGeneration(f"Nothing is staged for {fence.target} any more.", hint="The next attempt reads again.")
    if stored.planned_on != fence.last_run:
        raise Overtaken(
            f"Another run was published to {fence.target} since this one made its plan.",
            hint="The next attempt plans again.",
        )
    checkpoints = destination.checkpoints(stored)
    undone = [at.part for at in checkpoints if not at.done]
    if undone:
        raise Unfinished(undone, stored.generation)
    plan, mode = ReadPlan.from_json(stored.facts["read"]), write_mode(request)
    masks.refuse_other_key(plan.columns, request.mask_key)
    seconds = {**stored.facts["seconds"], "load": stored.age_s}
    rows, aside = sum(at.rows for at in checkpoints), sum(at.quarantined for at in checkpoints)
    crash("check.begin")
    source.resume(plan)
    with (
        already_applied(reporter) as earlier,
        _transaction(destination, fence, plan, request, reporter, stop) as load,
        Count(source, request.read, plan, stop) as count,
    ):
        try:
            load.proven = _proven(checkpoints)
            # Later nobody asks the source for its sums.
            may_wait = all(check.kind is not CheckKind.CHECKSUM for check in request.checks)
            load.reopen(stored, rows, ends=lambda error: may_wait and ends(error))
            load.ask_source = source_sums(source, request, plan, stop)
        except ConnectorError as error:
            if error.code != "staging_gone":
                raise
            raise NewGeneration(error.message, hint="The next attempt reads again.") from error
        load.quarantine.look_again(stored.generation, aside)
        for column, values in _repaired(checkpoints).items():
            reporter.log("warning", receipt.repaired(column, values, request.text_policy))
        source_rows = count.result(reporter, rows + aside)
        try:
            refuse_missing(request.target, rows + aside, source_rows)
        except TransientError as error:
            raise NewGeneration(error.message, hint=error.hint, code=error.code) from error
        rows = load.settle(rows)
        crash("check.end")
        after = watermark_after(fence, plan, request)
        draft = Receipt(
            rows=rows,
            bytes=sum(at.bytes for at in checkpoints),
            method=load.method,
            target=request.target,
            disposition=mode.disposition,
            token=fence.token,
            snapshot_time=plan.snapshot_time,
            published_at=plan.snapshot_time,  # the database's clock replaces it
            changes=load.changes,
            repaired=_repaired(checkpoints),
            quarantined=load.quarantine.reasons,
            source={**plan.facts, "parts": len(checkpoints), "generation": stored.generation},
            source_rows=source_rows,
            interval=interval_facts(fence, plan, request),
            watermark_before=fence.watermark.value,
            watermark_after=after.value,
            drift=drift.told(fence, request, plan),
        )
        facts = partial(kept_facts, plan, mode, draft, request, after)
        return publish(load, draft, request.fingerprint, after, seconds, reporter, crash, facts=facts, ends=ends)
    return earlier[0]


def _proven(checkpoints: list[Checkpoint]) -> frozenset[str]:
    """The marks of checks that the rows of all parts pass."""
    each = [frozenset(at.proven) for at in checkpoints if at.rows]
    return frozenset.intersection(*each) if each else frozenset()


def _repaired(checkpoints: list[Checkpoint]) -> dict[str, int]:
    """How many values the text policy changed, by column, in all parts."""
    total: dict[str, int] = {}
    for at in checkpoints:
        for column, values in at.repaired.items():
            total[column] = total.get(column, 0) + values
    return total
