"""Many rows in one statement."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connection
from django.db.models import Model
from django.db.models.expressions import DatabaseDefault
from psycopg2 import sql


def insert_alike(rows: Sequence[Model], differing: Sequence[str]) -> None:
    """Insert rows that are alike in all fields but those in `differing`.

    A bulk_create takes every column of every row through Python, which for a wide table is most of what it costs.
    """
    if not rows:
        return
    alike: list[str] = []
    constants: list[sql.Composable] = []
    apart: list[str] = []
    arrays: list[sql.Composable] = []
    values: list[object] = []
    for field in rows[0]._meta.concrete_fields:
        if field.name in differing:
            apart.append(field.column)
            arrays.append(sql.SQL("%s::{}[]").format(sql.SQL(field.db_type(connection) or "")))
            values.append([field.get_db_prep_save(getattr(row, field.attname), connection) for row in rows])
        elif not isinstance(value := field.pre_save(rows[0], add=True), DatabaseDefault):
            alike.append(field.column)
            constants.append(sql.Literal(field.get_db_prep_save(value, connection)))
    statement = sql.SQL("INSERT INTO {} ({}) SELECT {}, each.* FROM unnest({}) AS each").format(
        sql.Identifier(rows[0]._meta.db_table),
        sql.SQL(", ").join(map(sql.Identifier, [*alike, *apart])),
        sql.SQL(", ").join(constants),
        sql.SQL(", ").join(arrays),
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
