"""Every type from the wire to PostgreSQL: in the form of the real API, down to what its fields say of themselves."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from decimal import Decimal
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField
from psycopg2 import sql

from connectors.base import NeverStop
from connectors.column_rules import ColumnRule, apply
from connectors.postgres.copy import copy_parts
from connectors.postgres.ddl import create_table
from connectors.reading import ReadRequest
from tests.connectors.columns.test_the_ends_of_types import BIG_MAX, BIG_MIN, FACES, FIRST, LAST, of_77_digits

UTC_FIRST, UTC_LAST = FIRST.replace(tzinfo=dt.UTC), LAST.replace(tzinfo=dt.UTC)
MICROS, ZONED = pa.timestamp("us"), pa.timestamp("us", "UTC")
# Types that BigQuery's fields name in their metadata; nobody registered such extensions here.
NAMED = ("DATETIME", "JSON", "GEOGRAPHY", "INTERVAL", "RANGE")


def typed(name: str, kind: str, type_: pa.DataType) -> pa.Field:
    said = {"ARROW:extension:name": f"google:sqlType:{kind.lower()}", "ARROW:extension:metadata": ""}
    return pa.field(name, type_, metadata=said if kind in NAMED else None)


DATES = pa.struct([("start", pa.date32()), ("end", pa.date32())])
INNER = pa.struct([("when", ZONED), ("many", pa.list_(pa.field("item", pa.string())))])
NESTED = pa.struct([("code", pa.binary()), ("list", pa.list_(pa.field("item", INNER)))])
# Name → type in BigQuery, the two rows as they are sent, and what PostgreSQL then shows of them (as text where
# Python would blur them).
ROWS: dict[str, tuple[SchemaField, pa.Array, str, list[Any]]] = {}


def add(field: SchemaField, array: pa.Array, shown: list[Any], read: str = "{x}") -> None:
    ROWS[field.name] = field, array, read, shown


add(SchemaField("bool", "BOOL"), pa.array([True, None]), [True, None])
add(SchemaField("int", "INT64"), pa.array([-(2**63), 2**63 - 1]), [-(2**63), 2**63 - 1])
add(SchemaField("float", "FLOAT64"), pa.array([math.inf, math.nan]), ["Infinity", "NaN"], "{x}::text")
add(
    SchemaField("numeric", "NUMERIC"),
    pa.array([Decimal("9" * 29 + "." + "9" * 9), None], pa.decimal128(38, 9)),
    [Decimal("9" * 29 + "." + "9" * 9), None],
)
add(
    SchemaField("price", "NUMERIC", precision=10, scale=2),
    pa.array([Decimal("-99999999.99"), None], pa.decimal128(10, 2)),
    [Decimal("-99999999.99"), None],
)
add(SchemaField("big", "BIGNUMERIC"), of_77_digits(BIG_MAX, BIG_MIN), [BIG_MAX, BIG_MIN], "{x}::text")
add(SchemaField("string", "STRING"), pa.array([FACES, "x" * (1 << 20)]), [FACES, "x" * (1 << 20)])
add(SchemaField("bytes", "BYTES"), pa.array([b"\0\xff", b""]), ["00ff", ""], "encode({x}, 'hex')")
add(SchemaField("date", "DATE"), pa.array([dt.date(1, 1, 1), dt.date(9999, 12, 31)]), [dt.date(1, 1, 1), LAST.date()])
add(SchemaField("time", "TIME"), pa.array([dt.time.max, None], pa.time64("us")), [dt.time.max, None])
add(SchemaField("datetime", "DATETIME"), pa.array([FIRST, LAST], MICROS), [FIRST, LAST])
add(SchemaField("timestamp", "TIMESTAMP"), pa.array([UTC_FIRST, UTC_LAST], ZONED), [UTC_FIRST, UTC_LAST])
add(SchemaField("json", "JSON"), pa.array(['{"a":[1,2.50]}', "null"]), [{"a": [1, 2.5]}, None])
add(SchemaField("geography", "GEOGRAPHY"), pa.array(["POINT(1 2)", None]), ["POINT(1 2)", None])
add(
    SchemaField("interval", "INTERVAL"),
    pa.array([pa.MonthDayNano([14, -3, -1_000]), None], pa.month_day_nano_interval()),
    ["1 year 2 mons -3 days -00:00:00.000001", None],
    "{x}::text",
)
add(
    SchemaField("range", "RANGE", range_element_type="DATE"),
    pa.array([{"start": None, "end": dt.date(2020, 1, 1)}, {"start": None, "end": None}], DATES),
    ["(,2020-01-01)", "(,)"],
    "{x}::text",
)
add(SchemaField("ints", "INT64", "REPEATED"), pa.array([[1, None], []]), [[1, None], []])
add(
    SchemaField("bigs", "BIGNUMERIC", "REPEATED"),
    pa.ListArray.from_arrays(pa.array([0, 2, 2], pa.int32()), of_77_digits(BIG_MAX, None)),
    [f"{{{BIG_MAX},NULL}}", "{}"],
    "{x}::text",
)
add(
    SchemaField(
        "nested",
        "RECORD",
        fields=[
            SchemaField("code", "BYTES"),
            SchemaField(
                "list",
                "RECORD",
                "REPEATED",
                fields=[SchemaField("when", "TIMESTAMP"), SchemaField("many", "STRING", "REPEATED")],
            ),
        ],
    ),
    pa.array([{"code": b"\0\xff", "list": [{"when": UTC_LAST, "many": ["a", None, ""]}]}, None], NESTED),
    [
        {
            "code": base64.b64encode(b"\0\xff").decode(),
            "list": [{"when": "9999-12-31T23:59:59.999999Z", "many": ["a", None, ""]}],
        },
        None,
    ],
)


@pytest.fixture
def held(bigquery: Any, dataset: str) -> str:
    name, declared = f"{dataset}.every", [SchemaField("position", "INT64")]
    fields, arrays = [pa.field("position", pa.int64())], [pa.array([0, 1], pa.int64())]
    for field, array, _, _ in ROWS.values():
        declared.append(field)
        fields.append(typed(field.name, field.field_type, array.type))
        arrays.append(array)
    bigquery.hold(name, declared, pa.table(arrays, pa.schema(fields)))
    return name


def moved(source: Any, cursor: Any, table: str, rules: dict[str, ColumnRule], reads: dict[str, str]) -> dict[str, Any]:
    """Load the table by the rules, and ask PostgreSQL for its columns."""
    plan = source.plan(ReadRequest(table=table, skip=tuple(name for name, rule in rules.items() if rule.skip)))
    columns = apply(plan.columns, rules)
    name = sql.Identifier("every")
    cursor.execute("SET timezone = 'UTC'; DROP TABLE IF EXISTS every")
    cursor.execute(create_table(name, columns))
    readers = [partial(source.read, part, stop=NeverStop()) for part in plan.parts]
    copy_parts(cursor, name, columns, readers, on_batch=lambda rows, size: None, stop=NeverStop())
    found = {}
    for column, read in reads.items():
        cursor.execute(f"SELECT {read.format(x=f'''{chr(34)}{column}{chr(34)}''')} FROM every ORDER BY position")
        found[column] = [value for (value,) in cursor.fetchall()]
    return found


def test_every_value_arrives_as_it_was_sent(source: Any, held: str, warehouse_cursor: Any) -> None:
    reads = {name: read for name, (_, _, read, _) in ROWS.items()}
    found = moved(source, warehouse_cursor, held, {}, reads)
    assert found == {name: shown for name, (_, _, _, shown) in ROWS.items()}


def test_rules_reach_every_type(source: Any, held: str, warehouse_cursor: Any) -> None:
    rules = {
        "string": ColumnRule(skip=True),
        "BIG": ColumnRule(type="text"),
        "timestamp": ColumnRule(type="text"),
        "datetime": ColumnRule(type="timestamptz", zone="UTC"),
        "json": ColumnRule(type="json"),
        "range": ColumnRule(type="text"),
        "ints": ColumnRule(type="jsonb"),
        "nested": ColumnRule(type="text"),
    }
    reads = dict.fromkeys(("big", "timestamp", "datetime", "range", "ints"), "{x}")
    found = moved(source, warehouse_cursor, held, rules, {**reads, "json": "{x}::text", "nested": "{x}"})
    nested = found.pop("nested")
    assert found == {
        "big": [BIG_MAX, BIG_MIN],
        "timestamp": ["0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"],
        "datetime": [UTC_FIRST, UTC_LAST],
        "range": ["[UNBOUNDED, 2020-01-01)", "[UNBOUNDED, UNBOUNDED)"],
        "ints": [[1, None], []],
        "json": ['{"a":[1,2.50]}', "null"],
    }
    assert [text and json.loads(text) for text in nested] == ROWS["nested"][3]


def test_a_skipped_column_is_not_sent(source: Any, held: str) -> None:
    plan = source.plan(ReadRequest(table=held, skip=("string", "BYTES")))
    (batch,) = source.read(plan.parts[0], stop=NeverStop())
    assert set(batch.schema.names) == {"position", *ROWS} - {"string", "bytes"}
