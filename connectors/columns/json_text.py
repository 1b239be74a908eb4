"""STRUCT → JSON text, column by column in compiled code.

The forms are those of BigQuery's TO_JSON_STRING where JSON has a choice: bytes as base64, dates and
times as ISO 8601 text, NaN and infinities as text. Whole numbers beyond 2^53 stay numbers, for jsonb
keeps all their digits.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.column import Column
from connectors.columns.binary import hex_text, interval_parts
from connectors.columns.buffers import Numbers, cut, is_valid, offsets, value_bytes
from connectors.columns.characters import Characters

_NULL = pa.scalar("null")
# Types that JSON has as text.
_QUOTED = frozenset({"STRING", "BYTES", "DATE", "TIME", "DATETIME", "TIMESTAMP", "GEOGRAPHY", "INTERVAL", "RANGE"})
_ESCAPES = {"\\": "\\\\", '"': '\\"', **{chr(c): json.dumps(chr(c))[1:-1] for c in range(0x20)}}
_ESCAPED_BYTES = bytes(map(ord, _ESCAPES))


def json_text(array: pa.Array, column: Column, characters: Characters) -> pa.Array:
    """JSON texts of a STRUCT or an array column; a NULL array is an empty one, as in BigQuery."""
    text = _joined(_pieces(array, column, column.name, characters))
    if column.repeated or not array.null_count:
        return text
    return pc.if_else(array.is_valid(), text, pa.scalar(None, pa.string()))


def _pieces(array: pa.Array, column: Column, path: str, characters: Characters) -> list[pa.Array | str]:
    """What gives the JSON text of every value, `null` for NULL, when it stands side by side.

    Texts that several levels of STRUCTs would put together one after the other are so put together once.
    """
    if column.repeated:
        return ["[", _elements(array, column, path, characters), "]"]
    if column.type == "STRUCT":
        return _fields(array, column, path, characters)
    text = _SCALARS[column.type](characters.mend(array, column.type, path))
    if column.type not in _QUOTED:
        return [text.fill_null("null")]
    return [_quoted(text).fill_null("null")] if text.null_count else ['"', text, '"']


def _elements(array: pa.Array, column: Column, path: str, characters: Characters) -> pa.Array:
    """The elements of each list, with commas between."""
    element = replace(column, repeated=False)
    texts = _joined(_pieces(array.flatten(), element, path, characters))
    counts = pc.list_value_length(array).fill_null(0).to_numpy()
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets(counts)), texts), ",")


def _fields(array: pa.Array, column: Column, path: str, characters: Characters) -> list[pa.Array | str]:
    pieces: list[pa.Array | str] = []
    # flatten() carries the struct's own NULLs and offset down to its fields; field() would not.
    fields = dict(zip((f.name for f in array.type), array.flatten(), strict=True))
    for i, child in enumerate(column.columns):
        pieces.append(f"{',' if i else '{'}{json.dumps(child.name, ensure_ascii=False)}:")
        pieces += _pieces(fields[child.name], child, f"{path}.{child.name}", characters)
    pieces.append("}")
    return [pc.if_else(array.is_valid(), _joined(pieces), _NULL)] if array.null_count else pieces


def _joined(pieces: Sequence[pa.Array | str]) -> pa.Array:
    """One text of the pieces for every value, literal ones merged first."""
    merged: list[pa.Array | str] = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged[0] if len(merged) == 1 else pc.binary_join_element_wise(*merged, "")


def _string(array: pa.Array) -> pa.Array:
    present = set(value_bytes(array)).intersection(_ESCAPED_BYTES)
    # The backslash comes first in _ESCAPES, or it would escape the escapes.
    for plain, escaped in _ESCAPES.items():
        if ord(plain) in present:
            array = pc.replace_substring(array, plain, escaped)
    return array


def _json(array: pa.Array) -> pa.Array:
    return array


def _plain(array: pa.Array) -> pa.Array:
    return array.cast(pa.string())


def _float(array: pa.Array) -> pa.Array:
    text = array.cast(pa.string())
    if not pc.all(pc.is_finite(array)).as_py():
        for arrow, ours in (("nan", '"NaN"'), ("inf", '"Infinity"'), ("-inf", '"-Infinity"')):
            text = pc.if_else(pc.equal(text, arrow), ours, text)
    return text


def decimal_text(array: pa.Array) -> pa.Array:
    """Digits without trailing zeros, as BigQuery writes them; Arrow's own text has exponents."""
    scale = array.type.scale
    whole = pa.decimal128(38, 0) if pa.types.is_decimal128(array.type) else pa.decimal256(76, 0)
    text = pa.Array.from_buffers(whole, len(array), array.buffers(), offset=array.offset).cast(pa.string())
    if scale <= 0:
        return array.cast(whole).cast(pa.string()) if scale else text
    is_negative = pc.starts_with(text, "-")
    padded = pc.ascii_lpad(pc.ascii_ltrim(text, "-"), scale + 1, "0")
    digits = pc.binary_join_element_wise(
        pc.binary_slice(padded.cast(pa.binary()), 0, -scale).cast(pa.string()),
        pc.binary_slice(padded.cast(pa.binary()), -scale).cast(pa.string()),
        ".",
    )
    trimmed = pc.ascii_rtrim(pc.ascii_rtrim(digits, "0"), ".")
    return pc.if_else(is_negative, pc.binary_join_element_wise("-", trimmed, ""), trimmed)


