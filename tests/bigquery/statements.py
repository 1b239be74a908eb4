"""What a statement reads and writes, as far as the proxy must know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError


@dataclass(frozen=True, order=True)
class TableName:
    project: str
    dataset: str
    table: str

    def __str__(self) -> str:
        return f"{self.project}:{self.dataset}.{self.table}"

    @property
    def path(self) -> str:
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{self.table}"

    @classmethod
    def of(cls, reference: Mapping[str, Any], project: str) -> TableName:
        """From a table reference of the REST API."""
        return cls(reference.get("projectId") or project, reference.get("datasetId", ""), reference.get("tableId", ""))


@dataclass(frozen=True)
class Statement:
    """`is_query`: one SELECT, which changes nothing. `makes`: TABLE or VIEW, of what it reads."""

    reads: frozenset[TableName]
    writes: frozenset[TableName]
    is_query: bool
    makes: str = ""


def understand(sql: str, project: str, dataset: str = "") -> Statement:
    """Read `sql`; what cannot be parsed is the emulator's to refuse, and touches nothing here."""
    try:
        trees = [tree for tree in sqlglot.parse(sql, read="bigquery") if tree is not None]
    except SqlglotError:
        return Statement(frozenset(), frozenset(), is_query=False)
    reads: set[TableName] = set()
    writes: set[TableName] = set()
    for tree in trees:
        target = None if isinstance(tree, exp.Query) else _target(tree)
        if target is not None:
            writes |= _names([target], project, dataset, frozenset())
        with_names = frozenset(cte.alias_or_name for cte in tree.find_all(exp.CTE))
        # A table that is changed is scanned too, unless rows are only added to it or it is made.
        only_written = target if isinstance(tree, exp.Insert | exp.Create) else None
        found = [table for table in tree.find_all(exp.Table) if table is not only_written]
        reads |= _names(found, project, dataset, with_names)
    only = trees[0] if len(trees) == 1 else None
    makes = only.kind or "" if isinstance(only, exp.Create) else ""
    return Statement(frozenset(reads), frozenset(writes), isinstance(only, exp.Query), makes)


def _target(tree: exp.Expression) -> exp.Table | None:
    if isinstance(tree, exp.TruncateTable):
        return tree.find(exp.Table)
    this = tree.this
    if isinstance(this, exp.Schema):
        this = this.this
    return this if isinstance(this, exp.Table) else None


def name_of(table: exp.Table, project: str, dataset: str, with_names: frozenset[str] = frozenset()) -> TableName | None:
    """The table's full name; None for what is no table: a subquery's name, INFORMATION_SCHEMA, a function."""
    words = [part.name for part in table.parts]
    if any(word.upper() == "INFORMATION_SCHEMA" for word in words) or not words[-1]:
        return None
    if len(words) == 1 and (words[0] in with_names or not dataset):
        return None
    return TableName(*[project, dataset][: 3 - len(words)], *words[-3:])


def _names(tables: list[exp.Table], project: str, dataset: str, with_names: frozenset[str]) -> set[TableName]:
    found = (name_of(table, project, dataset, with_names) for table in tables)
    return {name for name in found if name is not None}
