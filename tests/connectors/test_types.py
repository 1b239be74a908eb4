"""The type table: DDL text, and canonical texts that both sides give byte for byte."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import io
import random
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import google.api_core.client_options
import google.auth.credentials
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud import bigquery
from psycopg2 import sql

from connectors.base import NeverStop
from connectors.column import Column
from connectors.column_rules import ColumnRule, apply
from connectors.errors import ConnectorError
from connectors.postgres.copy import copy_batches
from connectors.postgres.ddl import create_table
from connectors.types import bigquery_text, postgres_text, postgres_type
from tests.emulator_tables import CALL_S

STRUCT = Column("v", "STRUCT", columns=(Column("a", "INT64"),))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (Column("v", "BOOL"), "boolean"),
        (Column("v", "INT64"), "bigint"),
        (Column("v", "FLOAT64"), "double precision"),
        (Column("v", "NUMERIC"), "numeric(38,9)"),
        (Column("v", "NUMERIC", precision=10, scale=2), "numeric(10,2)"),
        (Column("v", "NUMERIC", precision=5), "numeric(5,0)"),
        (Column("v", "BIGNUMERIC"), "numeric"),
        (Column("v", "BIGNUMERIC", precision=60, scale=30), "numeric(60,30)"),
        (Column("v", "STRING", max_length=5), "text"),
        (Column("v", "BYTES"), "bytea"),
        (Column("v", "DATE"), "date"),
        (Column("v", "TIME"), "time without time zone"),
        (Column("v", "DATETIME"), "timestamp without time zone"),
        (Column("v", "TIMESTAMP"), "timestamp with time zone"),
        (Column("v", "JSON"), "jsonb"),
        (Column("v", "GEOGRAPHY"), "text"),
        (Column("v", "INTERVAL"), "interval"),
        (Column("v", "RANGE", element="DATE"), "daterange"),
        (Column("v", "RANGE", element="DATETIME"), "tsrange"),
        (Column("v", "RANGE", element="TIMESTAMP"), "tstzrange"),
        (STRUCT, "jsonb"),
        (Column("v", "STRUCT", repeated=True, columns=STRUCT.columns), "jsonb"),
        (Column("v", "INT64", repeated=True), "bigint[]"),
        (Column("v", "NUMERIC", repeated=True), "numeric(38,9)[]"),
        (Column("v", "JSON", repeated=True), "jsonb[]"),
        (Column("v", "RANGE", repeated=True, element="DATE"), "daterange[]"),
    ],
)
def test_every_type_has_one_in_postgresql_spelled_as_the_catalog_spells_it(
    warehouse_cursor: Any, column: Column, expected: str
) -> None:
    assert postgres_type(column) == expected
    warehouse_cursor.execute(sql.SQL("CREATE TEMP TABLE spelled (v {})").format(sql.SQL(expected)))
    warehouse_cursor.execute(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'spelled'::regclass AND attnum = 1"
    )
    assert warehouse_cursor.fetchone() == (expected,)


@pytest.mark.parametrize("column", [Column("odd", "HLL_SKETCH"), Column("odd", "RANGE", element="INT64")])
def test_a_type_without_a_counterpart_is_named(column: Column) -> None:
    with pytest.raises(ConnectorError) as caught:
        postgres_type(column)
    assert (caught.value.code, caught.value.field) == ("unknown_type", "odd")


def test_the_table_needs_no_pyarrow() -> None:
    code = "import sys, connectors.types, connectors.postgres.names; assert 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("column", [Column("v", "JSON"), Column("v", "GEOGRAPHY"), STRUCT, Column("v", "JSON", True)])
def test_types_without_a_common_form_are_counted_only(column: Column) -> None:
    assert bigquery_text(column, "v") is None
    assert postgres_text(column, "v") is None


# The canonical texts, in the emulator and in PostgreSQL, over the same rows moved by our own COPY.


def random_floats(count: int) -> list[float]:
    generator = random.Random(7)
    return [struct.unpack("<d", generator.randbytes(8))[0] for _ in range(count)]


MOMENTS = ["0001-01-01T00:00:00", "9999-12-31T23:59:59.999999", "1969-12-31T23:59:59.999999", "2024-02-29T12:34:56.789"]
SCALARS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "BOOL": (pa.bool_(), [True, False]),
    "INT64": (pa.int64(), [0, -(2**63), 2**63 - 1]),
    "FLOAT64": (
        pa.float64(),
        [
            *(0.0, -0.0, 1.0, 0.1 + 0.2, float("nan"), float("inf"), -float("inf"), 1.7976931348623157e308, 5e-324),
            *(1e16, 1e15, 1e-5, 2.0**53 + 2, 2.2250738585072014e-308),
            *random_floats(300),
        ],
    ),
    "NUMERIC": (
        pa.decimal128(38, 9),
        [decimal.Decimal(t) for t in ("0", "1.5", "100", "-1000.010", "0.000000001", "-" + "9" * 29 + "." + "9" * 9)],
    ),
    "STRING": (pa.string(), ["", "é😀", "a\tb\n'\\x41", "a,b", "null"]),
    "BYTES": (pa.binary(), [b"", b"\0\xff", base64.b64decode("AP8=")]),
    "DATE": (pa.date32(), [dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.date(1970, 1, 1), dt.date(1969, 12, 31)]),
    "TIME": (pa.time64("us"), [dt.time(0), dt.time(23, 59, 59, 999999), dt.time(12, 34, 56, 1)]),
    "DATETIME": (pa.timestamp("us"), [dt.datetime.fromisoformat(t) for t in MOMENTS]),
    "TIMESTAMP": (pa.timestamp("us", "UTC"), [dt.datetime.fromisoformat(t + "+00:00") for t in MOMENTS]),
}


@pytest.fixture(scope="module")
def bigquery_client(emulator: dict[str, str]) -> Iterator[bigquery.Client]:
    client = bigquery.Client(
        "types",
        credentials=google.auth.credentials.AnonymousCredentials(),
        client_options=google.api_core.client_options.ClientOptions(api_endpoint=emulator["rest"]),
    )
    yield client
    client.close()


@pytest.fixture(scope="module")
def query(bigquery_client: bigquery.Client) -> Callable[[str], list[tuple[Any, ...]]]:
    def run(text: str) -> list[tuple[Any, ...]]:
        rows = bigquery_client.query(text, retry=None, timeout=CALL_S).result(retry=None, timeout=CALL_S)
        return [tuple(row.values()) for row in rows]

    return run


@pytest.fixture
def dataset(bigquery_client: bigquery.Client) -> str:
    name = f"types_{uuid.uuid4().hex[:8]}"
    bigquery_client.create_dataset(name, retry=None, timeout=CALL_S)
    return name


def texts_in_postgres(cursor: Any, column: Column, batch: pa.RecordBatch) -> dict[int, str | None]:
    columns = (Column("k", "INT64"), column)
    table = sql.Identifier("texts")
    cursor.execute("SET timezone = 'Asia/Kolkata'; SET datestyle = 'SQL, DMY'; SET extra_float_digits = 0")
    cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
    cursor.execute(create_table(table, columns))
    copy_batches(cursor, table, columns, iter([batch]), on_batch=lambda rows, size: None, stop=NeverStop())
    cursor.execute(f"SELECT k, CASE WHEN v IS NOT NULL THEN {postgres_text(column, 'v')} END FROM texts")
    return dict(cursor.fetchall())


@pytest.mark.parametrize("repeated", [False, True], ids=["scalar", "array"])
@pytest.mark.parametrize("name", SCALARS)
def test_both_sides_give_the_same_text(
    warehouse_cursor: Any, bigquery_client: bigquery.Client, query: Any, dataset: str, name: str, repeated: bool
) -> None:
    arrow, values = SCALARS[name]
    check_texts(warehouse_cursor, bigquery_client, query, dataset, Column("v", name, repeated), arrow, values)


# By a rule: the values of SCALARS that fit, unless others are named.
CASTS_WITH_TEXTS: list[tuple[str, str, str, list[Any]]] = [
    ("BOOL", "text", "", []),
    ("INT64", "smallint", "", [0, -(2**15), 2**15 - 1]),
    ("INT64", "integer", "", [0, -(2**31), 2**31 - 1]),
    ("INT64", "numeric", "", []),
    ("INT64", "numeric(25,3)", "", []),
    ("INT64", "text", "", []),
    ("NUMERIC", "numeric", "", []),
    ("NUMERIC", "numeric(12,2)", "", [decimal.Decimal(t) for t in ("0", "1.5", "-100")]),
    ("NUMERIC", "integer", "", [decimal.Decimal(t) for t in ("0", "10", "-100")]),
    ("NUMERIC", "text", "", []),
    ("STRING", "varchar(20)", "", []),
    ("STRING", "uuid", "", ["123E4567-e89b-12d3-a456-426614174000"]),
    ("BYTES", "text", "", []),
    ("DATE", "timestamp", "", []),
    ("DATE", "text", "", []),
    ("TIME", "text", "", []),
    ("DATETIME", "timestamptz", "UTC", []),
    ("DATETIME", "timestamptz", "Asia/Kolkata", [dt.datetime(2024, 2, 29, 12, 34, 56, 789000)]),
    ("DATETIME", "text", "", []),
    ("TIMESTAMP", "timestamp", "UTC", []),
    ("TIMESTAMP", "timestamp", "Asia/Kolkata", [dt.datetime(2024, 2, 29, 23, 34, 56, 789000, dt.UTC)]),
    ("TIMESTAMP", "text", "", []),
]


@pytest.mark.parametrize("repeated", [False, True], ids=["scalar", "array"])
@pytest.mark.parametrize(("name", "type_", "zone", "values"), CASTS_WITH_TEXTS)
def test_both_sides_give_the_same_text_of_a_type_by_a_rule(
    warehouse_cursor: Any, bigquery_client: Any, query: Any, dataset: str,
    name: str, type_: str, zone: str, values: list[Any], repeated: bool,
) -> None:  # fmt: skip
    rule = ColumnRule(type=f"{type_}[]" if repeated else type_, zone=zone)
    (column,) = apply([Column("v", name, repeated)], {"v": rule})
    arrow, usual = SCALARS[name]
    check_texts(warehouse_cursor, bigquery_client, query, dataset, column, arrow, values or usual)


def check_texts(
    cursor: Any, client: bigquery.Client, query: Any, dataset: str, column: Column, arrow: pa.DataType, values: Any
) -> None:
    """Load the values into both, and compare their texts; of an array column, several arrays of them."""
    if column.repeated:
        arrow, values = pa.list_(arrow), [values, [], values[:1], [*values[:2], None], [None]]
    batch = pa.record_batch([pa.array(range(len(values) + 1)), pa.array([*values, None], arrow)], names=["k", "v"])
    mode = "REPEATED" if column.repeated else "NULLABLE"
    schema = [bigquery.SchemaField("k", "INT64"), bigquery.SchemaField("v", column.type, mode=mode)]
    table = f"types.{dataset}.v"
    client.create_table(bigquery.Table(table, schema), retry=None, timeout=CALL_S)
    file = io.BytesIO()
    pq.write_table(pa.Table.from_batches([batch]), file)
    file.seek(0)
    config = bigquery.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_APPEND")
    client.load_table_from_file(file, table, job_config=config, timeout=CALL_S).result(retry=None, timeout=CALL_S)
    # A NULL array is an empty one, whatever the emulator says of it.
    text = bigquery_text(column, "v")
    found = dict(
        query(f"SELECT k, {text if column.repeated else f'CASE WHEN v IS NOT NULL THEN {text} END'} FROM {dataset}.v")
    )
    assert len(found) == len(values) + 1
    assert found == texts_in_postgres(cursor, column, batch)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (Column("v", "RANGE", element="DATE"), ["[2020-01-01, 2020-12-31)", "[UNBOUNDED, 2020-12-31)"]),
        (Column("v", "RANGE", element="DATETIME"), ["[2020-01-01T01:02:03.5, UNBOUNDED)", "[UNBOUNDED, UNBOUNDED)"]),
        (Column("v", "RANGE", element="TIMESTAMP"), ["[2020-01-01 01:02:03.5+00, 2020-12-31 00:00:00+00)"]),
    ],
)
def test_ranges_give_the_same_text(
    warehouse_cursor: Any, query: Any, dataset: str, column: Column, values: list[str]
) -> None:
    query(f"CREATE TABLE {dataset}.v (k INT64, v RANGE<{column.element}>)")
    for k, value in enumerate(values):
        query(f"INSERT INTO {dataset}.v VALUES ({k}, RANGE<{column.element}> '{value}')")
        warehouse_cursor.execute(
            f"SELECT {postgres_text(column, 'v')} FROM (SELECT %s::{postgres_type(column)} AS v) AS s",
            (value.replace("UNBOUNDED", "").replace(", ", ","),),
        )
        text = warehouse_cursor.fetchone()[0]
        assert query(f"SELECT {bigquery_text(column, 'v')} FROM {dataset}.v WHERE k = {k}") == [(text,)]


@pytest.mark.parametrize("value", ["1-2 3 4:5:6.789", "0-0 0 100:0:0", "0-0 -3 0:0:0.000001", "1-0 30 23:59:59.999999"])
def test_intervals_give_the_same_text(warehouse_cursor: Any, query: Any, dataset: str, value: str) -> None:
    column = Column("v", "INTERVAL")
    query(f"CREATE TABLE {dataset}.v (v INTERVAL)")
    query(f"INSERT INTO {dataset}.v VALUES (INTERVAL '{value}' YEAR TO SECOND)")
    years, days, clock = value.split()
    warehouse_cursor.execute(
        f"SELECT {postgres_text(column, 'v')} FROM (SELECT (%s || ' ' || %s || ' days ' || %s)::interval AS v) AS s",
        (years, days, clock),
    )
    text = warehouse_cursor.fetchone()[0]
    assert query(f"SELECT {bigquery_text(column, 'v')} FROM {dataset}.v") == [(text,)]