def _iso(array: pa.Array) -> pa.Array:
    return array.cast(pa.string()) if pa.types.is_date32(array.type) else time_text(array)


def _time(array: pa.Array) -> pa.Array:
    return _trimmed(array.cast(pa.string()))


def _trimmed(text: pa.Array) -> pa.Array:
    """Without the zeros that end the fraction; Arrow always prints six digits of it."""
    return pc.replace_substring_regex(text, r"\.?0+$", "")


def base64_text(array: pa.Array) -> pa.Array:
    """Base64 of every value, by one call over all of them: each is first filled up to a multiple of three bytes."""
    lengths = pc.binary_length(array).fill_null(0).to_numpy()
    missing = -lengths % 3
    filling = pc.take(pa.array([b"", b"\0", b"\0\0"], pa.binary()), pa.array(missing))
    filled = pc.binary_join_element_wise(array.fill_null(b""), filling, b"")
    text = np.frombuffer(base64.b64encode(value_bytes(filled)), np.uint8).copy()
    bounds = offsets((lengths + missing) // 3 * 4)
    text[bounds[1:][missing >= 1] - 1] = text[bounds[1:][missing == 2] - 2] = ord("=")
    return cut(text, bounds, is_valid(array), pa.string())


def _geography(array: pa.Array) -> pa.Array:
    return _string(hex_text(array) if pa.types.is_binary(array.type) else array)


def interval_text(array: pa.Array) -> pa.Array:
    """BigQuery's `years-months days hours:minutes:seconds.fraction`, each of the three with its own sign."""
    months, days, micros = interval_parts(array)
    seconds, fraction = np.abs(micros) // 1_000_000, np.abs(micros) % 1_000_000
    digits = pc.utf8_lpad(pa.array(fraction).cast(pa.string()), 6, "0")
    text = pc.binary_join_element_wise(
        *(_sign(months), _text(np.abs(months) // 12), "-", _text(np.abs(months) % 12), " ", _text(days), " "),
        *(_sign(micros), _text(seconds // 3600), ":", _text(seconds // 60 % 60), ":", _text(seconds % 60)),
        _trimmed(pc.binary_join_element_wise(".", digits, "")),
        "",
    )
    return pc.if_else(array.is_valid(), text, pa.scalar(None, pa.string()))


def range_text(array: pa.Array, bound: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """BigQuery's `[start, end)`, each end written by `bound`, or UNBOUNDED."""
    start, end = (bound(values).fill_null("UNBOUNDED") for values in array.flatten())
    text = pc.binary_join_element_wise("[", start, ", ", end, ")", "")
    return pc.if_else(array.is_valid(), text, pa.scalar(None, pa.string()))


def _range(array: pa.Array) -> pa.Array:
    return range_text(array, _iso)


def time_text(array: pa.Array) -> pa.Array:
    """A timestamp as ISO 8601 text, with Z if it has a zone."""
    # Without its zone first: Arrow would ask for a zone database to print one.
    text = _trimmed(array.cast(pa.int64()).cast(pa.timestamp("us")).cast(pa.string()))
    text = pc.replace_substring(text, " ", "T", max_replacements=1)
    return pc.binary_join_element_wise(text, "Z", "") if array.type.tz else text


def _sign(numbers: Numbers) -> pa.Array:
    return pc.if_else(pa.array(numbers < 0), "-", "")


def _text(numbers: Numbers) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _quoted(text: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise('"', text, '"', "")


_SCALARS = {
    "BOOL": _plain,
    "INT64": _plain,
    "FLOAT64": _float,
    "NUMERIC": decimal_text,
    "BIGNUMERIC": decimal_text,
    "STRING": _string,
    "BYTES": base64_text,
    "DATE": _iso,
    "TIME": _time,
    "DATETIME": _iso,
    "TIMESTAMP": _iso,
    "JSON": _json,
    "GEOGRAPHY": _geography,
    "INTERVAL": interval_text,
    "RANGE": _range,
}
