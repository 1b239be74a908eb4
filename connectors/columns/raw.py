"""Rows as they came, as JSON text that loses nothing, and back: what cannot be stored waits in this form.

Every value is a text, or null: numbers with all their digits, bytes as base64, times as ISO 8601, JSON as it was
written. Arrays and STRUCTs keep their form, a RANGE is an object of start and end. Bytes that are no UTF-8 stand as
the surrogates that Python's `surrogateescape` gives them. Written column by column in compiled code, as a load may
divert many rows; read row by row, as people choose the few that are replayed.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.column import Column
from connectors.columns.binary import hex_text, relist
from connectors.columns.buffers import cut, offsets, value_bytes, value_offsets
from connectors.columns.characters import Verbatim
from connectors.columns.json_text import base64_text, decimal_text, json_text, time_text

_BOUNDS = ("start", "end")
# The years that texts have; what lies outside of them is written as the number that Arrow holds, behind an @.
_FIRST_DAY, _LAST_DAY = (date(1, 1, 1) - date(1970, 1, 1)).days, (date(9999, 12, 31) - date(1970, 1, 1)).days
_DAY = 86_400_000_000
_EPOCH = datetime(1970, 1, 1)
_SURROGATE = re.compile("[\udc80-\udcff]")


def raw_texts(arrays: Sequence[pa.Array], columns: Sequence[Column]) -> pa.Array:
    """One JSON object for every row of `arrays`, which are `columns` in their order."""
    texts, names = [], []
    for array, column in zip(arrays, columns, strict=True):
        text, told = _as_texts(array, column)
        texts.append(text)
        names.append(told)
    rows = pa.StructArray.from_arrays(texts, [column.name for column in names])
    found = json_text(rows, Column("row", "STRUCT", columns=tuple(names)), Verbatim())
    data = value_bytes(found)
    return found if data.isascii() else _escaped(found, data)


def scalar_text(array: pa.Array, column: Column) -> pa.Array:
    """The values of a column that is no array and no STRUCT, as `raw_texts` writes them."""
    return _TEXTS[column.type](array)


def _as_texts(array: pa.Array, column: Column) -> tuple[pa.Array, Column]:
    """`array` with a text in the place of every value, and the column that it then is."""
    if column.repeated:
        values, element = _as_texts(array.flatten(), replace(column, repeated=False))
        return relist(array, values), replace(element, repeated=True)
    inner = column.columns
    if column.type == "RANGE":
        inner = tuple(Column(name, column.element) for name in _BOUNDS)
    elif column.type != "STRUCT":
        return scalar_text(array, column), Column(column.name, "STRING")
    by_name = dict(zip((field.name for field in array.type), array.flatten(), strict=True))
    found = [_as_texts(by_name[child.name], child) for child in inner]
    texts, columns = [text for text, _ in found], tuple(child for _, child in found)
    made = pa.StructArray.from_arrays(texts, [child.name for child in inner], mask=pc.invert(array.is_valid()))
    return made, Column(column.name, "STRUCT", columns=columns)


def _escaped(documents: pa.Array, data: bytes) -> pa.Array:
    """The documents with an escape for each byte that is no UTF-8; most have none."""
    bounds = value_offsets(documents) - value_offsets(documents)[0]
    pieces = [data[low:high] for low, high in pairwise(bounds)]
    told = [_SURROGATE.sub(_escape, piece.decode(errors="surrogateescape")) for piece in pieces]
    return pa.array(told, pa.string())


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _number(array: pa.Array) -> pa.Array:
    return array.cast(pa.string())


def _date(array: pa.Array) -> pa.Array:
    days = array.view(pa.int32())
    return _in_years(array, days.cast(pa.int64()), _FIRST_DAY, _LAST_DAY, lambda known: known.cast(pa.string()))


def _moment(array: pa.Array) -> pa.Array:
    micros = array.cast(pa.int64())
    first, last = _FIRST_DAY * _DAY, (_LAST_DAY + 1) * _DAY - 1
    return _in_years(array, micros, first, last, time_text)


def _in_years(array: pa.Array, numbers: pa.Array, first: int, last: int, text: Callable[[pa.Array], pa.Array]) -> Any:
    is_known = pc.and_(pc.greater_equal(numbers, first), pc.less_equal(numbers, last))
    if pc.all(is_known).as_py() is not False:  # also where all are NULL
        return text(array)
    told = pc.binary_join_element_wise("@", numbers.cast(pa.string()), "")
    return pc.if_else(is_known, text(pc.if_else(is_known, array, pa.scalar(None, array.type))), told)


def _interval(array: pa.Array) -> pa.Array:
    parts = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanos", "<i8")])
    values = np.frombuffer(array.buffers()[1] or b"", parts)[array.offset : array.offset + len(array)]
    months, days, nanos = (pa.array(values[name].copy()).cast(pa.string()) for name in ("months", "days", "nanos"))
    text = pc.binary_join_element_wise(months, " months ", days, " days ", nanos, " ns", "")
    return pc.if_else(array.is_valid(), text, pa.scalar(None, pa.string()))


def _shape(array: pa.Array) -> pa.Array:
    return hex_text(array) if pa.types.is_binary(array.type) else array


_TEXTS: dict[str, Callable[[pa.Array], pa.Array]] = {
    **dict.fromkeys(("STRING", "JSON"), lambda array: array),
    **dict.fromkeys(("BOOL", "INT64", "FLOAT64", "TIME"), _number),
    **dict.fromkeys(("NUMERIC", "BIGNUMERIC"), decimal_text),
    **dict.fromkeys(("DATETIME", "TIMESTAMP"), _moment),
    "BYTES": base64_text,
    "DATE": _date,
    "GEOGRAPHY": _shape,
    "INTERVAL": _interval,
}


# Back again -----------------------------------------------------------------------------------


class Unreadable(ValueError):
    """A raw row whose value `column` can no longer be; `why` is what became of that column."""

    why = "is of another type by now"

    def __init__(self, column: Column) -> None:
        super().__init__(f"The value of column {column.name} is no {column.type}.")
        self.column = column.name


class Homeless(Unreadable):
    """A raw row with a value of a column, or field of a STRUCT, that is no longer there."""

    why = "is no longer there, and they have values of it"

    def __init__(self, name: str) -> None:
        ValueError.__init__(self, f"There is no column {name} for its value.")
        self.column = name


def read_texts(texts: Sequence[str], columns: Sequence[Column], skip: Sequence[str] = ()) -> pa.RecordBatch:
    """The batch that `raw_texts` wrote, or `stored_rows`; a column that a row does not have is NULL.

    Names are the same in any case. Raises Unreadable; for a value of no column as well, unless `skip` names it.
    """
    rows = _by_name([json.loads(text) for text in texts], columns, skip)
    arrays = [_array([row.get(column.name.lower()) for row in rows], column) for column in columns]
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])


def _by_name(
    documents: Sequence[Mapping[str, Any]], columns: Sequence[Column], skip: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Their values by the lower case of their names; raises Homeless for one that none of `columns` would have."""
    known = {column.name.lower() for column in columns}
    known.update(name.lower() for name in skip)
    for document in documents:
        for name, value in document.items():
            if name.lower() not in known and value not in (None, []):
                raise Homeless(name)
    return [{name.lower(): value for name, value in document.items()} for document in documents]


