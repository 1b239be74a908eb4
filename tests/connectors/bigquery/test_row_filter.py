"""A row filter is pushed down: the same rows are read, counted and bounded, whichever way they come."""

from __future__ import annotations

import pyarrow as pa
import pytest
from google.cloud import bigquery
from google.cloud.bigquery import SchemaField

from connectors.base import NeverStop
from connectors.bigquery import ranges
from connectors.bigquery.client import Endpoints
from connectors.cursor import CursorRead, Span
from connectors.errors import ConnectorError
from connectors.reading import ReadRequest
from tests.connectors.bigquery.conftest import read_all

# Columns called as the alias of the rows, and as the table itself.
SCHEMA = [SchemaField("id", "INT64"), SchemaField("t", "STRING"), SchemaField("filtered", "INT64")]
ROWS = 60
FILTER = "t = 'b' OR (id = 0 AND filtered IS NOT NULL)"
KEPT = [i for i in range(ROWS) if i == 0 or i % 3 == 1]


@pytest.fixture(scope="module")
def table(tables, dataset) -> str:
    name = f"{dataset}.filtered"
    ids = list(range(ROWS))
    found = pa.table({"id": ids, "t": ["abc"[i % 3] for i in ids], "filtered": [i % 2 for i in ids]})
    tables.make(name, SCHEMA, found, partitioned=bigquery.TimePartitioning("DAY"))
    tables.run(f"CREATE OR REPLACE VIEW {dataset}.filtered_view AS SELECT * FROM {name}")
    return name


@pytest.mark.parametrize("suffix", ["", "_view"], ids=["table", "view"])
@pytest.mark.parametrize("through", ["streams", "pages"])
def test_only_rows_that_meet_it_arrive_and_are_counted(connect, endpoints, table, suffix, through):
    source = connect(endpoints if through == "streams" else Endpoints(endpoints.rest))
    read = ReadRequest(table=table + suffix, row_filter=FILTER, skip=("filtered",))
    plan = source.plan(read)
    assert sorted(row["id"] for row in read_all(source, plan.parts)) == KEPT
    assert source.count(read, plan, stop=NeverStop()) == len(KEPT)
    assert plan.recorded_rows is None


@pytest.mark.parametrize("through", ["streams", "pages"])
def test_a_cursor_is_bounded_by_what_meets_it(connect, endpoints, table, through):
    source = connect(endpoints if through == "streams" else Endpoints(endpoints.rest))
    read = ReadRequest(table=table, row_filter=FILTER, cursor=CursorRead("id", watermark="9"))
    plan = source.plan(read)
    wanted = [i for i in KEPT if i > 9]
    assert sorted(row["id"] for row in read_all(source, plan.parts)) == wanted
    assert (plan.interval.high, plan.interval.rows, plan.source_rows) == ("58", len(wanted), len(wanted))


def test_parts_that_are_ranges_meet_it_too(source, tables, dataset, monkeypatch):
    monkeypatch.setattr(ranges, "PART_BYTES_LEAST", 1)
    name = f"{dataset}.filtered_days"
    schema = [SchemaField("id", "INT64"), SchemaField("day", "DATE")]
    days = pa.array([19_723 + i // 10 for i in range(ROWS)], pa.int32()).cast(pa.date32())
    found = pa.table({"id": list(range(ROWS)), "day": days})
    tables.make(name, schema, found, partitioned=bigquery.TimePartitioning("DAY", "day"))
    plan = source.plan(ReadRequest(table=name, row_filter="id < 25 OR id = 59"), max_parts=2, spread=True)
    assert plan.outlives_session
    opened = [part for each in plan.parts if (part := source.open_part(each, stop=NeverStop()))]
    assert sorted(row["id"] for row in read_all(source, tuple(opened))) == [*range(25), 59]


@pytest.mark.parametrize(
    ("text", "code"), [("no_such = 1", "invalid_query"), ("a = 1) OR (TRUE", "row_filter"), ("x = @day", "row_filter")]
)
@pytest.mark.parametrize("suffix", ["", "_view"])
def test_what_bigquery_does_not_take_is_told_of_the_field(source, table, suffix, text, code):
    with pytest.raises(ConnectorError) as refused:
        source.describe(ReadRequest(table=table + suffix, row_filter=text))
    assert (refused.value.code, refused.value.field) == (code, "row_filter")


def test_a_description_has_the_tables_own_columns_and_no_count_of_all_rows(source, table):
    plain, told = (
        source.describe(ReadRequest(table=table)),
        source.describe(ReadRequest(table=table, row_filter=FILTER)),
    )
    assert (told.columns, told.rows) == (plain.columns, None)


def test_a_query_has_a_where_of_its_own(source, table):
    for look in (source.describe, source.plan):
        with pytest.raises(ConnectorError, match="no use for a row filter"):
            look(ReadRequest(query=f"SELECT * FROM {table}", row_filter="id = 1"))


def test_a_past_range_is_looked_at_with_it(source, table):
    span = CursorRead("id", span=Span("id", "0", "30"))
    told = source.describe(ReadRequest(table=table, row_filter=FILTER, cursor=span))
    assert [column.name for column in told.columns] == ["id", "t", "filtered"]
