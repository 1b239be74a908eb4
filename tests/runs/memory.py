"""A source in memory and the real PostgreSQL destination, with hooks where a test lets things go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate
from typing import Any

import pyarrow as pa

from connectors.base import StopSignal
from connectors.billing import Estimate
from connectors.column import Column
from connectors.postgres.destination import PostgresDestination
from connectors.postgres.load import Load
from connectors.reading import Description, Part, ReadPlan, ReadRequest
from connectors.registry import Kind
from connectors.sides import Cost, Scope, Survey
from connectors.writing import Fence, Owner, Target
from tests.connectors.memory import MemorySide, PartedSource, batch


@dataclass
class Script:
    """Hooks are called in order of their use: one a time, the last one for ever."""

    rows: int = 3
    parts: int = 1
    shares: tuple[int, ...] = ()  # the rows of each part, where they are not alike
    on_plan: list[Callable[[StopSignal], None]] = field(default_factory=list)
    on_read: list[Callable[[StopSignal], None]] = field(default_factory=list)
    on_survey: list[Callable[[], None]] = field(default_factory=list)
    on_digest: list[Callable[[StopSignal], None]] = field(default_factory=list)
    on_fence: list[Callable[[], None]] = field(default_factory=list)
    before_commit: list[Callable[[], None]] = field(default_factory=list)
    after_commit: list[Callable[[], None]] = field(default_factory=list)
    reads: int = 0
    requests: list[ReadRequest] = field(default_factory=list)
    # How large a look at the table and the plan say the read is, and for how many parts each plan was asked (0: none).
    described_bytes: int | None = None
    planned_bytes: int | None = None
    asked_parts: list[int] = field(default_factory=list)
    # What a dry run says, one a time, the last one for ever; and what planning and each read are billed.
    estimates: list[Estimate] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    query_bytes: int = 0
    storage_bytes: int = 0

    def call(self, hooks: list[Any], *values: Any) -> None:
        if hooks:
            (hooks.pop(0) if len(hooks) > 1 else hooks[0])(*values)


script = Script()


@dataclass(frozen=True)
class MemoryOptions:
    """Nothing to set."""


class ScriptedSource(PartedSource):
    """Rows in as many parts as the script says, in batches of 1,000."""

    Options = MemoryOptions

    def __init__(self, options: MemoryOptions) -> None:
        share = -(-script.rows // script.parts)
        ends = list(accumulate(script.shares or [share] * script.parts))
        begins = [0, *ends[:-1]]
        if not script.shares:
            ends = [min(script.rows, end) for end in ends]
        super().__init__(
            [
                [batch(range(at, min(end, at + 1000))) for at in range(begin, end, 1000)]
                for begin, end in zip(begins, ends, strict=True)
            ]
        )

    def plan(
        self, request: ReadRequest, *, max_parts: int = 10, spread: bool = False, stop: StopSignal | None = None
    ) -> ReadPlan:
        assert stop is not None
        script.requests.append(request)
        script.asked_parts.append(max_parts if spread else 0)
        self.meter.job(request.job_key, script.query_bytes)
        script.call(script.on_plan, stop)
        plan = super().plan(request, max_parts=max_parts, spread=spread, stop=stop)
        return replace(plan, estimated_bytes=script.planned_bytes, facts={**plan.facts, **script.facts})

    def describe(self, request: ReadRequest) -> Description:
        return Description(self.columns, bytes=script.described_bytes)

    def estimate(self, request: ReadRequest) -> Estimate:
        script.requests.append(request)
        return script.estimates.pop(0) if len(script.estimates) > 1 else script.estimates[0]

    def survey(self, request: ReadRequest, at: datetime | None) -> Survey:
        script.requests.append(request)
        script.call(script.on_survey)
        return super().survey(request, at)

    def comparing(
        self, request: ReadRequest, scope: Scope, columns: tuple[Column, ...], cost: Cost, *, stop: StopSignal
    ) -> MemorySide:
        script.call(script.on_digest, stop)
        return super().comparing(request, scope, columns, cost, stop=stop)

    def read(self, part: Part, *, start: int = 0, stop: StopSignal) -> Iterator[pa.RecordBatch]:
        script.reads += 1
        if script.storage_bytes:
            self.meter.storage(script.storage_bytes)
        script.call(script.on_read, stop)
        yield from super().read(part, start=start, stop=stop)


class ScriptedDestination(PostgresDestination):
    def raise_fence(self, target: Target, owner: Owner, *, adopt: bool = False) -> Fence:
        script.call(script.on_fence)
        return super().raise_fence(target, owner, adopt=adopt)

    def load(self, fence: Fence, columns: Sequence[Column], *args: Any, **kwargs: Any) -> Load:
        load = super().load(fence, columns, *args, **kwargs)
        commit = load.commit

        def scripted_commit() -> None:
            script.call(script.before_commit)
            commit()
            script.call(script.after_commit)

        load.commit = scripted_commit  # type: ignore[method-assign]
        return load


KINDS = (
    Kind("memory", "Memory", options=f"{__name__}:MemoryOptions", source=f"{__name__}:ScriptedSource"),
    Kind(
        "scripted",
        "PostgreSQL with hooks",
        options="connectors.postgres.options:PostgresOptions",
        destination=f"{__name__}:ScriptedDestination",
    ),
)


def raising(error: BaseException) -> Callable[..., None]:
    def hook(*_: Any, **__: Any) -> None:
        raise error

    return hook


def nothing(*_: Any) -> None:
    return None
