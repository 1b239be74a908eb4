"""What PostgreSQL alone would find in values whose types are right: asked for once it has refused a COPY.

BigQuery has no such values: its dates end with the year 9999, its documents are JSON. Texts that a rule stores as
JSON can be anything, and so can what other sources send.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from connectors.column import Column
from connectors.columns import json_checks
from connectors.columns.casts import decimals
from connectors.columns.characters import RefusedValues
from connectors.types import base_type, postgres_type

# Days and microseconds since 1970 that PostgreSQL has: from 4713 BC on, to the years 5874897 and 294276.
_DAYS = (-2_440_588, 2_145_042_905)
_MICROS = (-210_866_803_200_000_000, 2**63 - 1)
_OF_A_DAY = (0, 86_400_000_000)
_HINT = "Correct the value at the source, or leave it out with a query."


def refuse_value(array: pa.Array, column: Column) -> None:
    """Raise RefusedValues, or ArrowInvalid, where a value of the source is out of the range of PostgreSQL's type."""
    if column.repeated:
        refuse_value(array.flatten(), replace(column, repeated=False))
        return
    match column.type:
        case "STRUCT":
            return
        case "RANGE":
            start, end = array.flatten()
            for bound in (start, end):
                refuse_value(bound, Column(column.name, column.element))
            _refuse(pc.greater(start, end), column, "a range whose start comes after its end")
        case "DATE":
            _refuse(_outside(array.view(pa.int32()), _DAYS), column, "a date that PostgreSQL does not have")
        case "DATETIME" | "TIMESTAMP":
            _refuse(_outside(array.cast(pa.int64()), _MICROS), column, "a time that PostgreSQL does not have")
        case "TIME":
            _refuse(_outside(array.cast(pa.int64()), _OF_A_DAY), column, "a time that no day has")
        case "NUMERIC" | "BIGNUMERIC" if column.precision is not None and not column.target_type:
            decimals(postgres_type(column))(array)


def refuse_document(prepared: pa.Array, column: Column) -> None:
    """Raise RefusedValues where a text that is written as JSON is none."""
    base = base_type(postgres_type(column)).removesuffix("[]")
    if base not in ("json", "jsonb"):
        return
    texts = prepared.flatten() if pa.types.is_list(prepared.type) else prepared
    wrong = json_checks.refused(texts, is_jsonb=base == "jsonb")
    _refuse(wrong, column, f"a text that {base} does not take", code="bad_json")


def _outside(numbers: pa.Array, bounds: tuple[int, int]) -> pa.Array:
    first, last = bounds
    return pc.or_(pc.less(numbers, first), pc.greater(numbers, last))


def _refuse(is_wrong: pa.Array, column: Column, what: str, *, code: str = "value_out_of_range") -> None:
    if pc.any(is_wrong).as_py():
        message = f"Column {column.name} holds {what}."
        raise RefusedValues(message, hint=_HINT, code=code, field=column.name, rows=is_wrong)
