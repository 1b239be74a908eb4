"""What reading a plan's parts takes beyond their names: kept with the plan, so that any process can read them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

_LISTS = ("geography", "skip", "version")


@dataclass(frozen=True)
class RangeReading:
    """How a part that is a range of the column `by` is opened: `columns` of the table at `snapshot`.

    `table` is the path, `restriction` a condition that holds for all parts, `by` is as GoogleSQL names it.
    """

    table: str
    snapshot: str
    columns: tuple[str, ...]
    restriction: str
    by: str
    type: str


@dataclass(frozen=True)
class Reading:
    """How to read and count what a plan names.

    `skip` are columns that pages are read without, `version` is the table's while the plan was made, where it is
    read in pages; `counted` is what to count, in GoogleSQL. `ranges` are set where parts are ranges. What streams give
    `is_billed` unless it is a query's result: `row_bytes` for each row, where that is known.
    """

    subject: str = "The read stream"
    schema: pa.Schema | None = None
    geography: tuple[str, ...] = ()
    honours_offsets: bool = False
    counted: str = ""
    skip: tuple[str, ...] = ()
    version: tuple[str | None, ...] = ()
    ranges: RangeReading | None = None
    is_billed: bool = False
    row_bytes: float | None = None

    def to_json(self) -> dict[str, Any]:
        schema = None if self.schema is None else base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        ranges = None if self.ranges is None else {**asdict(self.ranges), "columns": list(self.ranges.columns)}
        lists = {name: list(getattr(self, name)) for name in _LISTS}
        return {**asdict(replace(self, schema=None)), **lists, "schema": schema, "ranges": ranges}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reading:
        schema, ranges = values["schema"], values["ranges"]
        return cls(
            **{
                **values,
                **{name: tuple(values[name]) for name in _LISTS},
                "schema": schema and pa.ipc.read_schema(pa.py_buffer(base64.b64decode(schema))),
                "ranges": ranges and RangeReading(**{**ranges, "columns": tuple(ranges["columns"])}),
            }
        )
