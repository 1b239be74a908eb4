from __future__ import annotations

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.base import NeverStop, Part, ReadRequest
from connectors.errors import ConnectorError

SCHEMA = [SchemaField("id", "INT64", "REQUIRED"), SchemaField("text", "STRING")]


def numbered(start: int, stop: int) -> pa.Table:
    ids = range(start, stop)
    return pa.table({"id": pa.array(ids, pa.int64()), "text": [f"row {i} " + "x" * 50 for i in ids]})


def read(source, part: Part, start: int = 0) -> list[int]:
    return [i for batch in source.read(part, start=start, stop=NeverStop()) for i in batch.column("id").to_pylist()]


@pytest.fixture
def table(bigquery_tables, dataset) -> str:
    bigquery_tables.make(f"{dataset}.numbers", SCHEMA, numbered(0, 50_000))
    return f"{dataset}.numbers"


def test_reading_from_an_offset_gives_exactly_the_rest(source, table):
    plan = source.plan(ReadRequest(table=table), max_parts=2)
    assert len(plan.parts) == 2
    for part in plan.parts:
        whole = read(source, part)
        assert len(whole) == 25_000
        for start in (1, 7_777, 24_999, 25_000):
            assert read(source, part, start) == whole[start:]


def test_an_offset_past_the_last_row_is_refused(source, table):
    plan = source.plan(ReadRequest(table=table), max_parts=1)
    with pytest.raises(ConnectorError, match="past the last row"):
        read(source, plan.parts[0], 50_001)


def test_a_table_changed_after_the_plan_reads_as_planned(source, bigquery_tables, table):
    plan = source.plan(ReadRequest(table=table), max_parts=1)
    bigquery_tables.run(f"DELETE FROM {table} WHERE id >= 10")
    assert read(source, plan.parts[0]) == list(range(50_000))
    assert read(source, source.plan(ReadRequest(table=table)).parts[0]) == list(range(10))
