"""One column through a real binary COPY."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from psycopg2 import sql

from connectors.column import Column
from connectors.columns.encode import BatchEncoder
from connectors.postgres.ddl import create_table

# Values of the column, as PostgreSQL gives them back through the expression (v by default).
Survivors = Callable[..., list[Any]]


@pytest.fixture
def survivors(warehouse_cursor: Any) -> Survivors:
    """COPY an array of a column named v into a table of its own and read it back, in order.

    The array is a slice of a longer one; `encoder` is made for the column where a test wants to see it.
    """
    cursor = warehouse_cursor
    table = sql.Identifier("survivors")
    position = Column("position", "INT64")

    def copy(column: Column, array: pa.Array, read: str = "v", encoder: BatchEncoder | None = None) -> list[Any]:
        encoder = encoder or BatchEncoder([position, column])
        padded = pa.concat_arrays([array[-1:], array, array[:1]])
        batch = pa.record_batch([padded, pa.array(range(len(padded)), pa.int64())], names=["v", "position"])
        data = b"".join([encoder.header(), *encoder.encode(batch.slice(1, len(array))), encoder.finish()])
        cursor.execute("SET timezone = 'UTC'")
        cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
        cursor.execute(create_table(table, (position, column)))
        cursor.copy_expert("COPY survivors FROM STDIN (FORMAT binary)", io.BytesIO(data))
        cursor.execute(f"SELECT {read} FROM survivors ORDER BY position")
        return [value for (value,) in cursor.fetchall()]

    return copy
