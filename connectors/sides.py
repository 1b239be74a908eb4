"""What a comparison asks of either side: both answer in SQL over the canonical texts, so equal rows give equal numbers.

A row is known by hashes of 60 bits, which are positive in BigQuery's INT64 and PostgreSQL's bigint: the first
15 hexadecimal digits of an md5.

    hash of a value   the first 16 digits of the md5 of its text; "-" for NULL, "+" where it is only counted
    hash of a row     of its columns' hashes, in order, with commas between
    hash of a key     the same of the key's columns; its upper bits number the bucket that the row is counted in
    sum of a bucket   of the lower 32 bits of its rows' hashes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from connectors.column import Column
from connectors.modes import TextPolicy

HASH_BITS = 60
HASH_DIGITS = HASH_BITS // 4
VALUE_DIGITS = 16
SUM_MASK = 0xFFFFFFFF
LONGEST_TEXT = 100  # of a value that is shown
HIDDEN = "masked"  # in the place of one that is not
# BigQuery refuses a query whose text or plan grows too large: https://cloud.google.com/bigquery/quotas
COLUMNS_A_QUERY = 100


@dataclass(frozen=True)
class ColumnDigest:
    """One column over a whole table: nulls counted, canonical texts summed.

    `checksum` is the sum of the first 8 hex digits of each text's md5; None where the type has no
    common text ("counted only").
    """

    name: str
    nulls: int
    checksum: int | None


@dataclass(frozen=True)
class TableDigest:
    rows: int
    columns: tuple[ColumnDigest, ...]


@dataclass(frozen=True)
class Reach:
    """The values of a cursor that runs have read so far, from `initial` (empty: all) to the `watermark`.

    Rows without a cursor count as read unless there is an `initial`; with no watermark yet they alone do.
    """

    initial: str
    watermark: str


@dataclass(frozen=True)
class Scope:
    """Which rows of a source are compared.

    As they were `at`, or as they are. With a `reach`, only what runs have read of the `cursor`. With `newest_of`, of
    the rows with one such key only the newest by the cursor. `text_policy` says what became of characters that the
    target cannot store.
    """

    at: datetime | None = None
    cursor: str = ""
    reach: Reach | None = None
    newest_of: tuple[str, ...] = ()
    text_policy: TextPolicy = TextPolicy.FAIL


@dataclass(frozen=True)
class Survey:
    """What a comparison would read of a source, found out without reading it.

    `columns` as they were at the time asked for. `bytes` are those of one pass over all columns. `is_pinned` when it
    can be read as it was; else `why_not` says why. `now` is a moment to read it at as it is, None where it cannot be
    pinned. `unchanged` when nothing of it changed since the time asked for, False when something did, None when
    that cannot be told.
    """

    columns: tuple[Column, ...]
    bytes: int | None
    is_pinned: bool
    now: datetime | None
    unchanged: bool | None
    why_not: str = ""


@dataclass(frozen=True)
class Published:
    """What a target holds by its own record: the `run` that last moved rows, with its receipt.

    `head` is the last run of any kind. For a target that every run appends all rows to, `appends` are the runs since
    it was last written as a whole, and `rows` what it has by record, None where that is not known.
    `columns` is what the head has of the target's columns.
    """

    installation: UUID
    pipeline: UUID
    head: UUID
    fingerprint: str
    run: UUID
    receipt: Mapping[str, Any]
    appends: int = 0
    rows: int | None = None
    columns: Mapping[str, Any] | None = None

    @property
    def watermark(self) -> str:
        return str(self.receipt.get("watermark_after") or "")

    @property
    def snapshot_time(self) -> datetime:
        return datetime.fromisoformat(self.receipt["snapshot_time"])


@dataclass(frozen=True)
class Keyed:
    """How rows are told apart: hashes over `columns`, known by `key`, counted in 2 ** `bits` buckets.

    Of the `counted`, by name, only whether they are NULL goes into a hash.
    """

    columns: tuple[Column, ...]
    key: tuple[Column, ...]
    counted: frozenset[str] = frozenset()
    bits: int = 0

    @property
    def shift(self) -> int:
        """What leaves the bucket's number of a key's hash."""
        return HASH_BITS - self.bits


@dataclass(frozen=True)
class Bucket:
    rows: int
    sum: int


@dataclass(frozen=True)
class Row:
    """A row as it is shown: for each column the hash of its value, and its text, None for NULL."""

    key: int
    hashes: tuple[str, ...]
    texts: tuple[str | None, ...]


class Side(Protocol):
    """One side of a comparison: a source at one moment, or a target in one transaction."""

    def digest(self, columns: Sequence[Column]) -> TableDigest: ...

    def buckets(self, keyed: Keyed) -> Mapping[int, Bucket]:
        """The buckets that have rows, by number."""
        ...

    def hashes(self, keyed: Keyed, chosen: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Hashes of key and row, of every row in the `chosen` buckets; none chosen means all."""
        ...

    def rows(self, keyed: Keyed, keys: Sequence[int]) -> Sequence[Row]:
        """The rows whose key has one of these hashes."""
        ...


class TargetSide(Side, Protocol):
    def published(self) -> Published | None:
        """What was last published, as of this transaction."""
        ...

    def put_aside(self, key: Sequence[Column], run: UUID | None) -> PutAside:
        """What is in quarantine, open or discarded; of a target that is read as a whole, what this run put there."""
        ...

    def present(self, columns: Sequence[Column]) -> tuple[Column, ...]:
        """Those of the columns that the target has; raises ConnectorError if there is no target."""
        ...


@dataclass(frozen=True)
class PutAside:
    """Rows of the source that a target lacks because they are in its quarantine; `keys` are hashes of their keys."""

    rows: int = 0
    keys: frozenset[int] = frozenset()


NOTHING_ASIDE = PutAside()


@dataclass
class Cost:
    """What reading a source has cost so far."""

    jobs: list[str] = field(default_factory=list)
    bytes_processed: int = 0
    bytes_billed: int = 0
