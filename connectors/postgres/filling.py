"""The rows of a load on their way into one table, counted; what cannot be stored goes into quarantine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import psycopg2
from psycopg2 import sql

from connectors.base import StopSignal
from connectors.checks import Check
from connectors.column import Column
from connectors.columns.divert import Diverter
from connectors.errors import ConnectorError
from connectors.modes import TextPolicy
from connectors.postgres.client import Session
from connectors.postgres.copy import CopyResult, copy_parts
from connectors.postgres.ddl import without_zones
from connectors.postgres.publish.partitions import NewTree, Partitioning
from connectors.postgres.quarantine import Quarantine
from connectors.postgres.split_copy import copy_into_tree
from connectors.writing import Target

if TYPE_CHECKING:
    import pyarrow as pa

Readers = Sequence[Callable[[], "Iterator[pa.RecordBatch]"]]
OnBatch = Callable[[int, int], None]


def fill(
    session: Session,
    into: Target,
    columns: Sequence[Column],
    readers: Readers,
    *,
    by: Partitioning | None,
    is_new: bool,
    on_batch: OnBatch,
    stop: StopSignal,
    text_policy: TextPolicy,
    diverter: Diverter | None,
    checks: Sequence[Check] = (),
) -> CopyResult:
    """COPY what the readers give into a table, or `by` a column into the partitions of a new one.

    Of partitions, filled apart, nothing is proven for `checks`.
    """
    cursor = session.connection.cursor()
    if by is not None:
        return copy_into_tree(
            *(cursor, NewTree(session, into, by), columns, readers),
            on_batch=on_batch,
            stop=stop,
            text_policy=text_policy,
            diverter=diverter,
        )
    name = sql.Identifier(into.schema, into.table)
    with without_zones(cursor, name, columns) if is_new else nullcontext():
        return copy_parts(
            *(cursor, name, columns, readers),
            freeze=is_new,
            on_batch=on_batch,
            stop=stop,
            text_policy=text_policy,
            diverter=diverter,
            checks=checks,
        )


def counted(
    copy: Callable[[OnBatch], CopyResult],
    look_closer: Callable[[psycopg2.Error], None],
    target: Target,
    quarantine: Quarantine,
    *,
    on_batch: OnBatch,
) -> CopyResult:
    """Copy all rows, and see that each was taken or put aside; with a closer look where PostgreSQL refuses a value.

    Raises ConnectorError, code rows_differ.
    """
    read = size = 0

    def count(batch_rows: int, batch_bytes: int) -> None:
        nonlocal read, size
        read, size = read + batch_rows, size + batch_bytes
        on_batch(batch_rows, batch_bytes)

    try:
        copied = copy(count)
    except psycopg2.DataError as error:
        if not quarantine.is_on or quarantine.is_strict:
            raise
        count(-read, -size)
        look_closer(error)
        copied = copy(count)
    quarantine.write()
    if copied.read != read:
        aside = f" beside {copied.diverted} that went into quarantine" if copied.diverted else ""
        raise ConnectorError(
            f"{read} rows were read, but {target} took {copied.rows}{aside}.",
            hint="A trigger on the table may drop rows.",
            code="rows_differ",
            field="table",
        )
    return copied
