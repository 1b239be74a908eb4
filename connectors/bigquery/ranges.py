"""Parts that outlive a read session: ranges of the column that a table is partitioned by.

Together the ranges hold every row once, whatever the list of partitions says: it only chooses where to cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from google.cloud import bigquery

from connectors import cursor
from connectors.bigquery.digest import quote
from connectors.bigquery.schema import TableRef
from connectors.column import Column
from connectors.cursor import Interval
from connectors.reading import Part

# Opening a part takes BigQuery about a second; a part that is lost is read again from its beginning.
PART_BYTES_LEAST, PART_BYTES_MOST = 64 << 20, 256 << 20
# For each worker: enough that none is left alone with the last part, and no more than are worth their opening.
PARTS_LEAST, PARTS_MOST = 4, 32
_ROW_BYTES = 100.0
PSEUDO_COLUMN = "_PARTITIONTIME"
_FORMATS = {"HOUR": "%Y%m%d%H", "DAY": "%Y%m%d", "MONTH": "%Y%m", "YEAR": "%Y"}
_NULLS = "__NULL__"


@dataclass(frozen=True)
class Partitioning:
    """The column that a table is partitioned by; `unit` is HOUR, DAY, MONTH or YEAR, empty for whole numbers."""

    column: str
    type: str
    unit: str = ""

    @property
    def sql(self) -> str:
        """The column's name in the condition of a read session."""
        return self.column if self.column == PSEUDO_COLUMN else quote(self.column).removeprefix("t.")

    def low_of(self, partition: str) -> int | None:
        """The lowest value of a partition, as a number of `cursor`; None for those that are no range of values."""
        try:
            if not self.unit:
                return int(partition)
            begin = datetime.strptime(partition, _FORMATS[self.unit])
        except ValueError:
            return None
        text = begin.date().isoformat() if self.type == "DATE" else begin.isoformat()
        return cursor.number_of(text, self.type)


@dataclass(frozen=True)
class Range:
    """Values from `low` on and below `high`, as texts of `cursor`, empty for no bound; or the rows without a value."""

    low: str = ""
    high: str = ""
    is_null: bool = False

    @classmethod
    def parse(cls, text: str) -> Range | None:
        """The range that a Part's id names; None if it names something else."""
        kind, _, rest = text.partition("|")
        if kind == "null":
            return cls(is_null=True)
        low, _, high = rest.partition("|")
        return cls(low, high) if kind == "range" else None

    @property
    def text(self) -> str:
        return "null|" if self.is_null else f"range|{self.low}|{self.high}"

    def name(self, column: str) -> str:
        """The range in words."""
        if self.is_null:
            return f"{column} is NULL"
        if self.low and self.high:
            return f"{column} from {self.low} to before {self.high}"
        return f"{column} from {self.low} on" if self.low else f"{column} before {self.high}" if self.high else column

    def condition(self, column_sql: str, type_: str) -> str:
        """What is true of the range's rows, in GoogleSQL."""
        if self.is_null:
            return f"{column_sql} IS NULL"
        bounds = ((">=", self.low), ("<", self.high))
        found = [f"{column_sql} {sign} {cursor.literal(cursor.number_of(b, type_), type_)}" for sign, b in bounds if b]
        return " AND ".join(found) or f"{column_sql} IS NOT NULL"


@dataclass(frozen=True)
class Partition:
    """A partition's lowest value, None for NULLs, and how large it is."""

    low: int | None
    rows: int
    bytes: int


def partitioning_of(table: bigquery.Table, columns: Sequence[Column]) -> Partitioning | None:
    """What the table's parts can be ranges of; None if it has no partitions, or their values may yet change."""
    if table.range_partitioning is not None:
        return Partitioning(table.range_partitioning.field, "INT64")
    time = table.time_partitioning
    if time is None or time.type_ not in _FORMATS:
        return None
    if not time.field:
        # Rows of the streaming buffer get their partition later.
        return None if table.streaming_buffer is not None else Partitioning(PSEUDO_COLUMN, "TIMESTAMP", time.type_)
    column = next((column for column in columns if column.name.lower() == time.field.lower()), None)
    if column is None or column.type not in cursor.CURSOR_TYPES:
        return None
    return Partitioning(column.name, column.type, time.type_)


