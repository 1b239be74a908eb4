"""Columns that a rule stores as another type: turned, in Arrow, into what another column would bring.

INT64 as text is written as a STRING column would be, DATE as timestamp as a DATETIME column. What has no
such twin (smallint, uuid, …) is written as BYTES, for a binary COPY carries bytes and no type.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.column import Column
from connectors.columns import json_text
from connectors.columns.binary import fixed, hex_text
from connectors.columns.buffers import cut, is_valid, offsets, value_bytes
from connectors.columns.characters import Characters
from connectors.columns.wkt import ewkb
from connectors.columns.zones import Clocks
from connectors.types import base_type, element_of

Change = Callable[[pa.Array], pa.Array]

# Types that are written as bytes of our own; inside arrays their elements have to be named.
_OIDS = {"smallint": 21, "integer": 23, "real": 700, "uuid": 2950, "character varying": 1043}
_SENT_AS = {"smallint": (pa.int16(), ">i2"), "integer": (pa.int32(), ">i4"), "real": (pa.float32(), ">f4")}
_DECIMAL128, _DECIMAL256 = 38, 76  # the most digits
_SHOWN = 40  # characters of a value in a message


class Misfits(pa.ArrowInvalid):  # type: ignore[misc] # pyarrow has no types
    """Values that do not fit: `rows` says which of those that were looked at."""

    def __init__(self, message: str, rows: pa.Array) -> None:
        super().__init__(message)
        self.rows = rows


@dataclass(frozen=True)
class Cast:
    """How a column is made into another: the values, and the column that would bring such values.

    `oid` names the elements of an array where the other column would name them wrongly.
    """

    change: Change
    column: Column
    oid: int | None = None


def cast_of(column: Column, characters: Characters) -> Cast:
    """How `column` is stored as its `target_type`; `change` raises ArrowInvalid for a value that does not fit.

    Of an array that stays one, it is its elements that are changed.
    """
    if column.repeated and column.target_type.endswith("[]"):
        element = element_of(column)
        return replace(cast_of(element, characters), oid=_OIDS.get(base_type(element.target_type)))
    type_, change = _change(column, characters)
    return Cast(change, Column(column.name, type_))


def _change(column: Column, characters: Characters) -> tuple[str, Change]:
    """The BigQuery type whose columns are written as `column` is to be, and what makes its values."""
    base = base_type(column.target_type)
    if column.repeated or column.type == "STRUCT":
        document = replace(column, target_type="")
        type_ = "JSON" if base == "jsonb" else "STRING"
        return type_, lambda array: json_text.json_text(array, document, characters)

    def mended(array: pa.Array) -> pa.Array:
        return characters.mend(array, column.type, column.name)

    match base:
        case "smallint" | "integer" | "real":
            return "BYTES", lambda array: _numbers(array, base)
        case "bigint":
            return "INT64", lambda array: array.cast(pa.int64())
        case "numeric":
            # Without bounds it shows no more digits than it has, as BIGNUMERIC does.
            is_small = column.type != "BIGNUMERIC" and column.target_type != base
            return ("NUMERIC" if is_small else "BIGNUMERIC"), decimals(column.target_type)
        case "text":
            return "STRING", _TEXTS.get(column.type, _plain)
        case "character varying":
            (length,) = _lengths(column.target_type)
            return "STRING", lambda array: _at_most(mended(array), length)
        case "uuid":
            return "BYTES", lambda array: _uuid(mended(array))
        case "geography" | "geometry":
            return "BYTES", _shapes
        case "json" | "jsonb":
            return ("JSON" if base == "jsonb" else "STRING"), lambda array: array
        case "timestamp without time zone":
            is_date = column.type == "DATE"
            return "DATETIME", (lambda array: array.cast(pa.timestamp("us"))) if is_date else Clocks(column.zone).local
        case "timestamp with time zone":
            return "TIMESTAMP", Clocks(column.zone).utc
    raise NotImplementedError(f"{column.type} as {column.target_type}")


def text_of(column: Column, array: pa.Array) -> pa.Array:
    """The values of a single column as the texts that it would be stored as if a rule made it text."""
    return array if column.type == "STRING" else _TEXTS.get(column.type, _plain)(array)


def _plain(array: pa.Array) -> pa.Array:
    return array.cast(pa.string())


def _lengths(type_: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", type_)]


def _numbers(array: pa.Array, base: str) -> pa.Array:
    """Numbers of fewer bytes, as PostgreSQL sends them."""
    type_, sent_as = _SENT_AS[base]
    cast = array.cast(type_)
    if base == "real":
        too_large = pc.and_(pc.is_inf(cast), pc.invert(pc.is_inf(array)))
        _refuse(array, too_large, "does not fit into a real")
    return fixed(cast.fill_null(0).to_numpy().astype(sent_as), is_valid(array))


def decimals(type_: str) -> Change:
    """Whole numbers and decimals as decimals, once it is sure that `type_` holds them: PostgreSQL would round."""
    precision, scale = _lengths(type_) or (0, 0)

    def change(array: pa.Array) -> pa.Array:
        exact = array.cast(pa.decimal128(19, 0)) if pa.types.is_int64(array.type) else array
        if precision:
            kept = min(scale, exact.type.scale)
            digits = precision - scale + kept
            is_small = pa.types.is_decimal128(exact.type)
            if digits == 0:
                _refuse(array, pc.not_equal(exact, pa.scalar(0, exact.type)), f"does not fit into {type_}")
            elif digits <= (_DECIMAL128 if is_small else _DECIMAL256):
                exact.cast(pa.decimal128(digits, kept) if is_small else pa.decimal256(digits, kept))
        return exact

    return change


def _moment(array: pa.Array) -> pa.Array:
    """ISO 8601 with six digits of a second; a date has none."""
    if pa.types.is_date32(array.type):
        return array.cast(pa.string())
    # Without its zone first: Arrow would ask for a zone database to print one.
    text = array.cast(pa.int64()).cast(pa.timestamp("us")).cast(pa.string())
    text = pc.replace_substring(text, " ", "T", max_replacements=1)
    return pc.binary_join_element_wise(text, "Z", "") if array.type.tz else text


def _at_most(array: pa.Array, length: int) -> pa.Array:
    # PostgreSQL would cut blanks off the end without a word.
    _refuse(array, pc.greater(pc.utf8_length(array), length), f"is longer than {length} characters")
    return array


_HEX_AT = np.array([i for i in range(36) if i not in (8, 13, 18, 23)])
_HEX = np.full(256, 255, np.uint8)
for _digit in b"0123456789abcdefABCDEF":
    _HEX[_digit] = int(chr(_digit), 16)


def _uuid(array: pa.Array) -> pa.Array:
    """Texts such as 123e4567-e89b-12d3-a456-426614174000, in either case, as 16 bytes."""
    valid = is_valid(array)
    _refuse(array, pc.not_equal(pc.binary_length(array), 36), "is not a UUID")
    cells = np.frombuffer(value_bytes(array.drop_null()), np.uint8).reshape(-1, 36)
    digits = _HEX[cells[:, _HEX_AT]]
    bad = (cells[:, [8, 13, 18, 23]] != ord("-")).any(axis=1) | (digits == 255).any(axis=1)
    if bad.any():
        _refuse(array.drop_null(), pa.array(bad), "is not a UUID")
    data = digits[:, ::2] << 4 | digits[:, 1::2]
    return cut(data.reshape(-1), offsets(16 * valid), valid, pa.binary())


def _shapes(array: pa.Array) -> pa.Array:
    """WKT as EWKB; WKB, which an emulator sends in place of WKT, as it is."""
    if pa.types.is_binary(array.type):
        return array
    known = array.drop_null()
    if len(known) and known[0].as_py().startswith("0"):
        data = np.frombuffer(bytes.fromhex(value_bytes(known).decode()), np.uint8)
        lengths = pc.binary_length(array).fill_null(0).to_numpy() // 2
        return cut(data, offsets(lengths), is_valid(array), pa.binary())
    return ewkb(array)


def _refuse(array: pa.Array, is_wrong: pa.Array, why: str) -> None:
    """Raise ArrowInvalid for the first value of `array` that `is_wrong`, cut short."""
    wrong = pc.filter(array, is_wrong)
    if len(wrong):
        raise Misfits(f"{str(wrong[0].as_py())[:_SHOWN]!r} {why}", is_wrong)


_TEXTS: dict[str, Change] = {
    "NUMERIC": json_text.decimal_text,
    "BIGNUMERIC": json_text.decimal_text,
    "BYTES": hex_text,
    "DATETIME": _moment,
    "TIMESTAMP": _moment,
    "INTERVAL": json_text.interval_text,
    "RANGE": lambda array: json_text.range_text(array, _moment),
}
