"""Which Arrow types a column may arrive in: the middle of the type table.

BigQuery's decimals come in the precision of the column, of the type or, from other servers, of the
expression: any decimal will do, for PostgreSQL's binary numeric carries its own scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from connectors.column import Column


def fits(column: Column, type_: pa.DataType) -> bool:
    """Whether values of `type_` can be encoded as `column`: a wrong type could go into PostgreSQL silently."""
    if column.repeated:
        return bool(pa.types.is_list(type_)) and fits(replace(column, repeated=False), type_.value_type)
    if column.type == "STRUCT":
        return (
            bool(pa.types.is_struct(type_))
            and type_.num_fields == len(column.columns)
            and all(
                type_.get_field_index(child.name) >= 0 and fits(child, type_.field(child.name).type)
                for child in column.columns
            )
        )
    if column.type == "RANGE":
        bound = _SCALARS[column.element]
        return bool(pa.types.is_struct(type_)) and type_.num_fields == 2 and all(bound(field.type) for field in type_)
    return _SCALARS[column.type](type_)


def _is_micros(type_: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(type_)) and type_.unit == "us"


_SCALARS: dict[str, Callable[[pa.DataType], bool]] = {
    "BOOL": pa.types.is_boolean,
    "INT64": pa.types.is_int64,
    "FLOAT64": pa.types.is_float64,
    "NUMERIC": pa.types.is_decimal128,
    "BIGNUMERIC": lambda type_: pa.types.is_decimal128(type_) or pa.types.is_decimal256(type_),
    "STRING": pa.types.is_string,
    "BYTES": pa.types.is_binary,
    "DATE": pa.types.is_date32,
    "TIME": lambda type_: pa.types.is_time64(type_) and type_.unit == "us",
    "DATETIME": lambda type_: _is_micros(type_) and type_.tz is None,
    "TIMESTAMP": lambda type_: _is_micros(type_) and type_.tz is not None,
    "JSON": pa.types.is_string,
    # WKT as text, or WKB.
    "GEOGRAPHY": lambda type_: pa.types.is_string(type_) or pa.types.is_binary(type_),
    "INTERVAL": lambda type_: type_ == pa.month_day_nano_interval(),
}
