"""Logical bytes as BigQuery counts them: https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as kinds

MIB = 1 << 20
_LEAST_BILLED = 10 * MIB  # for each table that a query names


def logical_bytes(rows: pa.Table) -> int:
    return sum(column_bytes(rows).values())


def column_bytes(rows: pa.Table) -> dict[str, int]:
    """By the columns' names in lower case."""
    return {name.lower(): _of_column(rows.column(i)) for i, name in enumerate(rows.column_names)}


def billed_bytes(processed: int, tables: int) -> int:
    """Whole megabytes, at least ten for each table; nothing where only the tables' own counts are asked for."""
    return max(-(-processed // MIB) * MIB, _LEAST_BILLED * tables) if processed else 0


def _of_column(column: pa.ChunkedArray) -> int:
    kind = column.type
    present = len(column) - column.null_count
    if kinds.is_list(kind) or kinds.is_large_list(kind):
        return _of_column(pc.list_flatten(column))
    if kinds.is_struct(kind):
        return sum(_of_column(child) for child in column.flatten())
    if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_binary(kind) or kinds.is_large_binary(kind):
        return 2 * present + int(pc.sum(pc.binary_length(column)).as_py() or 0)
    if kinds.is_boolean(kind):
        return present
    if kinds.is_decimal(kind):
        return present * (16 if kind.bit_width <= 128 else 32)
    return present * (16 if kind == pa.month_day_nano_interval() else 8)
