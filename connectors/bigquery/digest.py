"""Statements of a comparison: counts, checksums and hashes in BigQuery's SQL, over the canonical texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from connectors.column import Column
from connectors.masks import is_masked
from connectors.modes import TextPolicy
from connectors.sides import HASH_DIGITS, HIDDEN, LONGEST_TEXT, SUM_MASK, VALUE_DIGITS, Keyed
from connectors.types import bigquery_text

_FILLS = {TextPolicy.STRIP: "", TextPolicy.REPLACE: "\N{REPLACEMENT CHARACTER}"}


def statement(source: str, columns: Sequence[Column], policy: TextPolicy = TextPolicy.FAIL) -> str:
    """The SELECT that counts and sums `columns` of `source`: the rows as n, then nulls and checksum of each."""
    items = ["COUNT(*) AS n"]
    for i, column in enumerate(columns):
        name = quote(column.name)
        # A NULL array reads as an empty one, so it is none here either.
        items.append("0" if column.repeated else f"COUNTIF({name} IS NULL)")
        items[-1] += f" AS z{i}"
        text = text_of(column, policy)
        if text is not None:
            digits = f"SUBSTR(TO_HEX(MD5({text})), 1, 8)"
            value = f"CAST(CONCAT('0x', {digits}) AS INT64)"
            items.append(
                f"SUM({value if column.repeated else f'CASE WHEN {name} IS NULL THEN 0 ELSE {value} END'}) AS s{i}"
            )
    return f"SELECT {', '.join(items)} FROM {source}"


def bucket_statement(source: str, keyed: Keyed, policy: TextPolicy) -> str:
    """Number, rows and sum of each bucket."""
    hashes = f"SELECT {_hash(keyed.key, keyed, policy)} AS k, {_hash(keyed.columns, keyed, policy)} AS h FROM {source}"
    return f"SELECT k >> {keyed.shift} AS b, COUNT(*) AS n, SUM(h & {SUM_MASK}) AS s FROM ({hashes}) AS r GROUP BY b"


def hash_statement(source: str, keyed: Keyed, policy: TextPolicy, chosen: Iterable[int]) -> str:
    """Hashes of key and row, of the rows in some buckets."""
    hashes = f"SELECT {_hash(keyed.key, keyed, policy)} AS k, {_hash(keyed.columns, keyed, policy)} AS h FROM {source}"
    buckets = ", ".join(map(str, chosen))
    return f"SELECT k, h FROM ({hashes}) AS r" + (f" WHERE k >> {keyed.shift} IN ({buckets})" if buckets else "")


def row_statement(source: str, keyed: Keyed, policy: TextPolicy, keys: Iterable[int]) -> str:
    """Hash of the key, hashes of all values with commas between, and the text of each value."""
    texts = ", ".join(f"{_shown(column)} AS t{i}" for i, column in enumerate(keyed.columns))
    values = f"{_values(keyed.columns, keyed, policy)} AS h"
    rows = f"SELECT {_hash(keyed.key, keyed, policy)} AS k, {values}, {texts} FROM {source}"
    return f"SELECT * FROM ({rows}) AS r WHERE k IN ({', '.join(map(str, keys))})"


def text_of(column: Column, policy: TextPolicy) -> str | None:
    """GoogleSQL for a value's canonical text, without what the policy keeps from the target; None: counted only."""
    name = quote(column.name)
    if column.mask is not None:
        return None
    if policy is not TextPolicy.FAIL and column.type == "STRING":
        if column.repeated:
            return None  # nobody here mends its elements one by one
        name = f"REPLACE({name}, CODE_POINTS_TO_STRING([0]), '{_FILLS[policy]}')"
    return bigquery_text(column, name)


def quote(name: str) -> str:
    """A column's name in SQL, of the source named `t`: alone it could be taken for a function or the source."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"t.`{escaped}`"


def _hash(columns: Sequence[Column], keyed: Keyed, policy: TextPolicy) -> str:
    digits = f"SUBSTR(TO_HEX(MD5({_values(columns, keyed, policy)})), 1, {HASH_DIGITS})"
    return f"CAST(CONCAT('0x', {digits}) AS INT64)"


def _values(columns: Sequence[Column], keyed: Keyed, policy: TextPolicy) -> str:
    return f"ARRAY_TO_STRING([{', '.join(_value(column, keyed, policy) for column in columns)}], ',')"


def _value(column: Column, keyed: Keyed, policy: TextPolicy) -> str:
    text = None if column.name in keyed.counted else text_of(column, policy)
    value = "'+'" if text is None else f"SUBSTR(TO_HEX(MD5({text})), 1, {VALUE_DIGITS})"
    return value if column.repeated else f"CASE WHEN {quote(column.name)} IS NULL THEN '-' ELSE {value} END"


def _shown(column: Column) -> str:
    name = quote(column.name)
    if is_masked(column):
        return f"CASE WHEN {name} IS NULL THEN NULL ELSE '{HIDDEN}' END"
    if column.repeated or column.type in ("JSON", "STRUCT", "GEOGRAPHY", "RANGE"):
        text = f"TO_JSON_STRING({name})"
    elif column.type == "BYTES":
        text = f"CONCAT('\\\\x', TO_HEX({name}))"  # as PostgreSQL writes them
    else:
        text = f"CAST({name} AS STRING)"
    return f"CASE WHEN {name} IS NULL THEN NULL ELSE SUBSTR({text}, 1, {LONGEST_TEXT}) END"
