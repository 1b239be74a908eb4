"""What the head of a target remembers of its columns: of which of the source's each is, under which name and type.

Names are given once and stay. The memory moves in the transaction that publishes, so it is never ahead of the target
nor behind it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from connectors import masks
from connectors.column import Column
from connectors.postgres.names import free_column_name, postgres_name
from connectors.reading import ReadRequest


@dataclass(frozen=True)
class Known:
    """A column of the target: the source's column as it last was, and its name and type in PostgreSQL.

    `is_gone` says that the source has it no longer, `is_ruled` that a rule gave the name.
    """

    column: Column
    name: str
    type: str
    is_gone: bool = False
    is_ruled: bool = False


@dataclass(frozen=True)
class Memory:
    """What the head has of a target's columns, and of which source; `ignored` were told of once, and are not read."""

    source: str = ""
    columns: tuple[Known, ...] = ()
    ignored: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        told = [_known_json(known) for known in self.columns]
        return {"source": self.source, "columns": told, **({"ignored": list(self.ignored)} if self.ignored else {})}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Memory:
        columns = (
            Known(_column_of(told), told["as"], told["pg"], told.get("gone", False), told.get("ruled", False))
            for told in values.get("columns", ())
        )
        return cls(values.get("source", ""), tuple(columns), tuple(values.get("ignored", ())))

    def is_of(self, read: ReadRequest) -> bool:
        """Whether these are columns of the source that is read; else a person has changed the definition."""
        return self.source == source_key(read)

    def says_the_same_as(self, other: Memory) -> bool:
        """Whether both know the same; in which order a source has its columns, or describes them, does not count."""
        return (self.source, self._known(), set(self.ignored)) == (other.source, other._known(), set(other.ignored))

    def _known(self) -> dict[str, tuple[Any, ...]]:
        return {
            k.column.name.lower(): (stored_as(k.column), k.name, k.type, k.is_gone, k.is_ruled) for k in self.columns
        }


def source_key(read: ReadRequest) -> str:
    return hashlib.sha256(f"{read.table}\0{read.query}".encode()).hexdigest()[:16]


_LEAN = {field.name: field.default for field in fields(Column) if field.name not in ("name", "columns")}


def as_declared(column: Column) -> Column:
    """The column as the source declares it, without what rules and names make of it."""
    return replace(masks.declared(column), target_type="", target_name="", zone="")


def _known_json(known: Known) -> dict[str, Any]:
    flags = {"gone": known.is_gone, "ruled": known.is_ruled}
    told = {name: True for name, is_so in flags.items() if is_so}
    return {**_column_json(known.column), "as": known.name, "pg": known.type, **told}


def _column_json(column: Column) -> dict[str, Any]:
    told = {name: getattr(column, name) for name, usual in _LEAN.items() if getattr(column, name) != usual}
    inner = {"columns": [_column_json(field) for field in column.columns]} if column.columns else {}
    return {"name": column.name, **told, **inner}


def _column_of(told: Mapping[str, Any]) -> Column:
    known = {name: told[name] for name in (*_LEAN, "name") if name in told}
    return Column(**{**known, "columns": tuple(map(_column_of, told.get("columns", ())))})


def named(columns: Sequence[Column], memory: Memory, *, is_anew: bool = False) -> tuple[Column, ...]:
    """The columns under the names that they have in the target; a new one never takes another's, whatever its case.

    A rule that names a column has the last word; the name that a former rule gave goes when all rows are written anew.
    """
    known = (each for each in memory.columns if not (is_anew and each.is_ruled))
    given = {each.column.name.lower(): each.name for each in known}
    taken = {name.lower() for name in given.values()}
    done = []
    for column in columns:
        if not column.target_name:
            usual = postgres_name(column.name)
            name = given.get(column.name.lower())
            if name is None and memory.columns:
                name = free_column_name(column.name, taken)
                taken.add(name.lower())
            column = replace(column, target_name="" if name in (None, usual) else name)
        done.append(column)
    return tuple(done)


def stored_as(column: Column) -> tuple[Any, ...]:
    """What decides how a column is stored: not its name's case, its length, nor whether it is required."""
    inner = tuple(sorted((child.name.lower(), stored_as(child)) for child in column.columns))
    return column.type, column.repeated, column.precision, column.scale, column.element, inner
