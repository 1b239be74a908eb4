"""A column whose type was changed by hand: binary COPY takes it and stores something else, so the catalog is asked."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
from psycopg2 import sql

from connectors.base import NeverStop
from connectors.column import Column
from connectors.column_rules import ColumnRule, apply
from connectors.columns.encode import BatchEncoder
from connectors.errors import ConnectorError
from connectors.postgres.client import Session
from connectors.postgres.ddl import compare_catalog, create_table
from connectors.postgres.options import PostgresOptions
from connectors.postgres.publish.append import hold_target
from connectors.writing import Target
from tests.connectors.memory import Recorder

TARGET = Target("changed", "by_hand")
NAME = sql.Identifier(TARGET.schema, TARGET.table)
MOMENT = dt.datetime(2024, 2, 29, 12, 0, 0, 600000)
INT64, FLOAT64, STRING = Column("v", "INT64"), Column("v", "FLOAT64"), Column("v", "STRING")
NUMERIC, BIGNUMERIC = Column("v", "NUMERIC"), Column("v", "BIGNUMERIC")
DATETIME, TIMESTAMP = Column("v", "DATETIME"), Column("v", "TIMESTAMP")
STRUCT = Column("v", "STRUCT", columns=(Column("a", "INT64"),))


def decimals(text: str) -> pa.Array:
    return pa.array([Decimal(text)], pa.decimal128(38, 9))


UUID = "123e4567-e89b-12d3-a456-426614174000"


def ruled(type_: str, target_type: str) -> Column:
    (column,) = apply([Column("v", type_)], {"v": ColumnRule(type=target_type)})
    return column


# Column, what arrives, the type somebody gave the target, and what that would then hold.
SILENT = [
    (INT64, pa.array([1]), "double precision", "5e-324"),
    (FLOAT64, pa.array([1.0]), "bigint", "4607182418800017408"),
    (DATETIME, pa.array([MOMENT], pa.timestamp("us")), "bigint", "762523200600000"),
    (TIMESTAMP, pa.array([MOMENT], pa.timestamp("us", "UTC")), "bigint", "762523200600000"),
    (INT64, pa.array([1]), "timestamp without time zone", "2000-01-01 00:00:00.000001"),
    (TIMESTAMP, pa.array([MOMENT], pa.timestamp("us", "UTC")), "double precision", "3.767365175733734e-309"),
    (Column("v", "DATE"), pa.array([MOMENT.date()], pa.date32()), "integer", "8825"),
    (Column("v", "TIME"), pa.array([dt.time(1)], pa.time64("us")), "bigint", "3600000000"),
    (STRUCT, pa.array([{"a": 1}]), "text", '\x01{"a":1}'),
    (STRING, pa.array(["é"]), "bytea", "\\xc3a9"),
    # The right type, but narrower than what arrives.
    (NUMERIC, decimals("1.125"), "numeric(10,2)", "1.13"),
    (NUMERIC, decimals("1.5"), "numeric(38,0)", "2"),
    (BIGNUMERIC, decimals("1.125"), "numeric(10,2)", "1.13"),
    (
        Column("v", "NUMERIC", True),
        pa.array([[Decimal("1.125")]], pa.list_(pa.decimal128(38, 9))),
        "numeric(10,2)[]",
        "{1.13}",
    ),
    (STRING, pa.array(["abc   "]), "character varying(3)", "abc"),
    (STRING, pa.array(["a"]), "character(3)", "a"),
    (DATETIME, pa.array([MOMENT], pa.timestamp("us")), "timestamp(0) without time zone", "2024-02-29 12:00:01"),
    (
        Column("v", "INTERVAL"),
        pa.array([pa.MonthDayNano([1, 2, 3000])], pa.month_day_nano_interval()),
        "interval month",
        "1 mon",
    ),
    # By a rule.
    (ruled("INT64", "integer"), pa.array([1]), "real", "1e-45"),
    (ruled("STRING", "uuid"), pa.array([UUID]), "bytea", "\\x123e4567e89b12d3a456426614174000"),
    (ruled("STRING", "varchar(5)"), pa.array(["abc  "]), "character varying(3)", "abc"),
    (ruled("NUMERIC", "numeric(10,2)"), decimals("1.25"), "numeric(10,1)", "1.3"),
    (ruled("DATE", "timestamp"), pa.array([MOMENT.date()], pa.date32()), "bigint", "762480000000000"),
    (ruled("JSON", "json"), pa.array(['{"a":1}']), "bytea", "\\x7b2261223a317d"),
]

# PostgreSQL notices these by itself, but only in the middle of the COPY.
LOUD = [
    (INT64, pa.array([1]), "integer"),
    (STRING, pa.array(["abcd"]), "character varying(3)"),
    (NUMERIC, decimals("123456789.5"), "numeric(10,2)"),
    (Column("v", "INT64", True), pa.array([[1]]), "double precision[]"),
]


@pytest.fixture
def cursor(warehouse_cursor: Any) -> Any:
    warehouse_cursor.execute("SET timezone = 'UTC'")
    warehouse_cursor.execute("DROP SCHEMA IF EXISTS changed CASCADE; CREATE SCHEMA changed")
    return warehouse_cursor


@pytest.fixture
def session(warehouse: dict[str, Any]) -> Iterator[Session]:
    made = Session(PostgresOptions(**warehouse))
    yield made
    made.rollback()
    made.close()


def change(cursor: Any, column: Column, type_: str) -> None:
    """Make the table for `column`, then give it another type, as somebody could."""
    cursor.execute(create_table(NAME, (column,)))
    cursor.execute(sql.SQL("ALTER TABLE {} DROP COLUMN v, ADD COLUMN v {}").format(NAME, sql.SQL(type_)))


def copy(cursor: Any, column: Column, array: pa.Array) -> None:
    encoder = BatchEncoder([column])
    batch = pa.record_batch([array], names=["v"])
    data = b"".join([encoder.header(), *encoder.encode(batch), encoder.finish()])
    cursor.copy_expert(sql.SQL("COPY {} (v) FROM STDIN (FORMAT binary)").format(NAME), io.BytesIO(data))


def refusal(session: Session, column: Column) -> ConnectorError:
    session.execute("BEGIN")
    with pytest.raises(ConnectorError) as caught:
        hold_target(session, TARGET, (column,), reporter=Recorder(), stop=NeverStop())
    session.rollback()
    assert (caught.value.code, caught.value.field) == ("target_column_mismatch", "v")
    return caught.value


@pytest.mark.parametrize(("column", "array", "type_", "stored"), SILENT)
def test_what_postgres_would_take_and_spoil_is_refused(
    cursor: Any, session: Session, column: Column, array: pa.Array, type_: str, stored: str
) -> None:
    change(cursor, column, type_)
    assert type_ in refusal(session, column).message
    # Without the question, the COPY goes well and the value is another one.
    copy(cursor, column, array)
    cursor.execute(sql.SQL("SELECT v::text FROM {}").format(NAME))
    assert cursor.fetchall() == [(stored,)]


@pytest.mark.parametrize(("column", "array", "type_"), LOUD)
def test_what_postgres_would_refuse_is_refused_before(
    cursor: Any, session: Session, column: Column, array: pa.Array, type_: str
) -> None:
    change(cursor, column, type_)
    assert type_ in refusal(session, column).message
    with pytest.raises(psycopg2.Error):
        copy(cursor, column, array)


@pytest.mark.parametrize("type_", ['"bigint"', "text", "mood"])
def test_a_type_of_somebodys_own_is_not_ours_by_its_name(cursor: Any, session: Session, type_: str) -> None:
    cursor.execute(
        'CREATE DOMAIN changed."bigint" AS bigint; CREATE DOMAIN changed.text AS text;'
        "CREATE TYPE changed.mood AS ENUM ('a')"
    )
    change(cursor, STRING, f"changed.{type_}")
    for column in (INT64, STRING):
        assert f"changed.{type_}" in refusal(session, column).message


def test_a_target_that_was_compared_cannot_be_changed_until_the_rows_are_in(cursor: Any, session: Session) -> None:
    cursor.execute(create_table(NAME, (INT64,)))
    session.execute("BEGIN")
    hold_target(session, TARGET, (INT64,), reporter=Recorder(), stop=NeverStop())
    cursor.execute("SET lock_timeout = '100ms'")
    with pytest.raises(psycopg2.errors.LockNotAvailable):
        cursor.execute(sql.SQL("ALTER TABLE {} ALTER v TYPE double precision").format(NAME))
    session.commit()
    cursor.execute("RESET lock_timeout")
    cursor.execute(sql.SQL("ALTER TABLE {} ALTER v TYPE double precision").format(NAME))
    assert [error.field for error in compare_catalog(cursor, TARGET.schema, TARGET.table, (INT64,))] == ["v"]
