"""A table with every type, moved from the emulator into PostgreSQL: both sides sum to the same."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
from psycopg2 import sql

from connectors.base import NeverStop
from connectors.bigquery.client import Endpoints
from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from connectors.column import Column
from connectors.column_rules import ColumnRule, apply, skipped
from connectors.postgres import keep
from connectors.postgres.copy import copy_parts
from connectors.postgres.ddl import compare_catalog, create_table
from connectors.postgres.destination import PostgresDestination
from connectors.postgres.options import PostgresOptions
from connectors.reading import ReadRequest
from connectors.writing import Target
from tests.connectors import digests
from tests.emulator_tables import EVERY_TYPE, EmulatorTables, every_type_rows

PROJECT = "demo-project"
NO_RULES: Mapping[str, ColumnRule] = {}
COUNTED_ONLY = {"json", "geography", "struct", "structs"}


@pytest.fixture
def source(emulator: dict[str, str]) -> Iterator[BigQuerySource]:
    made = BigQuerySource(BigQueryOptions(PROJECT, "US", ""), endpoints=Endpoints(**emulator), timeout_s=10.0)
    yield made
    made.close()


@pytest.fixture
def destination(warehouse: dict[str, Any]) -> Iterator[PostgresDestination]:
    made = PostgresDestination(PostgresOptions(**warehouse))
    yield made
    made.close()
    keep.sessions.clear()


@pytest.fixture
def table(emulator: dict[str, str]) -> Iterator[str]:
    """EVERY_TYPE with its rows, and one more of NULL arrays, which the emulator hands out as such."""
    tables = EmulatorTables(emulator["rest"], PROJECT)
    name = f"agree_{uuid.uuid4().hex[:8]}.every_type"
    tables.make(name, EVERY_TYPE, every_type_rows())
    empty = {field.name: pa.array([None], field.type) for field in every_type_rows().schema}
    tables.append(name, pa.table({**empty, "id": pa.array([4], pa.int64())}))
    yield name
    tables.drop(name)
    tables.close()


def move(
    source: BigQuerySource,
    cursor: Any,
    request: ReadRequest,
    target: Target,
    rules: Mapping[str, ColumnRule] = NO_RULES,
) -> tuple[Column, ...]:
    plan = source.plan(replace(request, skip=skipped(rules)), stop=NeverStop())
    columns = apply(plan.columns, rules)
    readers = [partial(source.read, part, stop=NeverStop()) for part in plan.parts]
    name = sql.Identifier(target.schema, target.table)
    cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
    cursor.execute(create_table(name, columns))
    assert compare_catalog(cursor, target.schema, target.table, columns) == []
    copy_parts(cursor, name, columns, readers, on_batch=lambda rows, size: None, stop=NeverStop())
    return columns


def test_every_type_agrees(
    source: BigQuerySource, destination: PostgresDestination, warehouse_cursor: Any, table: str
) -> None:
    request, target = ReadRequest(table=f"{PROJECT}.{table}"), Target("public", "every_type")
    columns = move(source, warehouse_cursor, request, target)
    there, here = digests.of_source(source, request, columns), digests.of_target(destination, target, columns)
    assert here.rows == 4
    assert here == there
    assert {column.name for column in here.columns if column.checksum is None} == COUNTED_ONLY
    warehouse_cursor.execute("SELECT json::text, geography, struct::text, structs::text FROM every_type ORDER BY id")
    point = "0101000000000000000000f03f0000000000000040"
    line = "01020000000200000000000000000000000000000000000000000000000000f03f000000000000f03f"
    assert warehouse_cursor.fetchall() == [
        ('{"a": [1, 2.5], "b": null}', point, '{"x": 1, "y": "one"}', '[{"x": 1, "y": "one"}, {"x": 2, "y": null}]'),
        (None, None, None, "[]"),
        ("[]", line, '{"x": null, "y": null}', "[]"),
        (None, None, None, "[]"),
    ]


def test_columns_of_other_types_agree_or_are_counted_only(
    source: BigQuerySource, destination: PostgresDestination, warehouse_cursor: Any, table: str
) -> None:
    request, target = ReadRequest(table=f"{PROJECT}.{table}"), Target("public", "by_rules")
    rules = {
        "bool": ColumnRule(type="text"),
        "int": ColumnRule(type="numeric"),
        "float": ColumnRule(type="text"),
        "numeric": ColumnRule(type="text"),
        "string": ColumnRule(type="varchar(1000)"),
        "bytes": ColumnRule(type="text"),
        "date": ColumnRule(type="timestamp"),
        "time": ColumnRule(type="text"),
        "datetime": ColumnRule(type="text"),
        "timestamp": ColumnRule(type="text"),
        "geography": ColumnRule(skip=True),
        "interval": ColumnRule(type="text"),
        "date_range": ColumnRule(type="text"),
        "json": ColumnRule(type="json"),
        "structs": ColumnRule(type="text"),
    }
    columns = move(source, warehouse_cursor, request, target, rules)
    there, here = digests.of_source(source, request, columns), digests.of_target(destination, target, columns)
    assert here == there
    counted = {column.name for column in here.columns if column.checksum is None}
    assert counted == {"float", "interval", "json", "struct", "structs"}
    assert "geography" not in {column.name for column in columns}
