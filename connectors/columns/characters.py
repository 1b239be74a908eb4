"""Characters that PostgreSQL refuses, found and mended in Arrow before they abort a COPY.

NUL in text, `\\u0000` in JSON, and bytes that are no UTF-8. What is looked for first is found in all
values at once; only where something is there are they looked at one by one.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.columns.buffers import cut, is_valid, value_bytes
from connectors.errors import ConnectorError

NUL, NOT_UTF8 = "a NUL character", "bytes that are not UTF-8"
# What each policy puts in the place of a refused character.
_FILLS = {"fail": "", "strip": "", "replace": "\ufffd"}


class RefusedValues(ConnectorError):
    """Values that PostgreSQL would refuse: `rows` says which of those that were looked at."""

    def __init__(self, message: str, *, hint: str, code: str, field: str, rows: pa.Array) -> None:
        super().__init__(message, hint=hint, code=code, field=field)
        self.rows = rows


class Characters:
    """Does with refused characters what `policy` says, and counts in `repaired` the values that changed.

    Both a count and a refusal name a column by its path: `s.a` is the field a of the STRUCT s. Two keys of
    a JSON object may become the same: jsonb keeps the last.
    """

    def __init__(self, policy: str) -> None:
        if policy not in _FILLS:
            raise ValueError(policy)
        self.repaired: dict[str, int] = {}
        self._fails = policy == "fail"
        self._fill = _FILLS[policy]

    def mend(self, array: pa.Array, type_: str, path: str) -> pa.Array:
        """`array`, a column of the BigQuery type `type_`, without refused characters: the same if it has none.

        Raises ConnectorError nul_character or bad_text where the policy is to fail.
        """
        if not pa.types.is_string(array.type):
            return array
        data = value_bytes(array)
        mended = array
        if b"\0" in data:
            found = pc.replace_substring(mended, "\0", self._fill)
            mended = self._accept(mended, found, NUL, type_, path)
        if not data.isascii() and not _is_utf8(mended):
            found = _as_utf8(mended, "replace" if self._fill else "ignore")
            mended = self._accept(mended, found, NOT_UTF8, type_, path)
        # Mended documents are looked at anew: what was taken out may have parted an escape.
        if type_ == "JSON" and b"\\u0000" in (data if mended is array else value_bytes(mended)):
            found = _without_escaped_nul(mended, self._fill)
            mended = self._accept(mended, found, NUL, type_, path)
        if mended is not array:
            self.repaired[path] = self.repaired.get(path, 0) + _differing(array, mended)
        return mended

    def _accept(self, before: pa.Array, after: pa.Array, what: str, type_: str, path: str) -> pa.Array:
        """`after`, unless nothing differs; raises ConnectorError if the policy is to fail."""
        rows = _differing(before, after)
        if rows and self._fails:
            values = "a value" if rows == 1 else f"{rows} values"  # of this batch: the load ends here
            postgres = "jsonb" if type_ == "JSON" else "text"
            raise RefusedValues(
                f"Column {path} holds {what} in {values}, which PostgreSQL's {postgres} cannot store.",
                hint="Let the pipeline strip or replace such characters, or take them out with a query.",
                code="nul_character" if what is NUL else "bad_text",
                field=path,
                rows=pc.not_equal(before, after),
            )
        return after if rows else before


class Verbatim(Characters):
    """Leaves everything as it is: for what is not going to be stored as its type."""

    def __init__(self) -> None:
        super().__init__("strip")

    def mend(self, array: pa.Array, type_: str, path: str) -> pa.Array:
        return array


def _differing(before: pa.Array, after: pa.Array) -> int:
    return pc.sum(pc.not_equal(before, after)).as_py() or 0


def _is_utf8(array: pa.Array) -> bool:
    """Whether every value is valid by itself: all of them in a row could be while their cuts are not."""
    try:
        array.cast(pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _as_utf8(array: pa.Array, errors: str) -> pa.Array:
    """Values decoded by Python's `errors` rule, all in one call: NUL, of which none is left, parts them."""
    parted = pc.binary_join_element_wise(array.cast(pa.binary()).fill_null(b""), b"\0", b"")
    data = np.frombuffer(value_bytes(parted).decode(errors=errors).encode(), np.uint8)
    ends = np.flatnonzero(data == 0)
    bounds = np.zeros(len(array) + 1, np.int32)
    bounds[1:] = ends - np.arange(len(array))
    return cut(data[data != 0], bounds, is_valid(array), pa.string())


def _without_escaped_nul(documents: pa.Array, fill: str) -> pa.Array:
    """`\\u0000` becomes `fill`, unless its backslash is itself escaped."""
    # Escaped backslashes step aside, as NULs, of which none is left: every other backslash begins an escape.
    hidden = pc.replace_substring(documents, "\\\\", "\0")
    return pc.replace_substring(pc.replace_substring(hidden, "\\u0000", fill), "\0", "\\\\")
