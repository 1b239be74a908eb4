"""What values of every type look like inside a JSON document."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import math
from typing import Any

import pyarrow as pa


def as_json(name: str, value: Any) -> Any:
    """What a value of a type must look like inside a document."""
    if value is None:
        return None
    match name.split("<")[0].split("(")[0]:
        case "FLOAT64":
            if math.isnan(value) or math.isinf(value):
                return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
            return decimal.Decimal(repr(value))
        case "BYTES":
            return base64.b64encode(value).decode()
        case "GEOGRAPHY":
            return value.hex() if isinstance(value, bytes) else value
        case "DATE":
            return value.isoformat()
        case "TIME" | "DATETIME" | "TIMESTAMP":
            return moment_text(value)
        case "INTERVAL":
            return interval_text(value)
        case "RANGE":
            start, end = (
                "UNBOUNDED"
                if bound is None
                else moment_text(bound)
                if isinstance(bound, dt.datetime)
                else bound.isoformat()
                for bound in (value["start"], value["end"])
            )
            return f"[{start}, {end})"
    return value


def moment_text(value: Any) -> str:
    text = value.isoformat().replace("+00:00", "")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text + ("Z" if isinstance(value, dt.datetime) and value.tzinfo else "")


def interval_text(value: pa.MonthDayNano) -> str:
    months, days, micros = value.months, value.days, value.nanoseconds // 1000
    seconds, fraction = divmod(abs(micros), 1_000_000)
    clock = f"{seconds // 3600}:{seconds // 60 % 60}:{seconds % 60}" + f".{fraction:06}".rstrip("0").rstrip(".")
    signs = ["-" if number < 0 else "" for number in (months, micros)]
    return f"{signs[0]}{abs(months) // 12}-{abs(months) % 12} {days} {signs[1]}{clock}"


def equal(found: Any, expected: Any) -> bool:
    """Decimals by value, as jsonb sees them; JSON documents by Python's own reading of them."""
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(equal, found, expected))
    if isinstance(found, decimal.Decimal) and isinstance(expected, float):
        return float(found) == expected
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(equal(found[key], expected[key]) for key in found)
    return bool(found == expected) and isinstance(found, bool) == isinstance(expected, bool)
