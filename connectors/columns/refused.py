"""Values that PostgreSQL refuses, found in Arrow before they abort a COPY: NUL in text, \\u0000 in JSON."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from connectors.columns.buffers import value_bytes
from connectors.errors import ConnectorError

# A NUL written as an escape: an odd number of backslashes before u0000.
_ESCAPED_NUL = r"(?:^|[^\\])(?:\\\\)*\\u0000"


def refuse_nul(texts: pa.Array, column: str) -> None:
    """Raise ConnectorError if a string holds a NUL character."""
    # One memchr over all values decides nearly always; only then is it worth looking row by row.
    if b"\0" in value_bytes(texts):
        _refuse(pc.match_substring(texts, "\0"), column, "text")


def refuse_nul_in_json(documents: pa.Array, column: str) -> None:
    """Raise ConnectorError if a JSON text holds NUL, as it is or escaped."""
    data = value_bytes(documents)
    if b"\0" in data:
        _refuse(pc.match_substring(documents, "\0"), column, "jsonb")
    if b"\\u0000" in data:
        _refuse(pc.match_substring_regex(documents, _ESCAPED_NUL), column, "jsonb")


def _refuse(found: pa.Array, column: str, postgres: str) -> None:
    rows = pc.sum(found).as_py() or 0
    if rows:
        values = "a value" if rows == 1 else f"{rows} values"  # of this batch: the load ends here
        raise ConnectorError(
            f"Column {column} holds a NUL character in {values}, which PostgreSQL's {postgres} cannot store.",
            hint=f"Take it out with a query: REPLACE({column}, CODE_POINTS_TO_STRING([0]), '').",
            code="nul_character",
            field=column,
        )
