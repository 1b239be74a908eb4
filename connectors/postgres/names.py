"""PostgreSQL identifiers: 63 bytes, made from BigQuery's longer names so that the same name always gives the same.

Case is kept (identifiers are always quoted), and names that differ only by case collide, as in BigQuery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from connectors.column import Column
from connectors.errors import ConnectorError

if TYPE_CHECKING:
    from connectors.postgres.client import Session

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


def free_name(session: Session, schema: str, stem: str, *, besides: Sequence[int] = ()) -> str:
    """A relation's name that follows from `stem`, numbered if something else in the schema has it.

    What belongs to the tables `besides` (oids) does not count: it is about to go.
    """
    names = [shorten(stem), *(shorten(f"{stem}_{number}") for number in range(2, 10))]
    taken = taken_names(session, schema, names, besides=besides)
    return next((name for name in names if name not in taken), names[0])


def taken_names(session: Session, schema: str, names: Sequence[str], *, besides: Sequence[int] = ()) -> set[str]:
    """Which of `names` relations of the schema have, besides those tables (oids), their partitions and indexes."""
    rows = session.execute(
        """
        WITH gone AS (SELECT unnest(%(besides)s::oid[]) AS oid),
        tree AS (SELECT oid FROM gone UNION SELECT relid FROM gone, pg_partition_tree(gone.oid))
        SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_index i ON i.indexrelid = c.oid
        WHERE n.nspname = %(schema)s AND c.relname = ANY(%(names)s)
          AND c.oid NOT IN (SELECT oid FROM tree) AND coalesce(i.indrelid NOT IN (SELECT oid FROM tree), true)
        """,
        {"schema": schema, "names": list(names), "besides": list(besides)},
    ).fetchall()
    return {name for (name,) in rows}


def postgres_name(name: str) -> str:
    """What a column called `name` is called in PostgreSQL."""
    short = shorten(name)
    return f"{short}_" if short in _SYSTEM_COLUMNS else short


def free_column_name(name: str, taken: Collection[str]) -> str:
    """What a new column called `name` is called where `taken`, in small letters, are the names of others."""
    usual, other = usual_names(name)
    return usual if usual.lower() not in taken else other


def usual_names(name: str) -> tuple[str, str]:
    """What a column called `name` is called without a rule, and where another one is called so already."""
    usual = postgres_name(name)
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
    return usual, usual.encode()[: MAX_BYTES - _HASH_DIGITS - 1].decode(errors="ignore") + "_" + digest


def target_name(column: Column) -> str:
    """What a column is called in PostgreSQL: as a rule says, or as usual."""
    return column.target_name or postgres_name(column.name)


def is_reserved(name: str) -> bool:
    """Whether every table of PostgreSQL has a column of its own called so."""
    return name in _SYSTEM_COLUMNS


def column_names(columns: Iterable[Column]) -> tuple[str, ...]:
    """The name of each column in PostgreSQL, in order; raises ConnectorError if two would share one."""
    names: list[str] = []
    taken: dict[str, str] = {}
    for column in columns:
        name = target_name(column)
        other = taken.setdefault(name.lower(), column.name)
        if other is not column.name:
            raise ConnectorError(
                f"Columns {other} and {column.name} would both be called {name} in PostgreSQL.",
                hint="Give one of them another name by a rule, or in a query.",
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
