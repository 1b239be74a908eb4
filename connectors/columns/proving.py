"""Looks at rows as they are encoded for checks that Arrow can answer; see `connectors.proofs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from connectors.checks import Check, CheckKind
from connectors.column import Column
from connectors.proofs import is_provable, mark

# Whether no value of an array is bad.
Holds = Callable[[pa.Array], bool]


class Prover:
    """Knows of which checks, by their marks, every row that it was shown is good."""

    def __init__(self, checks: Sequence[Check], columns: Sequence[Column]) -> None:
        places = {column.name.lower(): place for place, column in enumerate(columns)}
        self._left: dict[str, list[tuple[int, Holds]]] = {}
        for check in checks:
            holds = _holds(check) if is_provable(check, columns) else None
            if holds is not None:
                self._left[mark(check)] = [(places[name.lower()], holds) for name in check.columns]

    @property
    def proven(self) -> frozenset[str]:
        return frozenset(self._left)

    def look(self, rows: pa.RecordBatch) -> None:
        """At rows as they are sent, their columns in the order of the table's."""
        for key, asked in list(self._left.items()):
            try:
                is_good = all(holds(rows.column(place)) for place, holds in asked)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # what Arrow cannot say, PostgreSQL does
                is_good = False
            if not is_good:
                del self._left[key]


def _holds(check: Check) -> Holds | None:
    """How a provable check is answered; NULL is good but to `not_null`, NaN is in no range."""
    match check.kind:
        case CheckKind.NOT_NULL:
            return lambda array: array.null_count == 0
        case CheckKind.ACCEPTED:
            return lambda array: _all(array, pc.is_in(array, pa.array([_value(v, array) for v in check.values])))
        case CheckKind.RANGE:
            return lambda array: (
                (not check.minimum or _all(array, pc.greater_equal(array, _value(check.minimum, array))))
                and (not check.maximum or _all(array, pc.less_equal(array, _value(check.maximum, array))))
            )
        case CheckKind.REGEX:
            try:
                pc.match_substring_regex(pa.array([""]), check.pattern)
            except pa.ArrowInvalid:  # what PostgreSQL makes of it, it says itself
                return None
            return lambda array: _all(array, pc.match_substring_regex(array, check.pattern))
    return None


def _all(array: pa.Array, good: pa.Array) -> bool:
    """Whether all values that there are have a true beside them."""
    return bool((pc.sum(good).as_py() or 0) == len(array) - array.null_count)


def _value(text: str, array: pa.Array) -> pa.Scalar:
    """As PostgreSQL reads it, which `is_provable` has seen to."""
    if pa.types.is_integer(array.type):
        return pa.scalar(int(text), array.type)
    return pa.scalar(float(text) if pa.types.is_floating(array.type) else text, array.type)