class _Number(str):
    """A number of a document as it is written."""


def _array(values: Sequence[Any], column: Column, *, is_stored: bool = False) -> pa.Array:
    """The values as an array; `is_stored` within a document, as a STRUCT is stored, whose leaves are no texts."""
    if column.repeated or column.type == "STRUCT":
        documents = [isinstance(value, str) for value in values]
        if any(documents):
            values = [_parsed(value, column) if isinstance(value, str) else value for value in values]
            is_stored = True
    if column.repeated:
        if any(value is not None and not isinstance(value, list) for value in values):
            raise Unreadable(column)
        lists = [value or [] for value in values]
        element = replace(column, repeated=False)
        elements = _array([each for one in lists for each in one], element, is_stored=is_stored)
        return pa.ListArray.from_arrays(pa.array(offsets(np.array([len(one) for one in lists], np.int32))), elements)
    if column.type in ("STRUCT", "RANGE"):
        inner = column.columns
        if column.type == "RANGE":
            inner = tuple(Column(name, column.element) for name in _BOUNDS)
            values = [_read_range(value, column) if isinstance(value, str) else value for value in values]
        if any(value is not None and not isinstance(value, dict) for value in values):
            raise Unreadable(column)
        found = _by_name([value or {} for value in values], inner)
        arrays = [
            _array([value.get(child.name.lower()) for value in found], child, is_stored=is_stored) for child in inner
        ]
        missing = pa.array([value is None for value in values], pa.bool_())
        return pa.StructArray.from_arrays(arrays, [child.name for child in inner], mask=missing)
    if is_stored:
        values = [_document(value) if column.type == "JSON" and value is not None else _leaf(value) for value in values]
    if any(value is not None and not isinstance(value, str) for value in values):
        raise Unreadable(column)
    if column.type in ("STRING", "JSON", "GEOGRAPHY"):
        return _strings(values)
    type_, read = _READ[column.type]
    try:
        return pa.array([None if value is None else read(value) for value in values], type_)
    except (KeyError, ValueError, ArithmeticError, pa.ArrowInvalid, OverflowError) as error:
        raise Unreadable(column) from error


