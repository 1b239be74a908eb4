"""Does a target hold what its source held? Both sides say so themselves, in SQL; this puts their answers together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from connectors import column_rules, findings, keys
from connectors.base import Destination, Source, StopSignal
from connectors.column import Column
from connectors.column_rules import ColumnRule
from connectors.counts import counted
from connectors.errors import ConnectorError, Overtaken
from connectors.findings import Finding
from connectors.keys import KeyDifferences
from connectors.modes import TextPolicy, WriteDisposition, WriteMode
from connectors.reading import ReadRequest
from connectors.sides import (
    COLUMNS_A_QUERY,
    NOTHING_ASIDE,
    ColumnDigest,
    Cost,
    Keyed,
    Published,
    PutAside,
    Reach,
    Scope,
    Side,
    Survey,
    TableDigest,
)
from connectors.target_columns import Memory, named
from connectors.writing import Target

# What BigQuery bills a query at least, and the unit it rounds up to.
_LEAST_BILLED, _BILLED_IN = 10 << 20, 1 << 20
# Below this a pass over the source costs next to nothing, and is a better proof than a time of its metadata.
TRUST_METADATA_FROM = 1 << 30
# Of several rows with one key, these keep the newest.
BY_KEY = (WriteDisposition.MERGE, WriteDisposition.HISTORY)
Log = Callable[[str, str], None]


@dataclass(frozen=True)
class ComparisonRequest:
    """What is compared. `at_snapshot`: as the source was when the last run read it, else as it is now.

    With `look_for_keys` and a key, rows that differ are looked for, which reads the source up to three times more.
    With `has_former_rows` the target may hold rows of a former definition.
    """

    read: ReadRequest
    target: Target
    mode: WriteMode
    text_policy: TextPolicy = TextPolicy.FAIL
    rules: Mapping[str, ColumnRule] = field(default_factory=dict)
    at_snapshot: bool = True
    look_for_keys: bool = True
    has_former_rows: bool = False


@dataclass(frozen=True)
class Comparison:
    """What both sides said: `target`, and the source `then`, at the last run's snapshot, and `now`.

    `then` is None if it was not asked for or cannot be read; `now` if the source has not changed since. `compared`
    are the columns that both sides have, `missing` those that the target lacks. `keys_at` says which of both the
    keys were compared with.
    """

    request: ComparisonRequest
    published: Published
    survey: Survey
    compared: tuple[Column, ...]
    missing: tuple[str, ...]
    target: TableDigest
    then: TableDigest | None
    now: TableDigest | None
    read_at: datetime
    cost: Cost
    keys: KeyDifferences | None = None
    keys_at: str = ""
    put_aside: PutAside = NOTHING_ASIDE
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def source(self) -> TableDigest:
        """The source as the target is compared with it."""
        return self.then or self.now or TableDigest(0, ())

    @property
    def is_of_snapshot(self) -> bool:
        """Whether the source was compared as the last run read it: pinned, or not changed since."""
        return self.then is not None or (self.request.at_snapshot and self.survey.unchanged is True)

    @property
    def is_incremental(self) -> bool:
        """Whether runs read only what is new: then only what they have read so far is compared."""
        return self.request.read.cursor is not None

    @property
    def cursor(self) -> str:
        return self.request.read.cursor.column if self.request.read.cursor else ""

    @property
    def latest(self) -> TableDigest:
        """The source as it is now, as far as that is known."""
        return self.now or self.source

    @property
    def appends_all(self) -> bool:
        """Whether the target holds the rows of several snapshots, one after the other."""
        return self.published.appends > 0 and not self.is_incremental

    @property
    def agrees(self) -> bool:
        return agree(self.source, self.target)

    @property
    def differing(self) -> tuple[str, ...]:
        return differing(self.source, self.target)

    @property
    def counted(self) -> tuple[str, ...]:
        """Columns of which only the NULLs were counted."""
        pairs = zip(self.source.columns, self.target.columns, strict=True)
        return tuple(a.name for a, b in pairs if None in (a.checksum, b.checksum))

    @property
    def source_changed(self) -> bool:
        return None not in (self.then, self.now) and not agree(self.then, self.now)  # type: ignore[arg-type]

    @property
    def changed_since(self) -> tuple[str, ...]:
        return differing(self.then, self.now) if self.then and self.now else ()

    def findings(self) -> list[Finding]:
        return findings.find(self)

    def to_json(self) -> dict[str, Any]:
        said = self.findings()
        return {
            "method": "compare",
            "answer": said[0].code,
            "agrees": said[0].is_good,
            "findings": [asdict(finding) for finding in said],
            "run": str(self.published.run),
            "snapshot_time": self.published.receipt["snapshot_time"],
            "is_of_snapshot": self.is_of_snapshot,
            "read_at": self.read_at.isoformat(),
            "target": asdict(self.request.target),
            "key": list(self.request.mode.key),
            "cursor": self.cursor,
            "watermark": self.published.watermark,
            "counts": {
                "then": self.then and self.then.rows,
                "now": self.now and self.now.rows,
                "target": self.target.rows,
            },
            "columns": [self._column(place) for place in range(len(self.compared))],
            "missing": list(self.missing),
            "keys": self.keys and self.keys.to_json(),
            "keys_at": self.keys_at,
            "quarantined": self.put_aside.rows,
            "source": asdict(self.cost),
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
        }

    def _column(self, place: int) -> dict[str, Any]:
        """NULLs and checksums of a column on every side; checksums as text, for they outgrow what JSON readers hold."""
        sides = {"then": self.then, "now": self.now, "target": self.target}
        told: dict[str, Any] = {"name": self.compared[place].name, "type": self.compared[place].type}
        for side, digest in sides.items():
            if digest is not None:
                found = digest.columns[place]
                told[side] = {"nulls": found.nulls, "sum": None if found.checksum is None else str(found.checksum)}
        name = self.compared[place].name
        return {**told, "differs": name in self.differing, "counted_only": name in self.counted}


def compare(
    source: Source,
    destination: Destination,
    request: ComparisonRequest,
    published: Published,
    *,
    log: Log,
    stop: StopSignal,
) -> Comparison:
    """Compare what `published` says was loaded with what is there.

    Raises ConnectorError: snapshot_gone if the source cannot be read as it was any more, Overtaken if a run was
    published meanwhile. Nothing is written anywhere.
    """
    seconds: dict[str, float] = {}
    cost = Cost()
    stop.check()
    survey = survey_source(source, request.read, published.snapshot_time if request.at_snapshot else None)
    # A rule that no longer fits the source is for the next load to refuse.
    columns, _ = column_rules.judge(survey.columns, request.rules)
    columns = named(columns, Memory.from_json(published.columns or {}))
    cursor = request.read.cursor
    scope = Scope(
        cursor=cursor.column if cursor else request.mode.cursor,
        reach=Reach(cursor.initial, published.watermark) if cursor else None,
        newest_of=request.mode.key if request.mode.disposition in BY_KEY else (),
        text_policy=request.text_policy,
    )

    def side(at: datetime | None) -> Side:
        return source.comparing(request.read, replace(scope, at=at), columns, cost, stop=stop)

    with _timed(seconds, "source"):
        read_at = survey.now or datetime.now(UTC)
        then = side(published.snapshot_time).digest(columns) if survey.is_pinned else None
        if then is not None:
            log("info", f"The source had {counted(then.rows)} at the snapshot.")
        now = None
        if then is None or not _is_surely_unchanged(survey):
            now = side(survey.now).digest(columns)
            log("info", f"The source has {counted(now.rows)} now.")
    with destination.comparing(request.target, mode=request.mode, stop=stop) as target:
        if target.published() != published:
            raise Overtaken(
                "A run was published while the two sides were compared.", hint="The next attempt starts over."
            )
        compared = target.present(columns)
        with _timed(seconds, "target"):
            here = target.digest(compared)
            log("info", f"The target has {counted(here.rows)}.")
        found = Comparison(
            request,
            published,
            survey,
            compared,
            missing=tuple(column.name for column in columns if column not in compared),
            target=here,
            then=then and _only(then, compared),
            now=now and _only(now, compared),
            read_at=read_at,
            cost=cost,
            put_aside=target.put_aside(_key_of(request, compared), None if cursor else published.run),
            seconds=seconds,
        )
        if (keyed := _keyed(found)) is None:
            return found
        # Where the target is as the source was, what is left to find are changes below the watermark since.
        is_then = then is not None and not found.agrees
        log("info", f"Looking for the keys that differ from the source as it {'was' if is_then else 'is now'}.")
        with _timed(seconds, "keys"):
            there = side(published.snapshot_time if is_then else survey.now)
            rows = max(found.source.rows, now.rows if now else 0, here.rows)
            differences = keys.find(there, target, keyed, rows=rows, explained=found.put_aside.keys, stop=stop)
    return replace(found, keys=differences, keys_at="then" if is_then else "now")


def survey_source(source: Source, read: ReadRequest, at: datetime | None) -> Survey:
    """What a comparison would read; a snapshot that is gone is no passing failure here, as it is for a load."""
    try:
        return source.survey(read, at)
    except ConnectorError as error:
        if error.code != "snapshot_gone":
            raise
        raise ConnectorError(
            error.message,
            hint="Compare with the source as it is now, or run the pipeline and compare then.",
            code=error.code,
            field=error.field,
        ) from error


def nothing_published(target: Target) -> ConnectorError:
    return ConnectorError(
        f"Nothing of this pipeline was published to {target} yet: there is nothing to compare.",
        hint="Run it first.",
        code="nothing_published",
    )


def bytes_billed(survey: Survey, *, look_for_keys: bool) -> tuple[int, int] | None:
    """What a comparison is billed for if both sides agree, and at most; None where the source does not tell."""
    if survey.bytes is None:
        return None
    queries = -(-len(survey.columns) // COLUMNS_A_QUERY)
    one_pass = max(queries * _LEAST_BILLED, -(-survey.bytes // _BILLED_IN) * _BILLED_IN + queries * _BILLED_IN)
    # As it was, and as it is unless that is known to be the same; then buckets, hashes of rows, and rows.
    passes = 2 if survey.is_pinned and not _is_surely_unchanged(survey) else 1
    return passes * one_pass, (passes + (3 if look_for_keys else 0)) * one_pass


def _is_surely_unchanged(survey: Survey) -> bool:
    return bool(survey.unchanged) and (survey.bytes or 0) >= TRUST_METADATA_FROM


def _key_of(request: ComparisonRequest, columns: Sequence[Column]) -> tuple[Column, ...]:
    """The key's columns, none where the target lacks one of them."""
    wanted = [name.lower() for name in request.mode.key]
    key = tuple(column for column in columns if column.name.lower() in wanted)
    return key if len(key) == len(wanted) else ()


