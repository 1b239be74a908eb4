"""Columns and rows that a read session asks for."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
from bqemulator.sql.translator import SQLTranslator

_ROW = "row_number_in_the_table"


class BadFilter(Exception):
    """What BigQuery says when it will not read so."""


def narrowed(rows: pa.Table, fields: list[str], restriction: str) -> pa.Table:
    """The rows for which `restriction`, in BigQuery's SQL, is true; of these the columns `fields`, or all."""
    if restriction:
        rows = rows.take(_matching(rows, restriction))
    if not fields:
        return rows
    known = {name.lower(): name for name in rows.column_names}
    if missing := [field for field in fields if field.lower() not in known]:
        raise BadFilter(f"The following selected fields do not exist in the table schema: {', '.join(missing)}")
    wanted = {known[field.lower()] for field in fields}
    # In the table's own order, whatever the order asked for.
    return rows.select([name for name in rows.column_names if name in wanted])


def _matching(rows: pa.Table, restriction: str) -> pa.Array:
    numbered = rows.append_column(_ROW, pa.array(np.arange(rows.num_rows)))
    translated = SQLTranslator().translate(f"SELECT {_ROW} FROM numbered WHERE {restriction}")
    sql = getattr(translated, "value", None)
    if sql is None:
        raise BadFilter(f"row filter is not valid: {restriction}")
    with duckdb.connect() as connection:
        connection.register("numbered", numbered)
        try:
            found = connection.execute(sql).to_arrow_table()
        except duckdb.Error as error:
            raise BadFilter(f"row filter is not valid: {error}") from error
    return found.column(0).combine_chunks().sort()
