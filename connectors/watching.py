"""What a system's own record says of a table: enough to tell that its rows have changed."""

from __future__ import annotations

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
    def fingerprint(self) -> str:
        """Two that differ tell of a change."""
        modified = self.modified.isoformat() if self.modified else ""
        return "|".join([modified, str(self.rows), str(self.bytes), self.streaming])
