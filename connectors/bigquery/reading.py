"""What reading a plan's parts takes beyond their names: kept with the plan, so that any process can read them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

_LISTS = ("geography", "skip", "version")


@dataclass(frozen=True)
class Reading:
    """How to read and count what a plan names.

    `skip` are columns that pages are read without, `version` is the table's while the plan was made, where it is
    read in pages; `counted` is what to count, in GoogleSQL.
    """

    subject: str = "The read stream"
    schema: pa.Schema | None = None
    geography: tuple[str, ...] = ()
    honours_offsets: bool = False
    counted: str = ""
    skip: tuple[str, ...] = ()
    version: tuple[str | None, ...] = ()

    def to_json(self) -> dict[str, Any]:
        schema = None if self.schema is None else base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        return {**asdict(self), **{name: list(getattr(self, name)) for name in _LISTS}, "schema": schema}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reading:
        schema = values["schema"]
        lists = {name: tuple(values[name]) for name in _LISTS}
        found = None if schema is None else pa.ipc.read_schema(pa.py_buffer(base64.b64decode(schema)))
        return cls(**{**values, **lists, "schema": found})
