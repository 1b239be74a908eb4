"""Whether the control database is what its applied migrations make now.

Until the first release migrations are squashed: a database that an earlier version made counts as migrated and is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.operations.special import RunSQL

from connectors.errors import ConnectorError

APPS = ("pipelines", "runs")
MOST_SAID = 5
_AS_FORMATTED = {"time": "time without time zone"}

_COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relname = ANY(%s) AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND a.attnum > 0
  AND NOT a.attisdropped
"""
_NAMED = """
SELECT relname FROM pg_class WHERE relname = ANY(%(names)s) AND pg_table_is_visible(oid)
UNION SELECT conname FROM pg_constraint WHERE conname = ANY(%(names)s)
"""


def refuse_other_schema() -> None:
    """Raise ConnectorError where another version made the control database; nothing is changed."""
    found = differences()
    if not found:
        return
    more = f" and {len(found) - MOST_SAID:,} more" if len(found) > MOST_SAID else ""
    raise ConnectorError(
        f"Another version of DataMantri made the control database: {'; '.join(found[:MOST_SAID])}{more}."
        " Nothing was changed.",
        hint="Run the version that made it, or export the definitions with that version (`manage.py export`), give this"
        " one a database of its own (move the data directory, .datamantri, away; with a server of your own, another"
        " DATABASE_URL), and apply the file there.",
        code="control_schema_differs",
    )


def differences() -> list[str]:
    """What the database lacks of what its applied migrations say, or has besides; empty before the first of them."""
    executor = MigrationExecutor(connection)
    applied = [key for key in executor.loader.applied_migrations if key[0] in APPS]
    known = [key for key in applied if key in executor.loader.graph.nodes]
    if not applied:
        return []
    gone = [f"its migration {app}.{name} is not known here" for app, name in sorted(set(applied) - set(known))]
    state = executor.loader.project_state([key for key in executor.loader.graph.nodes if key in _applied(executor)])
    models = [model for model in state.apps.get_models(include_auto_created=True) if model._meta.app_label in APPS]
    return [*gone, *_of_columns(models), *_of_names(models), *_of_statements(executor, known)]


def remember() -> None:
    """Write down by which statements of their own the applied migrations made the database."""
    executor = MigrationExecutor(connection)
    known = [key for key in executor.loader.applied_migrations if key in executor.loader.graph.nodes]
    told = json.dumps(_statements(executor, known), sort_keys=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT obj_description('django_migrations'::regclass, 'pg_class')")
        if cursor.fetchone() != (told,):
            cursor.execute("COMMENT ON TABLE django_migrations IS %s", [told])


def _applied(executor: MigrationExecutor) -> set[tuple[str, str]]:
    return set(executor.loader.applied_migrations)


def _of_columns(models: list[Any]) -> Iterator[str]:
    wanted = {model._meta.db_table: _columns_of(model) for model in models}
    with connection.cursor() as cursor:
        cursor.execute(_COLUMNS, [list(wanted)])
        rows = cursor.fetchall()
    for table, columns in sorted(wanted.items()):
        there = {name: (type_, is_required) for of, name, type_, is_required in rows if of == table}
        if not there:
            yield f"the table {table} is missing"
            continue
        for name in sorted(columns.keys() | there.keys()):
            if columns.get(name) == there.get(name):
                continue
            if name not in there:
                yield f"{table} lacks the column {name}"
            elif name not in columns:
                yield f"{table} has a column {name}"
            else:
                yield f"{table}.{name} is {_in_words(there[name])}, not {_in_words(columns[name])}"


def _columns_of(model: Any) -> dict[str, tuple[str, bool]]:
    """Types as `format_type` writes them, and whether they are NOT NULL."""
    found = {}
    for field in model._meta.local_concrete_fields:
        type_ = str(field.db_type(connection)).replace("varchar", "character varying").replace(", ", ",")
        found[field.column] = (_AS_FORMATTED.get(type_, type_), not field.null)
    return found


def _in_words(column: tuple[str, bool]) -> str:
    return f"{column[0]}{' NOT NULL' if column[1] else ''}"


def _of_names(models: list[Any]) -> Iterator[str]:
    """Constraints and indexes that were given a name."""
    wanted = {
        each.name: model._meta.db_table for model in models for each in (*model._meta.constraints, *model._meta.indexes)
    }
    with connection.cursor() as cursor:
        cursor.execute(_NAMED, {"names": list(wanted)})
        there = {name for (name,) in cursor.fetchall()}
    yield from (f"{table} lacks {name}" for name, table in sorted(wanted.items()) if name not in there)


def _of_statements(executor: MigrationExecutor, known: list[tuple[str, str]]) -> Iterator[str]:
    """Functions and triggers: where it was written down by what they were made."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT obj_description('django_migrations'::regclass, 'pg_class')")
        (told,) = cursor.fetchone() or (None,)
    before = json.loads(told) if told and told.startswith("{") else {}
    for name, digest in sorted(_statements(executor, known).items()):
        if before.get(name, digest) != digest:
            yield f"{name} makes other functions or triggers by now"


def _statements(executor: MigrationExecutor, known: list[tuple[str, str]]) -> dict[str, str]:
    """A digest of each migration's own SQL, by the migration's name."""
    found = {}
    for key in known:
        if key[0] not in APPS:
            continue
        operations = executor.loader.graph.nodes[key].operations  # type: ignore[union-attr]
        texts = [str(each.sql) for each in operations if isinstance(each, RunSQL)]
        if texts:
            found[".".join(key)] = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    return found
