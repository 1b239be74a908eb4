from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField, TimePartitioning

from connectors.base import NeverStop
from connectors.bigquery import ranges, streams
from connectors.bigquery.client import Endpoints
from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from connectors.cursor import CursorRead
from connectors.errors import ConnectorError, TransientError
from connectors.reading import Part, ReadRequest
from tests.bigquery.conftest import PROJECT
from tests.emulator_tables import EVERY_TYPE, every_type_rows

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


def test_many_readers_share_a_session(source, table):
    plan = source.plan(ReadRequest(table=table), max_parts=8)
    assert len(plan.parts) == 8
    with ThreadPoolExecutor(8) as readers:
        ids = [i for part in readers.map(lambda part: read(source, part), plan.parts) for i in part]
    assert ids == list(range(50_000))


def test_an_offset_past_the_last_row_is_refused(source, table):
    plan = source.plan(ReadRequest(table=table), max_parts=1)
    with pytest.raises(ConnectorError, match="past the last row"):
        read(source, plan.parts[0], 50_001)


def test_a_table_changed_after_the_plan_reads_as_planned(source, bigquery_tables, table):
    plan = source.plan(ReadRequest(table=table), max_parts=1)
    bigquery_tables.run(f"DELETE FROM {table} WHERE id >= 10")
    assert read(source, plan.parts[0]) == list(range(50_000))
    assert read(source, source.plan(ReadRequest(table=table)).parts[0]) == list(range(10))


def test_a_plan_says_when_its_session_ends_and_how_much_it_reads(source, table):
    plan = source.plan(ReadRequest(table=table))
    assert plan.facts["session_expires"] > datetime.now(UTC).isoformat()
    assert plan.estimated_rows == 50_000
    assert plan.estimated_bytes == sum(8 + 2 + len(text) for text in numbered(0, 50_000)["text"].to_pylist())


@pytest.mark.parametrize("spread", [False, True])
def test_new_rows_are_as_large_as_they_are_whatever_is_scanned_for_them(source, table, monkeypatch, spread):
    """BigQuery scans all of a table without partitions, and estimates its sessions by that."""
    whole = source.plan(ReadRequest(table=table))
    open_session = streams.open_session

    def opened(*args, **how):
        return replace(open_session(*args, **how), rows=whole.estimated_rows, bytes=whole.estimated_bytes)

    monkeypatch.setattr(streams, "open_session", opened)
    cursor = CursorRead("id", watermark="49899")
    plan = source.plan(ReadRequest(table=table, cursor=cursor), max_parts=2, spread=spread)
    assert plan.estimated_rows == 100
    assert plan.estimated_bytes == pytest.approx(whole.estimated_bytes / 500, rel=0.2)
    assert plan.facts["estimated_storage_bytes"] == whole.estimated_bytes
    assert sorted(i for part in plan.parts for i in read(source, part)) == list(range(49_900, 50_000))


