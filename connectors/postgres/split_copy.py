"""COPY into a new partitioned table: rows are sorted out in Arrow, and each partition is filled on its own.

PostgreSQL can freeze rows only in a table that is no partitioned one. Frozen they must be, or a reader
whose snapshot is older than the publish would find the table empty; so the partition is named here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from connectors.base import StopSignal
from connectors.column import Column
from connectors.columns.divert import Diverter
from connectors.columns.encode import BatchEncoder
from connectors.modes import TextPolicy
from connectors.postgres.copy import CopyResult, Feed, copy_parts
from connectors.postgres.publish.partitions import NewTree, Partitioning

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

# What is gathered before it is sent: enough for long COPYs where rows of many partitions come mixed.
GATHER_BYTES = 32 << 20


def copy_into_tree(
    cursor: Cursor,
    tree: NewTree,
    columns: Sequence[Column],
    readers: Sequence[Callable[[], Iterator[pa.RecordBatch]]],
    *,
    on_batch: Callable[[int, int], None],
    stop: StopSignal,
    text_policy: TextPolicy = TextPolicy.FAIL,
    diverter: Diverter | None = None,
) -> CopyResult:
    """COPY what all readers yield into the partitions of `tree`; see `copy_parts`.

    Raises ConnectorError, codes null_partition with the number of rows without a place, too_many_partitions.
    """
    gathered: dict[date, list[pa.RecordBatch]] = defaultdict(list)
    waiting = rows = size = nulls = 0
    aside = BatchEncoder(columns, text_policy, diverter=diverter)
    aside.header()
    repaired: dict[str, int] = defaultdict(int)

    def send() -> None:
        nonlocal waiting, rows, size
        for start in sorted(gathered):
            done = copy_parts(
                cursor,
                tree.partition(start),
                columns,
                [gathered.pop(start).__iter__],
                freeze=True,
                on_batch=on_batch,
                stop=stop,
                text_policy=text_policy,
                diverter=diverter,
            )
            rows, size = rows + done.rows, size + done.bytes
            for column, count in done.repaired.items():
                repaired[column] += count
        waiting = 0

    with Feed(readers, stop) as feed:
        for batch in feed:
            for start, some in sort_out(batch, tree.by):
                if start is None and diverter is not None:
                    # No partition takes them, so the diverter takes them all.
                    on_batch(some.num_rows, sum(map(len, aside.encode(some))))
                elif start is None:
                    nulls += some.num_rows
                elif not nulls:
                    gathered[start].append(some)
                    waiting += some.nbytes
            if waiting >= GATHER_BYTES:
                send()
    tree.by.refuse_nulls(nulls)
    send()
    return CopyResult(rows, size, dict(repaired), diverter.rows if diverter else 0)


def sort_out(batch: pa.RecordBatch, by: Partitioning) -> Iterator[tuple[date | None, pa.RecordBatch]]:
    """The rows of `batch` by the day on which their partition begins; None for those without a time."""
    if not batch.num_rows:
        return
    starts = pc.floor_temporal(batch.column(by.source), unit=str(by.unit)).cast(pa.date32())
    if pc.count_distinct(starts, mode="all").as_py() == 1:
        yield starts[0].as_py(), batch
        return
    order = pc.sort_indices(starts)
    ends = pc.run_end_encode(starts.take(order))
    begin = 0
    for end, start in zip(ends.run_ends.to_pylist(), ends.values.to_pylist(), strict=True):
        yield start, batch.take(order.slice(begin, end - begin))
        begin = end
