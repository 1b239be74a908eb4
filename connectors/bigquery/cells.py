"""BigQuery's JSON rows as Arrow, column by column: for what the Storage Read API cannot give.

The same Arrow types as that API's, so that nothing after the source knows the difference. BYTES and
INTERVAL take a step in Python for each value; all other types are converted in compiled code.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from connectors.column import Column
from connectors.errors import ConnectorError

_TEXT = pa.string()
_EPOCH = "1970-01-01T"
_SCALARS: dict[str, pa.DataType] = {
    "BOOL": pa.bool_(),
    "INT64": pa.int64(),
    "FLOAT64": pa.float64(),
    "NUMERIC": pa.decimal128(38, 9),
    "BIGNUMERIC": pa.decimal256(76, 38),
    "STRING": _TEXT,
    "BYTES": pa.binary(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "DATETIME": pa.timestamp("us"),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "JSON": _TEXT,
    "GEOGRAPHY": _TEXT,
    "INTERVAL": pa.month_day_nano_interval(),
}
# https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#interval_type
_INTERVAL = re.compile(
    r"(?P<ym>-?)(?P<years>\d+)-(?P<months>\d+) (?P<days>-?\d+) "
    r"(?P<hms>-?)(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)(\.(?P<fraction>\d{1,9}))?"
)


def to_batch(
    rows: Sequence[dict[str, Any]], columns: Sequence[Column], places: Sequence[int] | None = None
) -> pa.RecordBatch:
    """A batch from `{"f": [{"v": …}, …]}` rows, timestamps as microseconds since 1970.

    `places` says which cells are those of `columns`, where these are not all.
    """
    arrays = []
    for i, column in zip(range(len(columns)) if places is None else places, columns, strict=True):
        try:
            arrays.append(_array([row["f"][i]["v"] for row in rows], column))
        except (pa.ArrowException, ValueError, KeyError, IndexError, TypeError) as error:
            raise ConnectorError(
                f"Column {column.name}: BigQuery's answer is not of the type {column.type}.",
                hint=str(error)[:300],
                code="bad_answer",
                field=column.name,
            ) from error
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])


def _array(values: list[Any], column: Column) -> pa.Array:
    if not column.repeated:
        return _plain_array(values, column)
    # A NULL array reads as an empty one, here as in the Storage Read API.
    offsets = [0, *itertools.accumulate(len(items or ()) for items in values)]
    items = [item["v"] for cell in values for item in cell or ()]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), _plain_array(items, column))


def _plain_array(values: list[Any], column: Column) -> pa.Array:
    if column.type == "STRUCT":
        return _struct(values, column)
    if column.type == "BYTES":
        decoded = [None if v is None else base64.b64decode(v, validate=True) for v in values]
        return pa.array(decoded, pa.binary())
    if column.type == "INTERVAL":
        return pa.array([None if v is None else _interval(v) for v in values], _SCALARS["INTERVAL"])
    texts = pa.array(values, _TEXT)
    if column.type == "RANGE":
        return _range(texts, column.element)
    return _convert(texts, column.type)


def _convert(texts: pa.Array, kind: str) -> pa.Array:
    special: dict[str, Callable[[pa.Array], pa.Array]] = {
        "TIME": lambda t: pc.binary_join_element_wise(_EPOCH, t, "").cast(pa.timestamp("us")),
        "TIMESTAMP": lambda t: t.cast(pa.int64()),
    }
    return special.get(kind, lambda t: t)(texts).cast(_SCALARS[kind])


def _struct(values: list[Any], column: Column) -> pa.Array:
    children = [
        _array([None if v is None else v["f"][i]["v"] for v in values], child) for i, child in enumerate(column.columns)
    ]
    fields = [pa.field(child.name, array.type) for child, array in zip(column.columns, children, strict=True)]
    return pa.StructArray.from_arrays(children, fields=fields, mask=pa.array([v is None for v in values], pa.bool_()))


def _range(texts: pa.Array, element: str) -> pa.Array:
    bounds = pc.extract_regex(texts, r"^\[(?P<start>[^,]+), (?P<end>[^)]+)\)$")
    if bounds.null_count != texts.null_count:
        raise ValueError("a range is written [start, end)")
    unbounded = pa.scalar(None, _TEXT)
    children = []
    for name in ("start", "end"):
        texts_of = pc.struct_field(bounds, name)
        children.append(_convert(pc.if_else(pc.equal(texts_of, "UNBOUNDED"), unbounded, texts_of), element))
    fields = [pa.field(name, child.type) for name, child in zip(("start", "end"), children, strict=True)]
    return pa.StructArray.from_arrays(children, fields=fields, mask=texts.is_null())


def _interval(text: str) -> pa.MonthDayNano:
    found = _INTERVAL.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} is not an interval")
    months = int(found["years"]) * 12 + int(found["months"])
    seconds = int(found["hours"]) * 3600 + int(found["minutes"]) * 60 + int(found["seconds"])
    nanos = seconds * 1_000_000_000 + int((found["fraction"] or "").ljust(9, "0"))
    return pa.MonthDayNano([-months if found["ym"] else months, int(found["days"]), -nanos if found["hms"] else nanos])