def _keyed(c: Comparison) -> Keyed | None:
    """How to look for differing rows; None where none differ, or they cannot be told apart by a key."""
    is_worth_it = not c.agrees or (c.is_incremental and c.source_changed)
    if not is_worth_it or c.appends_all or not c.request.look_for_keys:
        return None
    wanted = [name.lower() for name in c.request.mode.key]
    key = tuple(column for column in c.compared if column.name.lower() in wanted)
    counted = frozenset(c.counted)
    if not key or len(key) < len(wanted) or any(column.name in counted for column in key):
        return None
    # Only what differs as a whole is read again; where only the number of rows does, everything.
    differ = set(c.differing or c.changed_since) or {column.name for column in c.compared}
    return Keyed(tuple(col for col in c.compared if col in key or col.name in differ), key, counted)


def _only(digest: TableDigest, columns: Sequence[Column]) -> TableDigest:
    names = {column.name for column in columns}
    return TableDigest(digest.rows, tuple(found for found in digest.columns if found.name in names))


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        seconds[phase] = time.monotonic() - began


def differing(one: TableDigest, other: TableDigest) -> tuple[str, ...]:
    """The columns whose NULLs or checksums are not the same; a checksum that one side lacks says nothing."""
    return tuple(a.name for a, b in zip(one.columns, other.columns, strict=True) if _differ(a, b))


def agree(one: TableDigest, other: TableDigest) -> bool:
    return one.rows == other.rows and not differing(one, other)


def _differ(a: ColumnDigest, b: ColumnDigest) -> bool:
    return a.nulls != b.nulls or (None not in (a.checksum, b.checksum) and a.checksum != b.checksum)
