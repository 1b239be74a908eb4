"""What a system's own record says of a table, and whether that tells of a change: for all who wait for one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class TableState:
    """`streaming` tells of rows that are in the table and in none of the other numbers yet; empty if there are none."""

    modified: datetime | None
    rows: int | None
    bytes: int | None
    streaming: str = ""

    @property
    def record(self) -> str:
        """Two that differ tell of a change among the rows that are not being streamed in."""
        modified = self.modified.isoformat() if self.modified else ""
        return "|".join([modified, str(self.rows), str(self.bytes)])

    @property
    def fingerprint(self) -> str:
        """Two that differ tell of a change."""
        return f"{self.record}|{self.streaming}"


@dataclass(frozen=True)
class SourceState:
    """The tables behind a read, together. `unseen`: those of which no record tells when their rows change."""

    record: str
    streaming: str = ""
    unseen: tuple[str, ...] = ()

    @classmethod
    def of(cls, tables: Iterable[tuple[str, TableState]], unseen: Iterable[str] = ()) -> SourceState:
        found = sorted(tables)
        return cls(
            "\n".join(f"{name}|{state.record}" for name, state in found),
            "\n".join(f"{name}|{state.streaming}" for name, state in found if state.streaming),
            tuple(sorted(unseen)),
        )
