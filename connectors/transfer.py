"""The engine: plan, load, publish as separate calls; callbacks in, facts out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from connectors import column_rules
from connectors.base import (
    Changes,
    Column,
    Fence,
    Owner,
    ReadPlan,
    ReadRequest,
    Reporter,
    Source,
    StopSignal,
    Target,
    TextPolicy,
    WriteDisposition,
    WriteMode,
)
from connectors.column_rules import ColumnRule
from connectors.errors import ConnectorError
from connectors.postgres.control import AlreadyApplied

if TYPE_CHECKING:
    from connectors.postgres.destination import PostgresDestination


@dataclass(frozen=True)
class TransferRequest:
    """What one run moves, and where to.

    `fingerprint` names the pipeline's definition and is kept with the target. `expected` are the
    columns as the definition knew them: one that is gone or has another type ends the run. `rules` say
    which columns are skipped, and which are stored as another type than the usual one.
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


@dataclass(frozen=True)
class Receipt:
    """What a run did, as the destination keeps it in `applied`.

    `method` is append, rename, create, in_place or merge; `changes` counts what became of the target's rows;
    `bytes` are those of the COPY; `seconds` has one entry per phase. `lock_wait_ms` and `lock_held_ms`
    are about the lock that others feel: readers at a rename, writers at a merge; in the kept receipt
    the latter ends just before the commit. `repaired` counts values that the text policy changed.
    """

    rows: int
    bytes: int
    method: str
    target: Target
    disposition: WriteDisposition
    token: int
    snapshot_time: datetime
    published_at: datetime
    changes: Changes
    lock_wait_ms: float = 0.0
    lock_held_ms: float = 0.0
    repaired: Mapping[str, int] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(replace(self, repaired=dict(self.repaired), source=dict(self.source), seconds=dict(self.seconds))),
            "snapshot_time": self.snapshot_time.isoformat(),
            "published_at": self.published_at.isoformat(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Receipt:
        """The receipt in `values`, whatever else a newer version wrote there."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(
            **{
                **known,
                "target": Target(**values["target"]),
                "changes": Changes(**values.get("changes", {"inserted": values["rows"]})),
                "disposition": WriteDisposition(values["disposition"]),
                "snapshot_time": datetime.fromisoformat(values["snapshot_time"]),
                "published_at": datetime.fromisoformat(values["published_at"]),
            }
        )


def direct(
    source: Source,
    destination: PostgresDestination,
    fence: Fence,
    request: TransferRequest,
    *,
    reporter: Reporter,
    stop: StopSignal,
    crash: Callable[[str], None] = lambda point: None,
) -> Receipt:
    """Move everything in one transaction of the destination, or nothing.

    Returns the former receipt if this run was already published. Raises ConnectorError, by type
    worth another try or not; OutcomeUnknown if only a raised fence can tell. `crash` is called with
    the name of each point that tests end the process at.
    """
    if fence.applied is not None:
        return Receipt.from_json(fence.applied.receipt)
    seconds: dict[str, float] = {}
    with _timed(seconds, "plan"):
        stop.check()
        skip = column_rules.skipped(request.rules)
        plan = source.plan(replace(request.read, skip=skip), stop=stop)
        refuse_changed(column_rules.without(request.expected, skip), plan.columns)
        plan = replace(plan, columns=column_rules.apply(plan.columns, request.rules))
    reporter.planned(plan)
    for warning in plan.warnings:
        reporter.log("warning", warning)
    if request.rules:
        reporter.log("info", _ruled(skip, plan.columns))
    crash("plan.after")
    try:
        return _load(source, destination, fence, request, plan, seconds, reporter, stop, crash)
    except AlreadyApplied as done:
        reporter.log("info", "A former attempt has published this run already.")
        return Receipt.from_json(done.receipt)


def _load(
    source: Source,
    destination: PostgresDestination,
    fence: Fence,
    request: TransferRequest,
    plan: ReadPlan,
    seconds: dict[str, float],
    reporter: Reporter,
    stop: StopSignal,
    crash: Callable[[str], None],
) -> Receipt:
    rows = size = 0

    def on_batch(batch_rows: int, batch_bytes: int) -> None:
        nonlocal rows, size
        rows, size = rows + batch_rows, size + batch_bytes
        reporter.progress(rows=rows, bytes=size)
        crash("load.middle")

    with destination.load(
        fence, plan.columns, request.mode, text_policy=request.text_policy, reporter=reporter, stop=stop
    ) as load:
        with _timed(seconds, "load"):
            load.open()
            reporter.log("info", _opening(load.method, request.target))
            crash("load.begin")
            readers = [partial(source.read, part, stop=stop) for part in plan.parts]
            copied = load.copy(readers, on_batch)
            reporter.progress(rows=copied.rows, bytes=copied.bytes)
            for column, count in copied.repaired.items():
                reporter.log("warning", _repaired(column, count, request.text_policy))
            crash("load.end")
            load.settle(copied.rows)
        with _timed(seconds, "publish"):
            reporter.publishing()
            crash("publish.before_lock")
            load.lock()
            crash("publish.after_lock")
            draft = Receipt(
                rows=copied.rows,
                bytes=copied.bytes,
                method=load.method,
                target=request.target,
                disposition=request.mode.disposition,
                token=fence.token,
                snapshot_time=plan.snapshot_time,
                published_at=plan.snapshot_time,  # the database's clock replaces it
                changes=load.changes,
                lock_wait_ms=round(load.lock_wait_ms, 1),
                lock_held_ms=round(load.lock_held_ms, 1),
                repaired=copied.repaired,
                source=plan.facts,
                seconds={name: round(value, 4) for name, value in seconds.items()},
            )
            written = load.record(copied.rows, draft.to_json(), request.fingerprint)
            crash("publish.before_commit")
            load.commit()
            held_ms = round(load.lock_held_ms, 1)
            crash("publish.after_commit")
    receipt = replace(Receipt.from_json(written), lock_held_ms=held_ms, seconds=seconds)
    reporter.log("info", _summary(receipt))
    return receipt


def refuse_changed(expected: tuple[Column, ...], found: tuple[Column, ...]) -> None:
    """Raise ConnectorError if a column of `expected` is gone or has another type; new ones are no harm."""
    now = {column.name.lower(): column for column in found}
    for column in expected:
        here = now.get(column.name.lower())
        if here is None:
            raise ConnectorError(
                f"The source no longer has the column {column.name}.",
                hint="Save the pipeline again to accept its columns as they are now.",
                code="column_missing",
                field=column.name,
            )
        if _type(here) != _type(column):
            raise ConnectorError(
                f"The column {column.name} was {column.type} when the pipeline was saved and is {here.type} now.",
                hint="Save the pipeline again to accept its columns as they are now.",
                code="column_retyped",
                field=column.name,
            )


def _type(column: Column) -> tuple[Any, ...]:
    """What decides how a column is stored: not its name's case, its length, nor whether it is required."""
    inner = tuple((child.name.lower(), _type(child)) for child in column.columns)
    return column.type, column.repeated, column.precision, column.scale, column.element, inner


def _ruled(skip: tuple[str, ...], columns: tuple[Column, ...]) -> str:
    """What the rules for columns do, for the log."""
    retyped = [f"{column.name} as {column.target_type}" for column in columns if column.target_type]
    told = [f"not read: {', '.join(skip)}"] if skip else []
    told += [f"stored by a rule: {', '.join(retyped)}"] if retyped else []
    return f"Columns {'; '.join(told) or 'have their usual types'}."


def _opening(method: str, target: Target) -> str:
    if method == "append":
        return f"Appending to {target}."
    if method == "in_place":
        return "Loading into a staging table."
    if method == "merge":
        return f"Loading into a staging table, which is merged into {target}."
    if method == "create":
        return f"Loading into a new table, which becomes {target}."
    return f"Loading into a new table, which takes the place of {target}: nothing else depends on it."


def _repaired(column: str, count: int, policy: TextPolicy) -> str:
    done = "stripped" if policy is TextPolicy.STRIP else "replaced by U+FFFD"
    values = "1 value" if count == 1 else f"{count:,} values"
    return f"Column {column}: characters that PostgreSQL cannot store were {done} in {values}."


def _summary(receipt: Receipt) -> str:
    if receipt.method not in ("merge", "in_place"):
        return f"Published {receipt.rows:,} rows to {receipt.target}."
    done = receipt.changes
    left = [f"{done.deleted:,} deleted"] if receipt.method == "in_place" else []
    left += [f"{done.unchanged:,} were the same already"]
    left += [f"{done.stale:,} were older than what is there"] if done.stale else []
    left += [f"{done.duplicates:,} came more than once"] if done.duplicates else []
    made = f"{done.inserted:,} rows added, {done.updated:,} updated"
    verb = "Merged" if receipt.method == "merge" else "Brought"
    return f"{verb} {receipt.rows:,} rows into {receipt.target}: {made}; {', '.join(left)}."


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        seconds[phase] = time.monotonic() - began