def test_a_day_that_holds_most_of_a_table_is_read_in_as_many_streams_as_are_asked_for(
    source, bigquery, bigquery_tables, dataset, monkeypatch
):
    """A range is never read by two workers: as one it would take as long as nearly all of the table."""
    monkeypatch.setattr(ranges, "PART_BYTES_LEAST", 1)
    first = date(2024, 1, 1)
    rows = pa.table(
        {
            "id": pa.array(range(8000), pa.int64()),
            "day": [first + timedelta(days=min(i // 50, 10)) for i in range(8000)],
        }
    )
    schema = [SchemaField("id", "INT64", "REQUIRED"), SchemaField("day", "DATE", "REQUIRED")]
    bigquery_tables.make(f"{dataset}.lopsided", schema, rows, partitioned=TimePartitioning("DAY", "day"))
    bigquery.storage.small_bytes = 0
    plan = source.plan(ReadRequest(table=f"{dataset}.lopsided"), max_parts=8, spread=True)
    assert not plan.outlives_session
    found = [read(source, part) for part in plan.parts]
    assert [len(part) for part in found] == [1000] * 8
    assert sorted(i for part in found for i in part) == list(range(8000))


def test_new_rows_that_are_read_in_ranges_have_their_size(source, bigquery_tables, dataset, monkeypatch):
    monkeypatch.setattr(ranges, "PART_BYTES_LEAST", 1)
    first = date(2024, 1, 1)
    days = [first + timedelta(days=i // 100) for i in range(4000)]
    schema = [SchemaField("id", "INT64", "REQUIRED"), SchemaField("day", "DATE", "REQUIRED")]
    rows = pa.table({"id": pa.array(range(4000), pa.int64()), "day": days})
    bigquery_tables.make(f"{dataset}.by_day", schema, rows, partitioned=TimePartitioning("DAY", "day"))
    cursor = CursorRead("day", watermark="2024-01-30")
    plan = source.plan(ReadRequest(table=f"{dataset}.by_day", cursor=cursor), max_parts=2, spread=True)
    assert plan.outlives_session
    assert (plan.estimated_rows, plan.estimated_bytes) == (1000, 16_000)


def test_a_session_that_ended_is_refused_as_expired(source, bigquery, table):
    bigquery.storage.lifetime_s = 0.0
    plan = source.plan(ReadRequest(table=table))
    with pytest.raises(TransientError) as refused:
        read(source, plan.parts[0])
    assert refused.value.code == "session_lost"


def test_a_session_ended_early_is_not_read_again(source, bigquery, table):
    part = source.plan(ReadRequest(table=table), max_parts=1).parts[0]
    assert len(read(source, part)) == 50_000
    bigquery.storage.expire()
    with pytest.raises(TransientError, match="expired"):
        read(source, part, 10)


def test_every_type_comes_through_as_the_emulator_sends_it(source, bigquery_tables, dataset, emulator):
    bigquery_tables.make(f"{dataset}.every", EVERY_TYPE, every_type_rows())
    behind = BigQuerySource(BigQueryOptions(PROJECT, "US", ""), endpoints=Endpoints(**emulator))
    both = []
    for one in (source, behind):
        plan = one.plan(ReadRequest(table=f"{dataset}.every"))
        both.append(pa.Table.from_batches(b for part in plan.parts for b in one.read(part, stop=NeverStop())))
    behind.close()
    assert both[0].schema == both[1].schema
    assert both[0].to_pylist() == both[1].to_pylist()


@pytest.mark.parametrize(
    "query", ["SELECT id, id * 2 AS twice FROM {} WHERE id < 30000", "SELECT * FROM {} WHERE id < 30000"]
)
def test_the_result_of_a_query_comes_through_the_storage_api(source, bigquery, table, query):
    plan = source.plan(ReadRequest(query=query.format(table)), max_parts=1)
    assert plan.warnings == ()
    assert plan.estimated_rows == 30_000
    assert sorted(i for part in plan.parts for i in read(source, part)) == list(range(30_000))
    assert len(bigquery.made("ReadRows")) == 1


def test_a_result_keeps_the_rows_that_the_query_found(source, bigquery_tables, table):
    request = ReadRequest(query=f"SELECT id FROM {table} WHERE id < 10", job_key="one")
    source.plan(request)
    bigquery_tables.run(f"DELETE FROM {table} WHERE id < 5")
    # The same key finds the job that ran before the rows went.
    again = source.plan(request)
    assert sorted(i for part in again.parts for i in read(source, part)) == list(range(10))


def test_what_the_emulator_cannot_hold_is_fed_as_arrow(source, bigquery, dataset):
    schema = [SchemaField("id", "INT64"), SchemaField("big", "BIGNUMERIC")]
    most = Decimal("9" * 38 + "." + "9" * 38)
    kind, least = pa.decimal256(76, 38), most.copy_negate()
    bigquery.hold(f"{dataset}.held", schema, pa.table({"id": [1], "big": pa.array([most], kind)}))
    plan = source.plan(ReadRequest(table=f"{dataset}.held"))
    bigquery.hold(f"{dataset}.held", schema, pa.table({"id": [2, 3], "big": pa.array([None, least], kind)}))
    assert [(c.name, c.type) for c in plan.columns] == [("id", "INT64"), ("big", "BIGNUMERIC")]
    assert plan.estimated_bytes == 8 + 32
    (batch,) = source.read(plan.parts[0], stop=NeverStop())
    assert batch.schema.field("big").type == kind
    assert batch.to_pylist() == [{"id": 1, "big": most}]
    assert read(source, source.plan(ReadRequest(table=f"{dataset}.held")).parts[0]) == [2, 3]
