"""What a source bills: told beforehand where that can be known, and counted while it reads.

Two things are billed by the byte, each at a price of its own: query jobs, and rows read through the Storage Read API.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

MIB = 1 << 20
TIB = 1 << 40
# BigQuery rounds a query up to whole MiB, and each table that it names to 10: https://cloud.google.com/bigquery/pricing
BILLED_IN = MIB
LEAST_BILLED = 10 * MIB


@dataclass(frozen=True)
class Bill:
    """Bytes that were billed for query jobs, and for what was read through the Storage Read API."""

    query_bytes: int = 0
    storage_bytes: int = 0

    @property
    def bytes(self) -> int:
        return self.query_bytes + self.storage_bytes

    def __add__(self, other: Bill) -> Bill:
        return Bill(self.query_bytes + other.query_bytes, self.storage_bytes + other.storage_bytes)


NOTHING_BILLED = Bill()


@dataclass(frozen=True)
class Estimate:
    """What a read would bill, found out without cost.

    None is what nobody can tell, and `why` says why; `is_least` when it may well be more.
    """

    query_bytes: int | None = 0
    storage_bytes: int | None = 0
    why: str = ""
    is_least: bool = False

    @property
    def bytes(self) -> int | None:
        """Both together; None where either is not known."""
        if self.query_bytes is None or self.storage_bytes is None:
            return None
        return self.query_bytes + self.storage_bytes


def billed_for(bytes: int, tables: int = 1) -> int:
    """What BigQuery bills for a query that processes so many bytes of so many tables."""
    if not bytes:
        return 0
    return max(-(-bytes // BILLED_IN) * BILLED_IN, LEAST_BILLED * max(1, tables))


class Meter:
    """Adds up what is billed, from any thread; `on_change` is called after each change, and must be quick.

    `on_estimate` is told beforehand, as far as planning a read knows what it will bill.
    """

    def __init__(
        self,
        on_change: Callable[[], None] = lambda: None,
        on_estimate: Callable[[Estimate], None] = lambda told: None,
    ) -> None:
        self._lock = threading.Lock()
        self._on_change = on_change
        self.expect = on_estimate
        self._jobs: dict[str, int] = {}
        self._storage = 0.0
        self.has_run = False

    def job(self, name: str, bytes_billed: int | None) -> None:
        """A query job as it stands: a job that is adopted by its name is billed once."""
        with self._lock:
            if not bytes_billed or self._jobs.get(name) == bytes_billed:
                return
            self._jobs[name] = bytes_billed
            self.has_run = True
        self._on_change()

    def storage(self, bytes_read: float) -> None:
        """Bytes read through the Storage Read API."""
        with self._lock:
            self._storage += bytes_read
            self.has_run = True
        self._on_change()

    @property
    def bill(self) -> Bill:
        with self._lock:
            return Bill(sum(self._jobs.values()), round(self._storage))


class _NotMetered(Meter):
    """Of look-ups, benches and tests, which nobody reads."""

    def job(self, name: str, bytes_billed: int | None) -> None:
        return None

    def storage(self, bytes_read: float) -> None:
        return None


NOT_METERED: Meter = _NotMetered()
