"""The contracts between the engine and the systems it reads from and writes to.

Nothing here imports Google's clients, psycopg2 or pyarrow: web and beat import this module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from uuid import UUID

from connectors.billing import NOT_METERED, Estimate, Meter
from connectors.cursor import CursorRead, Interval, Span
from connectors.errors import ConnectorError
from connectors.parameters import Parameter
from connectors.sql_around import SqlAround
from connectors.target_options import TargetOptions
from connectors.watching import TableState

if TYPE_CHECKING:
    import pyarrow as pa

    from connectors.checks import CheckResult
    from connectors.column_rules import ColumnRule
    from connectors.errors import ConnectorError
    from connectors.forecast import Forecast
    from connectors.former import FormerState
    from connectors.sides import Cost, Published, Scope, Side, Survey, TargetSide


class WriteDisposition(StrEnum):
    """What a run does to rows that the target already has."""

    APPEND = "append"
    REPLACE = "replace"
    MERGE = "merge"
    HISTORY = "history"


class Deletes(StrEnum):
    """What becomes of rows of the target that a merge no longer finds in its source."""

    KEEP = "keep"
    SOFT = "soft"
    HARD = "hard"


class TextPolicy(StrEnum):
    """What becomes of characters that PostgreSQL cannot store."""

    FAIL = "fail"
    STRIP = "strip"
    REPLACE = "replace"


@dataclass(frozen=True)
class Guard:
    """What a publish that makes rows vanish may do by itself; beyond that it waits for a person.

    `shrink_percent` is the largest share of the target's rows that may go; None lets any share but all.
    """

    zero_rows: bool = True
    shrink_percent: int | None = 50


NO_GUARD = Guard(zero_rows=False, shrink_percent=None)


class Refresh(StrEnum):
    """How a run takes a target that was written under another definition, or anew on request."""

    NEW = "new"
    KEEP = "keep"
    FULL = "full"


@dataclass(frozen=True)
class WriteMode:
    """A disposition with what it needs: `key` identifies a row, the newest `cursor` wins; columns of the source.

    `options` say what form the target gets. An append with a `span` takes the place of the target's rows in it.
    With `staged`, rows go into a staging table first even where an append could write straight into the target.
    Only a run that `sees_all` rows of the source can tell which are gone: `deletes` says what becomes of those. A
    history begins `anew` in a full refresh.
    `undo_depth` is how many former states of the target are kept where it is replaced.
    `replays` are the ids of quarantined rows that this run takes in.
    """

    disposition: WriteDisposition
    key: tuple[str, ...] = ()
    cursor: str = ""
    options: TargetOptions = field(default_factory=TargetOptions)
    span: Span | None = None
    staged: bool = False
    deletes: Deletes = Deletes.KEEP
    sees_all: bool = False
    anew: bool = False
    undo_depth: int = 0
    replays: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The mode as JSON holds it."""
        return {**asdict(self), "disposition": self.disposition.value, "options": self.options.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> WriteMode:
        """The mode that `to_json` wrote down, now or before it had all its fields."""
        span = values.get("span")
        return cls(
            **{
                **values,
                "disposition": WriteDisposition(values["disposition"]),
                "key": tuple(values["key"]),
                "replays": tuple(values.get("replays", ())),
                "options": TargetOptions.from_json(values.get("options", {})),
                "span": Span(**span) if span else None,
                "deletes": Deletes(values.get("deletes", Deletes.KEEP)),
            }
        )


class MaskKind(StrEnum):
    """What stands in the target in the place of a column's values; NULL stays NULL."""

    HMAC = "hmac"
    HMAC_BASE64 = "hmac_base64"
    REDACT = "redact"
    KEEP_LAST = "keep_last"


KEYED_MASKS = frozenset({MaskKind.HMAC, MaskKind.HMAC_BASE64})


@dataclass(frozen=True)
class Mask:
    """How values of the column `of`, as the source declares it, become texts that tell less.

    `keep` is how many characters KEEP_LAST leaves; `key_id` says which key a HMAC is made with, never what it is.
    """

    kind: MaskKind
    of: Column
    keep: int = 0
    key_id: str = ""


@dataclass(frozen=True)
class Column:
    """A column as the source declares it, in BigQuery's standard SQL words.

    `type` is INT64, NUMERIC, STRUCT, RANGE, ...; `element` is the T of RANGE<T>; `columns` are the
    fields of a STRUCT; `max_length` counts characters or bytes. `target_type` is the PostgreSQL type that
    a rule chose, spelled as `format_type` spells it, empty for the usual one; `zone` is where a time
    that changes its kind was told. `target_name` is the name in PostgreSQL where it is not the usual one. A column with
    a `mask` is the STRING that the mask makes.
    """

    name: str
    type: str
    repeated: bool = False
    required: bool = False
    precision: int | None = None
    scale: int | None = None
    max_length: int | None = None
    element: str = ""
    columns: tuple[Column, ...] = ()
    description: str = ""
    target_type: str = ""
    zone: str = ""
    target_name: str = ""
    mask: Mask | None = None


def column_from_json(values: Mapping[str, Any]) -> Column:
    """A Column from what `dataclasses.asdict` made of it."""
    mask = values.get("mask")
    if mask is not None:
        mask = Mask(**{**mask, "kind": MaskKind(mask["kind"]), "of": column_from_json(mask["of"])})
    return Column(**{**values, "columns": tuple(map(column_from_json, values["columns"])), "mask": mask})


def declared_to_json(column: Column) -> dict[str, Any]:
    """A source's own column as definitions keep it: without what only rules give."""
    given = {name: value for name, value in vars(column).items() if name not in ("target_name", "mask")}
    return {**given, "columns": tuple(map(declared_to_json, column.columns))}


@dataclass(frozen=True)
class ReadRequest:
    """What to read: exactly one of `table` ("project.dataset.table") and `query`; with `cursor`, only what is new.

    `job_key` makes the names of query jobs: the same key adopts the job that is already there.
    `skip` names columns, in any case, that are not read; with `only`, others than these are not read either.
    `parameters` are what the query may name as @name. `row_filter` is a condition that rows of the table must meet.
    `maximum_bytes_billed` is for all query jobs of the read together.
    """

    table: str = ""
    query: str = ""
    row_filter: str = ""
    parameters: tuple[Parameter, ...] = ()
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    job_key: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    maximum_bytes_billed: int | None = None
    cursor: CursorRead | None = None


@dataclass(frozen=True)
class Part:
    """A share of a read that can be read on its own; `id` says which to the source, `name` to people.

    `rows` and `bytes` are estimates, where there are any.
    """

    id: str
    name: str = ""
    rows: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class ReadPlan:
    """What will be read, fixed once: schema, snapshot time, parts, estimates.

    `facts` go to the receipt (session, job ids, bytes billed); `warnings` go to the log. `interval` is set
    where a cursor was asked for. `source_rows` is what the source itself counted, where that is known already;
    `recorded_rows` what its record of a table that is read whole says: where as many arrive, nothing else is counted.
    `state` is what the source needs to read and count the parts, in JSON: any process can go on with a plan.
    A plan that `outlives_session` has parts that can be opened again when a session is lost; others are then void.
    `ignored` are columns that are there, and not among those that were to be read `only`.
    """

    columns: tuple[Column, ...]
    parts: tuple[Part, ...]
    snapshot_time: datetime
    estimated_rows: int | None = None
    estimated_bytes: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    interval: Interval | None = None
    source_rows: int | None = None
    recorded_rows: int | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    outlives_session: bool = False
    ignored: tuple[Column, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON holds it."""
        return {**asdict(self), "snapshot_time": self.snapshot_time.isoformat()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ReadPlan:
        """The plan that `to_json` wrote down."""
        interval = values["interval"]
        return cls(
            **{
                **values,
                "columns": tuple(map(column_from_json, values["columns"])),
                "parts": tuple(Part(**part) for part in values["parts"]),
                "snapshot_time": datetime.fromisoformat(values["snapshot_time"]),
                "warnings": tuple(values["warnings"]),
                "ignored": tuple(map(column_from_json, values.get("ignored", ()))),
                "interval": None if interval is None else Interval(**interval),
            }
        )


@dataclass(frozen=True)
class StepResult:
    """One readable step of a connection test: passed (True), failed (False), or only a warning (None).

    A failure that is `transient` says nothing against the options; `field` names the option at fault.
    """

    name: str
    passed: bool | None
    detail: str = ""
    hint: str = ""
    field: str = ""
    transient: bool = False

    @classmethod
    def failed(cls, name: str, error: ConnectorError) -> StepResult:
        return cls(name, False, error.message, error.hint, error.field, error.transient)


@dataclass(frozen=True)
class TableInfo:
    """What a look-up says of a source table; None where the source does not tell."""

    dataset: str
    name: str
    kind: str = "TABLE"
    rows: int | None = None
    bytes: int | None = None
    modified: datetime | None = None
    description: str = ""


@dataclass(frozen=True)
class Description:
    """A source table or query, looked at without reading it."""

    columns: tuple[Column, ...]
    rows: int | None = None
    bytes: int | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preview:
    """The first rows as text, for people; None is NULL."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str | None, ...], ...]


@dataclass(frozen=True)
class Changes:
    """What a publish did to the target's rows.

    `duplicates` are rows of the source beyond one for each key; `stale` those older than what the
    target has. `deleted` were deleted, marked as such or, in a history, ended; `revived` were so before, and are
    there again. Of what a history inserted, `versions` are of keys that it knew.
    """

    inserted: int
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    duplicates: int = 0
    stale: int = 0
    revived: int = 0
    versions: int = 0


@dataclass(frozen=True)
class Target:
    """The table that readers see."""

    schema: str
    table: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True)
class Owner:
    """Who writes: the ids that the destination keeps in `head` and `applied`, and the claim's token."""

    installation: UUID
    pipeline: UUID
    run: UUID
    token: int


@dataclass(frozen=True)
class Watermark:
    """The highest cursor value committed at the destination, and how many rows the source had up to it."""

    value: str = ""
    rows: int | None = None


@dataclass(frozen=True)
class Applied:
    """A published run, as the destination remembers it."""

    run: UUID
    rows: int
    published_at: datetime
    receipt: Mapping[str, Any]


@dataclass(frozen=True)
class Fence:
    """The destination after a new owner raised its token: what this owner plans on.

    `applied` is this run's own publish, when a former attempt got that far; `leftovers` are staging tables that
    no load has a use for: of other runs that were overtaken, and what this run staged in a former attempt.
    `columns` is what the head has of the target's columns, as `connectors.drift` writes it; empty before it does.
    `kept` is how many former states of the target are kept for an undo.
    `has_quarantine` where rows of the target stand in its quarantine, decided on or not.
    """

    target: Target
    owner: Owner
    token: int
    last_run: UUID | None
    fingerprint: str
    applied: Applied | None
    watermark: Watermark = Watermark()
    leftovers: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    kept: int = 0
    has_quarantine: bool = False


class StopSignal(Protocol):
    """Asked between batches; raises connectors.errors.Stopped when the load must end.

    `on_stop` registers what breaks a blocking wait (closing a gRPC call, `connection.cancel()`); it
    is called from another thread.
    """

    def check(self) -> None: ...

    def on_stop(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Register `callback`; returns the function that takes it back."""
        ...


class Reporter(Protocol):
    """Where the engine tells what happens; must return quickly and be safe to call from any thread."""

    def log(self, level: str, message: str) -> None:
        """`level` is info, warning or error."""
        ...

    def progress(self, *, rows: int, bytes: int) -> None:
        """Totals so far, committed or not."""
        ...

    def planned(self, plan: ReadPlan) -> None: ...

    def publishing(self) -> None: ...

    def audited(self, results: tuple[CheckResult, ...]) -> None:
        """What the checks of the staged rows came to, with the first bad rows."""
        ...


class NeverStop:
    """A StopSignal for look-ups, benches and tests."""

    def check(self) -> None:
        return None

    def on_stop(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


class Source(ABC):
    """A system that rows are read from: one folder, one registry line.

    One that `is_masked` gives rows with their masks made already. What it bills while it works is told to its `meter`.
    """

    Options: ClassVar[type]
    is_masked: ClassVar[bool] = False
    meter: Meter = NOT_METERED

    @abstractmethod
    def check(self) -> Iterator[StepResult]:
        """Test the connection in readable steps, stopping at the first that fails."""

    @abstractmethod
    def datasets(self) -> list[str]:
        """Names of the datasets this connection can see, sorted."""

    @abstractmethod
    def tables(self, dataset: str) -> list[TableInfo]: ...

    @abstractmethod
    def describe(self, request: ReadRequest) -> Description:
        """Say what a read would give, without cost; raises ConnectorError if it cannot be read."""

    @abstractmethod
    def preview(
        self, request: ReadRequest, *, limit: int = 20, rules: Mapping[str, ColumnRule] | None = None
    ) -> Preview:
        """The first rows; by `rules` as a target would have them, HMACs made with some key that nothing else is."""

    @abstractmethod
    def plan(
        self,
        request: ReadRequest,
        *,
        max_parts: int = 10,
        spread: bool = False,
        stop: StopSignal | None = None,
    ) -> ReadPlan:
        """Fix what will be read: schema, snapshot time, parts, estimated rows and bytes.

        With `spread` the parts are meant for as many workers as `max_parts`. A query is run here: `stop`
        cancels it.
        """

    @abstractmethod
    def resume(self, plan: ReadPlan) -> None:
        """From now on read, open and count the parts of this plan, whichever process made it."""

    @abstractmethod
    def open_part(self, part: Part, *, stop: StopSignal) -> Part | None:
        """The part to read for this part of the plan, which stays the same to its end; None if it has no rows.

        Rows of the part that is returned keep their places: another process may read on from any of them.
        """

    @abstractmethod
    def read(self, part: Part, *, start: int = 0, stop: StopSignal) -> Iterator[pa.RecordBatch]:
        """Yield the rows of `part` from row offset `start` on, columns in any order.

        Raises TransientError if another try is worth it; its code is session_lost when the part can no longer
        be read, whoever tries: it must be opened again, or planned anew.
        """

    @abstractmethod
    def count(self, request: ReadRequest, plan: ReadPlan, *, stop: StopSignal) -> int | None:
        """How many rows the source itself says a whole read at the plan's snapshot has; None where it cannot tell."""

    def estimate(self, request: ReadRequest) -> Estimate:
        """What a run would bill that reads this, found out without cost; raises ConnectorError if it cannot be read."""
        return Estimate(None, None, why="This kind of source does not tell what it bills.")

    def look(self, table: str) -> TableState:
        """What the system's own record says of a table, without cost.

        Raises ConnectorError, code watch_unsupported, where that does not tell of changes.
        """
        raise ConnectorError(
            f"This kind of source does not tell when {table} changes.", code="watch_unsupported", field="table"
        )

    def tables_behind(self, request: ReadRequest) -> tuple[str, ...]:
        """The tables whose rows a read depends on, for `look`; asked without cost."""
        return (request.table,) if request.table else ()

    @abstractmethod
    def survey(self, request: ReadRequest, at: datetime | None) -> Survey:
        """Say what a comparison would read as it was `at`, or as it is, without cost.

        Raises ConnectorError, code snapshot_gone, if it is no longer there as it was then.
        """

    @abstractmethod
    def comparing(
        self, request: ReadRequest, scope: Scope, columns: tuple[Column, ...], cost: Cost, *, stop: StopSignal
    ) -> Side:
        """The rows of `scope` as one side of a comparison; what reading them costs is added to `cost`."""

    @abstractmethod
    def close(self) -> None: ...


class Destination(ABC):
    """A system that rows are written to."""

    Options: ClassVar[type]

    @property
    def mask_key(self) -> str:
        """What HMACs are made with before they are written here; empty if there is none. A secret."""
        return ""

    @abstractmethod
    def check(self) -> Iterator[StepResult]:
        """Test the connection in readable steps, stopping at the first that fails."""

    @abstractmethod
    def schemas(self) -> list[str]: ...

    @abstractmethod
    def validate_target(
        self, target: Target, columns: tuple[Column, ...], mode: WriteMode, *, pipeline: UUID, adopt: bool
    ) -> list[ConnectorError]:
        """What stands against writing `columns` to `target`, found without writing; each with its `field`."""

    @abstractmethod
    def forecast(self, target: Target, columns: tuple[Column, ...], mode: WriteMode) -> Forecast:
        """What a run would do to `target` as things stand; raises ConnectorError for what it would refuse at once."""

    def validate_sql(self, sql: SqlAround) -> list[ConnectorError]:
        """What stands against running SQL around loads, found without running it; each with its `field`."""
        return []

    def former_states(self, pipeline: UUID) -> list[FormerState]:
        """What is kept of the pipeline's targets for an undo; of each, the newest first."""
        return []

    @abstractmethod
    def raise_fence(self, target: Target, owner: Owner, *, adopt: bool = False) -> Fence:
        """Make `owner` the only one who can commit to `target`, and say where things stand.

        With `adopt`, a table that exists but was never written by a pipeline may be taken over.
        """

    @abstractmethod
    def published(self, target: Target) -> Published | None:
        """What a pipeline last published to `target`; None if nothing was."""

    @abstractmethod
    def size(self, target: Target) -> TableInfo | None:
        """How large the target is, about; None if there is none."""

    @abstractmethod
    def comparing(
        self, target: Target, *, mode: WriteMode | None = None, stop: StopSignal
    ) -> AbstractContextManager[TargetSide]:
        """The target as one side of a comparison, in one transaction that only reads.

        What runs of `mode` keep of rows that are gone is no part of it.
        """

    @abstractmethod
    def close(self) -> None: ...
