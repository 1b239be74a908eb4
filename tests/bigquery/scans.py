"""What a query scans: the columns that it names, which are what BigQuery counts and bills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.pushdown_projections import pushdown_projections
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, traverse_scope

from tests.bigquery.statements import TableName


def columns_read(
    sql: str, project: str, dataset: str, tables: Mapping[TableName, Sequence[str]]
) -> dict[TableName, frozenset[str]]:
    """Names in lower case, by table; a table that is missing here is read whole, as far as can be told.

    `tables` are the columns that each has.
    """
    schema: dict[str, dict[str, dict[str, dict[str, str]]]] = {}
    for table, columns in tables.items():
        of_dataset = schema.setdefault(table.project, {}).setdefault(table.dataset, {})
        of_dataset[table.table] = dict.fromkeys(columns, "UNKNOWN")
    try:
        tree = sqlglot.parse_one(sql, read="bigquery")
        if not isinstance(tree, exp.Query):
            return {}
        tree = qualify(tree, schema=schema, dialect="bigquery", catalog=project, db=dataset or None)
        tree = pushdown_projections(tree, schema=schema, dialect="bigquery")
    except SqlglotError:
        return {}
    found: dict[TableName, set[str]] = {}
    whole: set[TableName] = set()
    for scope in traverse_scope(tree):
        of_scope = {alias: _name(source) for alias, source in scope.sources.items() if isinstance(source, exp.Table)}
        for name in of_scope.values():
            found.setdefault(name, set())
        for column in scope.columns:
            if column.table in of_scope:
                found[of_scope[column.table]].add(column.name.lower())
        whole |= {of_scope[alias] for alias in _taken_as_rows(scope) if alias in of_scope}
    return {name: frozenset(columns) for name, columns in found.items() if name not in whole}


def _taken_as_rows(scope: Scope) -> set[str]:
    """Names that stand for a whole row, as in TO_JSON_STRING(t)."""
    return {whole.name for whole in scope.find_all(exp.TableColumn)}


def _name(table: exp.Table) -> TableName:
    return TableName(table.catalog, table.db, table.name)
