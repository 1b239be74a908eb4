"""What BigQuery bills: told by dry runs before anything is read, and metered while it is."""

from __future__ import annotations

import dataclasses
import json

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.base import NeverStop
from connectors.bigquery.query import DryRun
from connectors.bigquery.source import BigQuerySource
from connectors.billing import LEAST_BILLED, MIB, Bill, Estimate, Meter
from connectors.cursor import CursorRead, Span
from connectors.errors import ConnectorError
from connectors.reading import ReadPlan, ReadRequest

ROWS = 40_000
SCHEMA = [SchemaField("id", "INT64", "REQUIRED"), SchemaField("text", "STRING")]
IDS, TEXTS = ROWS * 8, ROWS * (2 + 400)
NEVER = NeverStop()
TWO = LEAST_BILLED, IDS + TEXTS


@pytest.fixture
def table(bigquery_tables, dataset) -> str:
    """About 16 MB."""
    rows = pa.table({"id": pa.array(range(ROWS), pa.int64()), "text": ["x" * 400] * ROWS})
    bigquery_tables.make(f"{dataset}.billed", SCHEMA, rows)
    return f"{dataset}.billed"


@pytest.fixture
def metered(source):
    source.meter = Meter()
    return source


def read(source, request: ReadRequest) -> int:
    plan = source.plan(request)
    rows = sum(batch.num_rows for part in plan.parts for batch in source.read(part, stop=NEVER))
    assert source.count(request, plan, stop=NEVER) == rows
    return rows


def up(size: int) -> int:
    return -(-size // MIB) * MIB


@pytest.mark.parametrize(
    ("request_", "bill"),
    [
        (ReadRequest(table="{}"), Bill(0, IDS + TEXTS)),
        (ReadRequest(table="{}", skip=("text",)), Bill(0, IDS)),
        # The rows that a filter leaves are counted by a query, where the table's own record tells of all.
        (ReadRequest(table="{}", row_filter="id >= 0"), Bill(LEAST_BILLED, IDS + TEXTS)),
        # The cursor is looked at by a query, its new rows are read by a session that scans both columns.
        (ReadRequest(table="{}", cursor=CursorRead("id")), Bill(LEAST_BILLED, IDS + TEXTS)),
        # A query's result is read for nothing.
        (ReadRequest(query="SELECT * FROM {}"), Bill(up(IDS + TEXTS), 0)),
        (ReadRequest(query="SELECT id FROM {} AS a"), Bill(LEAST_BILLED, 0)),
        (ReadRequest(query="SELECT * FROM {}", cursor=CursorRead("id")), Bill(LEAST_BILLED + up(IDS + TEXTS), 0)),
    ],
    ids=lambda value: "" if isinstance(value, Bill) else None,
)
def test_the_estimate_is_what_is_billed(metered, table, request_, bill):
    request = dataclasses.replace(
        request_, table=request_.table.format(table), query=request_.query.format(table), job_key="run-1"
    )
    told = metered.estimate(request)
    assert metered.meter.bill == Bill()
    assert read(metered, request) == ROWS
    assert metered.meter.bill == bill
    assert told == Estimate(*bill.__dict__.values())


def test_what_a_query_will_bill_is_told_before_it_runs_by_the_dry_run_that_is_made_anyway(bigquery, source, table):
    told = []
    source.meter = Meter(on_estimate=lambda estimate: told.append((estimate, source.meter.bill)))
    before = len(bigquery.calls)
    plan = source.plan(ReadRequest(query=f"SELECT text FROM {table}", job_key="run-4"))
    assert told == [(Estimate(up(TEXTS)), Bill())]
    assert plan.facts["estimated_query_bytes"] == source.meter.bill.query_bytes == up(TEXTS)
    assert sum(call.method == "POST" for call in bigquery.calls[before:] if call.target.endswith("/jobs")) == 2


def test_a_past_range_is_told_by_what_it_scans(metered, table):
    span = CursorRead("id", span=Span("id", "0", "10"))
    told = metered.estimate(ReadRequest(table=table, cursor=span))
    assert told == Estimate(LEAST_BILLED, IDS + TEXTS)


def test_a_job_that_is_asked_for_again_by_its_name_is_billed_once(metered, table):
    request = ReadRequest(query=f"SELECT text FROM {table}", job_key="run-2")
    metered.plan(request)
    metered.plan(request, max_parts=4, spread=True)
    assert metered.meter.bill == Bill(up(TEXTS), 0)


def test_all_jobs_of_a_read_keep_to_one_limit(metered, table):
    cursor = CursorRead("id")
    sql = f"SELECT * FROM {table}"
    enough = LEAST_BILLED + up(IDS + TEXTS)
    request = ReadRequest(query=sql, cursor=cursor, job_key="run-3", maximum_bytes_billed=enough)
    metered.plan(request)
    assert metered.meter.bill.query_bytes == enough
    metered.meter = Meter()
    with pytest.raises(ConnectorError) as refused:
        # Another text: of the same one BigQuery has the result already.
        metered.plan(dataclasses.replace(request, query=f"{sql} -- again", maximum_bytes_billed=enough - 1))
    assert (refused.value.code, refused.value.transient) == ("bytes_billed_limit", False)
    # What the cursor's query was billed is spent all the same.
    assert metered.meter.bill == Bill(LEAST_BILLED, 0)


def test_parts_that_another_process_reads_are_metered_there(bigquery, metered, table):
    plan = metered.plan(ReadRequest(table=table), max_parts=4, spread=True)
    other = BigQuerySource(metered._options, endpoints=bigquery.endpoints, timeout_s=30.0)
    other.meter = Meter()
    other.resume(ReadPlan.from_json(json.loads(json.dumps(plan.to_json()))))
    rows = 0
    for part in plan.parts:
        opened = other.open_part(part, stop=NEVER)
        rows += sum(batch.num_rows for batch in other.read(opened, stop=NEVER)) if opened else 0
    other.close()
    assert rows == ROWS
    assert other.meter.bill == Bill(0, IDS + TEXTS)
    assert metered.meter.bill == Bill()


@pytest.mark.parametrize(
    ("told", "known"),
    [
        (DryRun((), 0), None),  # a server that knows no sizes
        (DryRun((), 0, accuracy="PRECISE"), 0),
        (DryRun((), 5, accuracy="UNKNOWN"), None),
        (DryRun((), 5, accuracy="LOWER_BOUND"), 5),
        (DryRun((), None), None),
    ],
)
def test_what_a_dry_run_does_not_tell_is_not_known(told, known):
    assert told.known_bytes == known


def test_an_estimate_says_what_it_does_not_know(metered):
    told = metered.estimate(ReadRequest(query="SELECT 1 AS one"))
    assert (told.query_bytes, told.bytes) == (None, None)
    assert "dry run does not tell" in told.why
