"""What tests leave in the control database, taken away again without truncating every table there is."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.db import connection, transaction
from django.test import TransactionTestCase
from psycopg2 import sql

# Table → (rows, hash of all rows) as Django's own flush leaves them, by database.
_baselines: dict[str, dict[str, tuple[int, int]]] = {}
_flush = TransactionTestCase._fixture_teardown  # type: ignore[attr-defined]


def empty_only_what_has_rows() -> None:
    """Let transactional tests delete the rows they made.

    Django truncates every table, used or not, and makes all permissions anew: 20 times as long as a test of ours takes.
    """
    TransactionTestCase._fixture_teardown = _empty  # type: ignore[attr-defined]


def _empty(case: Any) -> None:
    if case.available_apps is not None or case.serialized_rollback:
        _flush(case)
        return
    name = connection.settings_dict["NAME"]
    kept = _baselines.get(name)
    with transaction.atomic(), connection.cursor() as cursor:
        used = _used(cursor)
        changed = kept is None or _hashed(cursor, kept) != kept
        if not changed:
            # Foreign keys are looked at when all is gone.
            for table in sorted(used - kept.keys()):
                cursor.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
    if changed:
        _flush(case)
        with transaction.atomic(), connection.cursor() as cursor:
            _baselines[name] = _hashed(cursor, _used(cursor))


@cache
def _tables() -> list[str]:
    return connection.introspection.django_table_names(only_existing=True, include_views=False)


def _used(cursor: Any) -> set[str]:
    looks = (
        sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})").format(sql.Literal(table), sql.Identifier(table))
        for table in _tables()
    )
    cursor.execute(sql.SQL(" UNION ALL ").join(looks))
    return {table for (table,) in cursor.fetchall()}


def _hashed(cursor: Any, tables: Any) -> dict[str, tuple[int, int]]:
    looks = (
        sql.SQL("SELECT {}, count(*), coalesce(sum(hashtext(t::text)), 0) FROM {} t").format(
            sql.Literal(table), sql.Identifier(table)
        )
        for table in tables
    )
    cursor.execute(sql.SQL(" UNION ALL ").join(looks))
    return {table: (rows, hashed) for table, rows, hashed in cursor.fetchall()}
