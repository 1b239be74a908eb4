"""A source in memory, and what the engine talks to: enough to test a destination on its own."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from connectors.base import Source, StepResult, StopSignal
from connectors.checks import CheckResult
from connectors.column import Column
from connectors.column_rules import narrowed
from connectors.errors import Stopped
from connectors.reading import Description, Part, Preview, ReadPlan, ReadRequest, TableInfo
from connectors.sides import (
    HASH_DIGITS,
    SUM_MASK,
    VALUE_DIGITS,
    Bucket,
    ColumnDigest,
    Cost,
    Keyed,
    Row,
    Scope,
    Survey,
    TableDigest,
)

ID_NAME = (Column("id", "INT64"), Column("name", "STRING"))


def batch(ids: Sequence[int]) -> pa.RecordBatch:
    """Rows of ID_NAME."""
    return pa.record_batch({"id": pa.array(ids, pa.int64()), "name": pa.array([f"row {i}" for i in ids], pa.string())})


class MemorySource(Source):
    """Yields the batches it was given, one part; `between` is called before each batch but the first."""

    def __init__(
        self,
        batches: Sequence[pa.RecordBatch],
        columns: Sequence[Column] = ID_NAME,
        *,
        between: Callable[[], None] = lambda: None,
        warnings: Sequence[str] = (),
    ) -> None:
        self.batches = batches
        self.columns = tuple(columns)
        self.between = between
        self.warnings = tuple(warnings)
        self.reads = 0

    def plan(
        self, request: ReadRequest, *, max_parts: int = 10, spread: bool = False, stop: StopSignal | None = None
    ) -> ReadPlan:
        rows = sum(b.num_rows for b in self.batches)
        moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        columns, ignored = narrowed(self.columns, request)
        return ReadPlan(
            *(columns, (Part("only"),), moment, rows), facts={"from": "memory"}, warnings=self.warnings, ignored=ignored
        )

    def resume(self, plan: ReadPlan) -> None:
        return None

    def open_part(self, part: Part, *, stop: StopSignal) -> Part | None:
        return part

    def read(self, part: Part, *, start: int = 0, stop: StopSignal) -> Iterator[pa.RecordBatch]:
        self.reads += 1
        for i, found in enumerate(self.batches):
            if i:
                self.between()
            yield found

    def count(self, request: ReadRequest, plan: ReadPlan, *, stop: StopSignal) -> int | None:
        return sum(b.num_rows for b in self.batches)

    def check(self) -> Iterator[StepResult]:
        raise NotImplementedError

    def datasets(self) -> list[str]:
        raise NotImplementedError

    def tables(self, dataset: str) -> list[TableInfo]:
        raise NotImplementedError

    def describe(self, request: ReadRequest) -> Description:
        raise NotImplementedError

    def preview(self, request: ReadRequest, *, limit: int = 20, rules: Any = None) -> Preview:
        raise NotImplementedError

    def survey(self, request: ReadRequest, at: datetime | None) -> Survey:
        return Survey(self.columns, 1000, is_pinned=at is not None, now=datetime.now(UTC), unchanged=None)

    def comparing(
        self, request: ReadRequest, scope: Scope, columns: tuple[Column, ...], cost: Cost, *, stop: StopSignal
    ) -> MemorySide:
        return MemorySide(pa.Table.from_batches(self.batches, None if self.batches else _NO_ROWS), cost)

    def close(self) -> None:
        return None


class MemorySide:
    """Numbers and texts as one side of a comparison, told by Python: what both dialects of SQL must say, too."""

    def __init__(self, rows: pa.Table, cost: Cost) -> None:
        self.table = rows
        self.cost = cost

    def digest(self, columns: Sequence[Column]) -> TableDigest:
        self.cost.bytes_billed += 1000
        return TableDigest(self.table.num_rows, tuple(map(self._digest, columns)))

    def buckets(self, keyed: Keyed) -> dict[int, Bucket]:
        found: dict[int, Bucket] = {}
        for key, row in MemorySide.hashes(self, keyed, ()):
            before = found.get(key >> keyed.shift, Bucket(0, 0))
            found[key >> keyed.shift] = Bucket(before.rows + 1, before.sum + (row & SUM_MASK))
        return found

    def hashes(self, keyed: Keyed, chosen: Sequence[int]) -> Iterator[tuple[int, int]]:
        for row in self.table.to_pylist():
            key = _hash(_values(row, keyed.key))
            if not chosen or key >> keyed.shift in chosen:
                yield key, _hash(_values(row, keyed.columns))

    def rows(self, keyed: Keyed, keys: Sequence[int]) -> list[Row]:
        return [
            Row(key, tuple(_values(row, keyed.columns)), tuple(_text(row[column.name]) for column in keyed.columns))
            for row in self.table.to_pylist()
            if (key := _hash(_values(row, keyed.key))) in keys
        ]

    def _digest(self, column: Column) -> ColumnDigest:
        texts = [_text(value) for value in self.table[column.name].to_pylist()]
        return ColumnDigest(
            column.name, texts.count(None), sum(int(_md5(text)[:8], 16) for text in texts if text is not None)
        )


_NO_ROWS = pa.schema([("id", pa.int64()), ("name", pa.string())])


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _values(row: dict[str, Any], columns: Sequence[Column]) -> list[str]:
    texts = [_text(row[column.name]) for column in columns]
    return ["-" if text is None else _md5(text)[:VALUE_DIGITS] for text in texts]


def _hash(values: Sequence[str]) -> int:
    return int(_md5(",".join(values))[:HASH_DIGITS], 16)


class Recorder:
    """A Reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.totals: list[tuple[int, int]] = []
        self.events: list[str] = []
        self.results: tuple[CheckResult, ...] = ()

    def log(self, level: str, message: str) -> None:
        self.lines.append((level, message))

    def progress(self, *, rows: int, bytes: int) -> None:
        self.totals.append((rows, bytes))

    def planned(self, plan: ReadPlan) -> None:
        self.events.append("planned")

    def publishing(self) -> None:
        self.events.append("publishing")

    def audited(self, results: tuple[CheckResult, ...]) -> None:
        self.results = results

    def text(self) -> str:
        return "\n".join(message for _, message in self.lines)


