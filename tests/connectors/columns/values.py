"""Generated values of every BigQuery type: as Arrow takes them, and what psycopg2 must read back."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from connectors.column import Column

# The same values every time, and tables made once for all of them.
few = settings(
    deadline=None,
    max_examples=50,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# What PostgreSQL can store: no NUL, no lone surrogates.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
dates = st.dates()
times = st.times()
moments = st.datetimes()
zoned = moments.map(lambda moment: moment.replace(tzinfo=dt.UTC))
floats = st.floats()
whole = st.integers(-(2**63), 2**63 - 1)


def decimals(digits: int, scale: int) -> st.SearchStrategy[decimal.Decimal]:
    """Every value of a decimal type, small and round ones often."""
    limit = 10**digits - 1

    def exact(number: int) -> decimal.Decimal:
        return decimal.Decimal((0 if number >= 0 else 1, tuple(map(int, str(abs(number)))), -scale))

    spread = st.builds(lambda n, k: n * 10**k % limit, st.integers(0, 10**6), st.integers(0, digits))
    return st.one_of(st.integers(-limit, limit), spread, spread.map(lambda n: -n)).map(exact)


numerics = decimals(38, 9)
# 76 digits fit in every decimal256; BigQuery's few values of 77 digits are tried one by one.
bignumerics = decimals(76, 38)
intervals = st.tuples(
    st.integers(-120_000, 120_000),
    st.integers(-3_660_000, 3_660_000),
    st.integers(-(2**62) // 1000, 2**62 // 1000).map(lambda micros: micros * 1000),
).map(pa.MonthDayNano)
# As BigQuery hands it out: valid, and with escapes that jsonb takes.
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e15, 1e15).filter(lambda x: not x.is_integer()) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def ranges(bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    def ordered(pair: list[Any], start: bool, end: bool) -> dict[str, Any]:
        low, high = sorted(pair)
        return {"start": low if start else None, "end": high if end else None}

    two = st.lists(bounds, min_size=2, max_size=2, unique=True)
    return st.builds(ordered, two, st.booleans(), st.booleans())


def same(value: Any) -> Any:
    return value


def as_interval(value: pa.MonthDayNano) -> str:
    return f"{value.months}/{value.days}/{value.nanoseconds // 1000}"


def as_range(value: dict[str, Any]) -> tuple[Any, Any]:
    return value["start"], value["end"]


def bounds_of(value: Any) -> tuple[Any, Any]:
    return value.lower, value.upper


@dataclass(frozen=True)
class Kind:
    """A scalar type: how to make values, and how to see them again.

    `read` is SQL around the column `{x}` for what psycopg2 would blur; `seen` and `back` bring both
    sides to the same form.
    """

    arrow: pa.DataType
    values: st.SearchStrategy[Any]
    element: str = ""
    precision: int | None = None
    scale: int | None = None
    into: Callable[[Any], Any] = same
    seen: Callable[[Any], Any] = same
    back: Callable[[Any], Any] = same
    read: str = "{x}"

    def column(self, name: str, type_: str, *, repeated: bool = False) -> Column:
        return Column(
            name,
            type_.split("<")[0].split("(")[0],
            repeated,
            element=self.element,
            precision=self.precision,
            scale=self.scale,
        )


def bits(value: float) -> Any:
    return "nan" if math.isnan(value) else (value, math.copysign(1, value))


def range_arrow(bound: pa.DataType) -> pa.DataType:
    return pa.struct([("start", bound), ("end", bound)])


_INTERVAL = (
    "(extract(year FROM {x}) * 12 + extract(month FROM {x}))::bigint || '/' || extract(day FROM {x})::bigint || '/' ||"
    " ((extract(hour FROM {x}) * 60 + extract(minute FROM {x})) * 60000000 + extract(microseconds FROM {x}))::bigint"
)

KINDS = {
    "BOOL": Kind(pa.bool_(), st.booleans()),
    "INT64": Kind(pa.int64(), whole),
    "FLOAT64": Kind(pa.float64(), floats, seen=bits, back=bits),
    "NUMERIC": Kind(pa.decimal128(38, 9), numerics),
    "NUMERIC(10,2)": Kind(pa.decimal128(38, 9), decimals(10, 2), precision=10, scale=2),
    "NUMERIC(12,4)": Kind(pa.decimal128(12, 4), decimals(12, 4), precision=12, scale=4),
    "BIGNUMERIC": Kind(pa.decimal256(76, 38), bignumerics),
    "BIGNUMERIC(30,6)": Kind(pa.decimal256(76, 38), decimals(30, 6), precision=30, scale=6),
    "STRING": Kind(pa.string(), texts),
    "BYTES": Kind(pa.binary(), st.binary(), back=lambda value: bytes(value)),
    "DATE": Kind(pa.date32(), dates),
    "TIME": Kind(pa.time64("us"), times),
    "DATETIME": Kind(pa.timestamp("us"), moments),
    "TIMESTAMP": Kind(pa.timestamp("us", "UTC"), zoned),
    "JSON": Kind(pa.string(), documents, into=lambda value: json.dumps(value, ensure_ascii=False)),
    "GEOGRAPHY": Kind(pa.string(), texts),
    "GEOGRAPHY<WKB>": Kind(pa.binary(), st.binary(), seen=lambda value: value.hex()),
    "INTERVAL": Kind(pa.month_day_nano_interval(), intervals, seen=as_interval, read=_INTERVAL),
    "RANGE<DATE>": Kind(range_arrow(pa.date32()), ranges(dates), element="DATE", seen=as_range, back=bounds_of),
    "RANGE<DATETIME>": Kind(
        range_arrow(pa.timestamp("us")), ranges(moments), element="DATETIME", seen=as_range, back=bounds_of
    ),
    "RANGE<TIMESTAMP>": Kind(
        range_arrow(pa.timestamp("us", "UTC")), ranges(zoned), element="TIMESTAMP", seen=as_range, back=bounds_of
    ),
}
