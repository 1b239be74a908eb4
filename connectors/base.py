"""The contracts between the engine and the systems it reads from and writes to.

Nothing here imports Google's clients, psycopg2 or pyarrow: web and beat import this module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Protocol
from uuid import UUID

from connectors.billing import NOT_METERED, Estimate, Meter
from connectors.errors import ConnectorError
from connectors.sql_around import SqlAround
from connectors.watching import TableState

if TYPE_CHECKING:
    import pyarrow as pa

    from connectors.checks import CheckResult
    from connectors.column_rules import ColumnRule
    from connectors.errors import ConnectorError
    from connectors.forecast import Forecast
    from connectors.former import FormerState
    from connectors.sides import Cost, Published, Scope, Side, Survey, TargetSide

from connectors.column import Column
from connectors.modes import WriteMode
from connectors.reading import Description, Part, Preview, ReadPlan, ReadRequest, TableInfo
from connectors.writing import Fence, Owner, Target


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