class Button:
    """A StopSignal that tests press."""

    def __init__(self) -> None:
        self._code = ""
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def press(self, code: str = "cancelled") -> None:
        with self._lock:
            self._code = code
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def check(self) -> None:
        if self._code:
            raise Stopped("Asked to stop.", code=self._code)

    def on_stop(self, callback: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._callbacks.append(callback)
            late = bool(self._code)
        if late:
            callback()
        return lambda: self._callbacks.remove(callback)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start `work`; the list gets its result, or the exception it ended with."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 the test looks at it
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


class PartedSource(MemorySource):
    """A source in parts, each given by its batches; `fail(part, row)` may raise before a batch that begins at `row`.

    With `outlives`, parts are ranges: each is read through a stream that `open_part` names anew.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[pa.RecordBatch]],
        columns: Sequence[Column] = ID_NAME,
        *,
        fail: Callable[[int, int], None] = lambda part, row: None,
        outlives: bool = False,
    ) -> None:
        super().__init__([batch for part in parts for batch in part], columns)
        self.parts = parts
        self.fail = fail
        self.outlives = outlives
        self.opened: list[str] = []
        self.starts: list[tuple[int, int]] = []

    def plan(
        self, request: ReadRequest, *, max_parts: int = 10, spread: bool = False, stop: StopSignal | None = None
    ) -> ReadPlan:
        whole = super().plan(request)
        return replace(whole, parts=tuple(Part(f"{n}") for n in range(len(self.parts))))

    def open_part(self, part: Part, *, stop: StopSignal) -> Part | None:
        if not self.outlives:
            return part
        self.opened.append(f"{part.id}/{len(self.opened)}")
        return Part(self.opened[-1])

    def read(self, part: Part, *, start: int = 0, stop: StopSignal) -> Iterator[pa.RecordBatch]:
        number = int(part.id.partition("/")[0])
        self.starts.append((number, start))
        row = 0
        for found in self.parts[number]:
            self.fail(number, row)
            if row + found.num_rows > start:
                yield found.slice(max(0, start - row))
            row += found.num_rows
