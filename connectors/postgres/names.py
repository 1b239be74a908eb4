"""PostgreSQL identifiers: 63 bytes, made from BigQuery's longer names so that the same name always gives the same.

Case is kept (identifiers are always quoted), and names that differ only by case collide, as in BigQuery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from connectors.base import Column
from connectors.errors import ConnectorError

MAX_BYTES = 63
_HASH_DIGITS = 8

# Every PostgreSQL table has these; a bounding box's xmin and xmax are the usual victims.
_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


def shorten(name: str) -> str:
    """`name` if it fits into 63 bytes, else its beginning and a hash of all of it."""
    encoded = name.encode()
    if len(encoded) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:_HASH_DIGITS]
    return encoded[: MAX_BYTES - _HASH_DIGITS - 1].decode(errors="ignore") + "_" + digest


def column_names(columns: Iterable[Column]) -> tuple[str, ...]:
    """The name of each column in PostgreSQL, in order; raises ConnectorError if two would share one."""
    names: list[str] = []
    taken: dict[str, str] = {}
    for column in columns:
        name = shorten(column.name)
        if name in _SYSTEM_COLUMNS:
            name += "_"
        other = taken.setdefault(name.lower(), column.name)
        if other is not column.name:
            raise ConnectorError(
                f"Columns {other} and {column.name} would both be called {name} in PostgreSQL.",
                hint="Rename one of them in a query.",
                code="name_collision",
                field=column.name,
            )
        names.append(name)
    return tuple(names)


def names_by_source(columns: Sequence[Column]) -> dict[str, str]:
    """PostgreSQL's names of the columns, by the source's."""
    return {column.name: name for column, name in zip(columns, column_names(columns), strict=True)}


def check_identifier(name: str, *, field: str) -> None:
    """Raise ConnectorError if PostgreSQL could not use `name` as a person typed it."""
    if not name.strip():
        raise ConnectorError("The name is empty.", code="name_empty", field=field)
    if "\x00" in name:
        raise ConnectorError(f"The name {name!r} contains a NUL character.", code="name_illegal", field=field)
    size = len(name.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        raise ConnectorError(
            f"The name {name} is {size} bytes long, PostgreSQL takes at most {MAX_BYTES}.",
            hint=f"A shorter one would be {shorten(name)}.",
            code="name_too_long",
            field=field,
        )