def all_of(*conditions: str) -> str:
    """The condition that all of these hold; an empty one always does."""
    return " AND ".join(filter(None, conditions))


def row_bytes(table: bigquery.Table) -> float:
    """How large a row is on average; a guess where the server tells no sizes, as emulators do."""
    return table.num_bytes / table.num_rows if table.num_bytes and table.num_rows else _ROW_BYTES


def listing(ref: TableRef) -> str:
    """The SELECT of id, rows and bytes of a table's partitions."""
    return (
        "SELECT partition_id, total_rows, total_logical_bytes"
        f" FROM `{ref.project}.{ref.dataset}.INFORMATION_SCHEMA.PARTITIONS` WHERE table_name = '{ref.table}'"
    )


def listed(
    rows: Iterable[tuple[str | None, int, int]], by: Partitioning, table: bigquery.Table, interval: Interval | None
) -> list[Partition]:
    """The partitions with rows to read, in order; those outside of `interval` have none, if it is of their column."""
    average = row_bytes(table)
    found = []
    for name, count, size in rows:
        low = by.low_of(name or "")
        if low is not None or name == _NULLS:
            found.append(Partition(low, count, size or round(count * average)))
    values = sorted((p for p in found if p.low is not None), key=lambda p: p.low or 0)
    nulls = [p for p in found if p.low is None]
    if interval is None or interval.column.lower() != by.column.lower():
        return values + nulls
    if interval.low:
        low = cursor.number_of(interval.low, by.type)
        # A partition ends where the next one begins, or later.
        values = [p for p, after in pairwise(values) if (after.low or 0) > low] + values[-1:]
    if interval.high:
        high = cursor.number_of(interval.high, by.type)
        values = [p for p in values if (p.low or 0) <= high]
    return values + ([] if interval.low else nulls)


def divide(
    partitions: Sequence[Partition], by: Partitioning, *, workers: int, reads_nulls: bool, must: bool = False
) -> tuple[Part, ...]:
    """Ranges of `by` that hold all values, neighbours merged where they are small, the largest first.

    None at all where streams would spread the rows better over the workers, unless there `must` be some.
    """
    values = [p for p in partitions if p.low is not None]
    nulls = [p for p in partitions if p.low is None]
    total = sum(p.bytes for p in partitions)
    wanted = min(max(total / (workers * PARTS_LEAST), PART_BYTES_LEAST), PART_BYTES_MOST)
    groups = _merged(values, max(wanted, total / (workers * PARTS_MOST)))
    cuts = ["", *(cursor.text_of(group[0].low or 0, by.type) for group in groups[1:]), ""]
    found = [(Range(low, high), group) for (low, high), group in zip(pairwise(cuts), groups or [[]], strict=True)]
    if reads_nulls:
        found.append((Range(is_null=True), nulls))
    parts = [
        Part(range_.text, range_.name(by.column), sum(p.rows for p in group), sum(p.bytes for p in group))
        for range_, group in found
    ]
    parts.sort(key=lambda part: part.bytes or 0, reverse=True)
    is_lopsided = (parts[0].bytes or 0) > 2 * total / workers
    return tuple(parts) if must or (len(groups) >= workers and not is_lopsided) else ()


def _merged(partitions: Sequence[Partition], most: float) -> list[list[Partition]]:
    """Neighbours together, as long as they are no more than `most` bytes."""
    groups: list[list[Partition]] = []
    size = 0
    for partition in partitions:
        if groups and size + partition.bytes <= most:
            groups[-1].append(partition)
            size += partition.bytes
        else:
            groups.append([partition])
            size = partition.bytes
    return groups
