"""Checks of single rows whose answer is the same wherever it is given: by Arrow as rows are sent, or by PostgreSQL.

Nothing heavy is imported: a publish knows a proof again by its mark. How proofs are found is in `columns.proving`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from connectors.checks import Check, CheckKind
from connectors.column import Column

# Of these a value is the same in Arrow, on the wire and in PostgreSQL, and is NULL in one where it is in the other.
_NULLS = frozenset({"INT64", "FLOAT64", "STRING", "BOOL", "DATE", "TIMESTAMP", "DATETIME"})
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
# What both dialects read alike, and match alike as far as ASCII goes: characters, classes of them, how often they come.
# \d is more to PostgreSQL: what Arrow matches by it, PostgreSQL does.
_ALIKE = re.compile(
    r"\^?(?:(?:[A-Za-z0-9 _:/@#,-]|\\[.d]|\[(?:[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9]|[A-Za-z0-9 _.:/@#,])+-?\])"
    r"(?:[+*?]|\{[0-9]{1,2}\})?)+\$?"
)


def is_provable(check: Check, columns: Sequence[Column]) -> bool:
    """Whether Arrow can prove that no row is bad; where it does not, PostgreSQL is asked."""
    there = {column.name.lower(): column for column in columns}
    found = [there.get(name.lower()) for name in check.columns]
    if not found or any(column is None or not _is_plain(column) for column in found):
        return False
    types = {column.type for column in found if column is not None}
    match check.kind:
        case CheckKind.NOT_NULL:
            return types <= _NULLS
        case CheckKind.ACCEPTED:
            return types == {"STRING"} or (types == {"INT64"} and all(map(_WHOLE.fullmatch, check.values)))
        case CheckKind.RANGE:
            bounds = [text for text in (check.minimum, check.maximum) if text]
            numbers = {"INT64": _WHOLE, "FLOAT64": _DECIMAL}
            return types <= set(numbers) and all(numbers[kind].fullmatch(text) for kind in types for text in bounds)
        case CheckKind.REGEX:
            return types == {"STRING"} and _ALIKE.fullmatch(check.pattern) is not None
    return False


def _is_plain(column: Column) -> bool:
    """Whether it is stored as it comes: not as another type, cut to a length, or masked."""
    return not (column.repeated or column.target_type or column.mask or column.max_length or column.zone)


def mark(check: Check) -> str:
    """What tells a proof from one of another question; names, and what becomes of bad rows, are no part of it."""
    asked = [check.kind, check.columns, check.values, check.minimum, check.maximum, check.pattern]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