def _parsed(text: str, column: Column) -> Any:
    try:
        return json.loads(text, parse_int=_Number, parse_float=_Number)
    except ValueError as error:
        raise Unreadable(column) from error


def _leaf(value: Any) -> Any:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value


def _document(value: Any) -> str:
    """A part of a document, written again with its numbers as they were."""
    if isinstance(value, _Number):
        return value
    if isinstance(value, list):
        return f"[{','.join(map(_document, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_document(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _read_range(text: str, column: Column) -> dict[str, str | None]:
    found = re.fullmatch(r"\[(.*), (.*)\)", text)
    if found is None:
        raise Unreadable(column)
    return {name: None if bound == "UNBOUNDED" else bound for name, bound in zip(_BOUNDS, found.groups(), strict=True)}


def _strings(values: Sequence[str | None]) -> pa.Array:
    """Texts as they were, also where they were no UTF-8: nothing looks at them on the way."""
    pieces = [(value or "").encode(errors="surrogateescape") for value in values]
    valid = np.array([value is not None for value in values], bool)
    bounds = offsets(np.array([len(piece) for piece in pieces], np.int32))
    return cut(np.frombuffer(b"".join(pieces), np.uint8), bounds, valid, pa.string())


def _read_date(text: str) -> int:
    if text.startswith("@"):
        return int(text[1:])
    return (datetime.fromisoformat(text).date() - _EPOCH.date()).days


def _read_moment(text: str) -> int:
    if text.startswith("@"):
        return int(text[1:])
    moment = datetime.fromisoformat(text)
    plain = moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    return (plain - _EPOCH) // timedelta(microseconds=1)


def _read_interval(text: str) -> pa.MonthDayNano:
    if found := re.fullmatch(r"(-?\d+) months (-?\d+) days (-?\d+) ns", text):
        return pa.MonthDayNano([int(number) for number in found.groups()])
    # As BigQuery writes it, and a stored STRUCT has it.
    found = re.fullmatch(r"(-?)(\d+)-(\d+) (-?\d+) (-?)(\d+):(\d+):(\d+)(?:\.(\d+))?", text)
    if found is None:
        raise ValueError(text)
    sign, years, months, days, minus, hours, minutes, seconds, fraction = found.groups()
    micros = (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * 1_000_000 + int((fraction or "").ljust(6, "0"))
    whole = int(years) * 12 + int(months)
    return pa.MonthDayNano([-whole if sign else whole, int(days), (-micros if minus else micros) * 1000])


def _read_bool(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _read_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_READ: Mapping[str, tuple[pa.DataType, Callable[[str], Any]]] = {
    "BOOL": (pa.bool_(), _read_bool),
    "INT64": (pa.int64(), int),
    "FLOAT64": (pa.float64(), float),
    "NUMERIC": (pa.decimal128(38, 9), Decimal),
    "BIGNUMERIC": (pa.decimal256(76, 38), Decimal),
    "BYTES": (pa.binary(), _read_bytes),
    "DATE": (pa.date32(), _read_date),
    "TIME": (pa.time64("us"), time.fromisoformat),
    "DATETIME": (pa.timestamp("us"), _read_moment),
    "TIMESTAMP": (pa.timestamp("us", "UTC"), _read_moment),
    "INTERVAL": (pa.month_day_nano_interval(), _read_interval),
}
