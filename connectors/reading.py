"""What is read: the request, the plan that fixes it, and what look-ups tell of a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from connectors.cursor import CursorRead, Interval
from connectors.parameters import Parameter

if TYPE_CHECKING:
    pass

from connectors.column import Column, column_from_json


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
