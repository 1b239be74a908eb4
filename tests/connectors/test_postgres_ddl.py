"""Tables made for columns, and tables compared with columns before a COPY."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg2 import sql

from connectors.column import Column
from connectors.postgres.ddl import compare_catalog, create_table
from tests.connectors.columns.values import KINDS

COLUMNS = (Column("id", "INT64", required=True), Column("price", "NUMERIC"), Column("Tags", "STRING", True))
TABLE = 'odd "table"'


@pytest.fixture
def cursor(warehouse_cursor: Any) -> Any:
    warehouse_cursor.execute("DROP SCHEMA IF EXISTS ddl CASCADE; CREATE SCHEMA ddl")
    return warehouse_cursor


def differences(cursor: Any, columns: Any = COLUMNS) -> list[tuple[str, str]]:
    return [(error.code, error.field) for error in compare_catalog(cursor, "ddl", TABLE, columns)]


def alter(cursor: Any, change: str) -> None:
    cursor.execute(sql.SQL("ALTER TABLE {} {}").format(sql.Identifier("ddl", TABLE), sql.SQL(change)))


def test_a_table_we_made_is_the_table_we_expect(cursor: Any) -> None:
    columns = [
        kind.column(f"{'many' if repeated else 'one'} {name}", name, repeated=repeated)
        for name, kind in KINDS.items()
        for repeated in (False, True)
    ]
    columns.append(Column("s", "STRUCT", columns=COLUMNS))
    cursor.execute(create_table(sql.Identifier("ddl", TABLE), columns))
    assert differences(cursor, columns) == []


def test_not_null_is_not_carried_over(cursor: Any) -> None:
    cursor.execute(create_table(sql.Identifier("ddl", TABLE), COLUMNS))
    cursor.execute(sql.SQL("INSERT INTO {} DEFAULT VALUES").format(sql.Identifier("ddl", TABLE)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("DROP COLUMN price", ("target_column_missing", "price")),
        ("ALTER price TYPE numeric(38,10)", ("target_column_mismatch", "price")),
        ("ALTER price TYPE double precision", ("target_column_mismatch", "price")),
        ("ALTER id TYPE integer", ("target_column_mismatch", "id")),
        ('ALTER "Tags" TYPE character varying(10)[]', ("target_column_mismatch", "Tags")),
        ("DROP COLUMN id, ADD COLUMN id bigint GENERATED ALWAYS AS (1) STORED", ("target_column_mismatch", "id")),
        ("ADD COLUMN extra text NOT NULL", ("target_extra_column", "extra")),
        ('RENAME COLUMN "Tags" TO tags', ("target_column_missing", "Tags")),
    ],
)
def test_what_stands_against_a_copy_is_named(cursor: Any, change: str, expected: tuple[str, str]) -> None:
    cursor.execute(create_table(sql.Identifier("ddl", TABLE), COLUMNS))
    alter(cursor, change)
    assert differences(cursor) == [expected]


@pytest.mark.parametrize(
    "change",
    [
        "ADD COLUMN extra text",
        "ADD COLUMN extra text NOT NULL DEFAULT 'x'",
        "ADD COLUMN extra bigint GENERATED ALWAYS AS IDENTITY",
        "ALTER id SET NOT NULL",
        "DROP COLUMN id, ADD COLUMN id bigint",
    ],
)
def test_what_does_no_harm_may_stay(cursor: Any, change: str) -> None:
    cursor.execute(create_table(sql.Identifier("ddl", TABLE), COLUMNS))
    alter(cursor, change)
    assert differences(cursor) == []
