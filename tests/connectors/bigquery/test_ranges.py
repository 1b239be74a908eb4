"""Parts that are ranges of a table's partitions: all rows once, opened again by whoever reads them next."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable

import grpc
import pyarrow as pa
import pytest
from google.cloud import bigquery
from google.cloud.bigquery import SchemaField
from google.cloud.bigquery_storage_v1 import types

from connectors.base import NeverStop
from connectors.bigquery import partitions, query, ranges
from connectors.bigquery.client import Endpoints
from connectors.bigquery.ranges import Partition, Partitioning, Range
from connectors.bigquery.schema import TableRef
from connectors.bigquery.source import BigQuerySource
from connectors.column import Column
from connectors.cursor import CursorRead, Interval
from connectors.errors import ConnectorError
from connectors.reading import Part, ReadPlan, ReadRequest
from tests.connectors.bigquery.recorded import message

ROWS = 3_000
FIRST = dt.datetime(2023, 12, 30)
TYPES = {"DATE": pa.date32(), "DATETIME": pa.timestamp("us"), "TIMESTAMP": pa.timestamp("us", "UTC")}
MANY = [("DATE", "DAY", 8), ("DATE", "MONTH", 24), ("DATETIME", "HOUR", 1), ("TIMESTAMP", "DAY", 8)]
MB = 1 << 20


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(ranges, "PART_BYTES_LEAST", 1)


def rows(type_: str, step_hours: int) -> pa.Table:
    """Every tenth without a value, every third at the very beginning of a partition, and some from far away."""
    moments: list[dt.datetime | None] = [FIRST + dt.timedelta(hours=step_hours * (i // 60)) for i in range(ROWS)]
    moments = [m and (m if i % 3 else m.replace(hour=0, day=1)) for i, m in enumerate(moments)]
    moments[::10] = [None] * (ROWS // 10)
    moments[1], moments[2] = dt.datetime(1815, 6, 18, 12), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)
    values = pa.array(moments, pa.timestamp("us"))
    return pa.table({"id": pa.array(range(ROWS), pa.int64()), "at": values.cast(TYPES[type_], safe=False)})


@pytest.fixture
def partitioned(tables, dataset, request) -> Callable[..., str]:
    def make(
        type_: str = "TIMESTAMP", unit: str = "DAY", step_hours: int = 8, mode: str = "NULLABLE", found=None
    ) -> str:
        name = f"{dataset}.ranged_{type_}_{unit}_{mode}".lower()
        schema = [SchemaField("id", "INT64", "REQUIRED"), SchemaField("at", type_, mode)]
        tables.make(name, schema, found or rows(type_, step_hours), partitioned=bigquery.TimePartitioning(unit, "at"))
        return name

    return make


@pytest.fixture
def elsewhere(connect, endpoints) -> Callable[[ReadPlan], tuple[BigQuerySource, ReadPlan]]:
    def take(plan: ReadPlan) -> tuple[BigQuerySource, ReadPlan]:
        source, again = connect(endpoints), ReadPlan.from_json(json.loads(json.dumps(plan.to_json())))
        assert again == plan
        source.resume(again)
        return source, again

    return take


def ids(source: BigQuerySource, part: Part | None, start: int = 0) -> list[int]:
    if part is None:
        return []
    return [i for batch in source.read(part, start=start, stop=NeverStop()) for i in batch.column("id").to_pylist()]


def opened(source: BigQuerySource, plan: ReadPlan) -> list[int]:
    return [i for part in plan.parts for i in ids(source, source.open_part(part, stop=NeverStop()))]


@pytest.mark.parametrize(("type_", "unit", "step_hours"), MANY)
def test_ranges_hold_every_row_once(source, elsewhere, partitioned, small_parts, type_, unit, step_hours):
    table = partitioned(type_, unit, step_hours)
    plan = source.plan(ReadRequest(table=table), max_parts=2, spread=True)
    assert plan.outlives_session
    assert len(plan.parts) >= 4
    assert plan.facts["parts_by"] == "at"
    other, again = elsewhere(plan)
    assert sorted(opened(other, again)) == list(range(ROWS))
    sizes = [part.rows for part in plan.parts]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == ROWS
    for part in plan.parts:
        assert len(ids(source, source.open_part(part, stop=NeverStop()))) == part.rows


def test_an_opened_part_is_read_on_by_another_process(source, elsewhere, partitioned, small_parts):
    plan = source.plan(ReadRequest(table=partitioned(), skip=("id",)), max_parts=2, spread=True)
    stream = source.open_part(plan.parts[0], stop=NeverStop())
    assert stream.name == plan.parts[0].name
    whole = [v for batch in source.read(stream, stop=NeverStop()) for v in batch.column("at").to_pylist()]
    assert len(whole) == stream.rows
    other, _ = elsewhere(plan)
    assert other.open_part(stream, stop=NeverStop()) == stream
    rest = [v for batch in other.read(stream, start=100, stop=NeverStop()) for v in batch.column("at").to_pylist()]
    assert rest == whole[100:]


def test_a_part_that_was_not_opened_is_read_from_its_beginning_only(source, partitioned, small_parts):
    plan = source.plan(ReadRequest(table=partitioned()), max_parts=2, spread=True)
    assert sorted(i for part in plan.parts for i in ids(source, part)) == list(range(ROWS))
    with pytest.raises(ValueError, match="opened part"):
        ids(source, plan.parts[0], 5)


def test_ranges_hold_every_row_whatever_the_list_of_partitions_says(source, partitioned, small_parts, monkeypatch):
    monkeypatch.setattr(
        partitions.ranges, "listed", lambda *_: [Partition(number, 10, 10) for number in (0, 10**15, 17 * 10**14)]
    )
    plan = source.plan(ReadRequest(table=partitioned()), max_parts=2, spread=True)
    assert plan.outlives_session
    assert sorted(opened(source, plan)) == list(range(ROWS))


def test_a_range_without_rows_gives_no_part_or_no_rows(source, partitioned, small_parts):
    table = partitioned(found=rows("TIMESTAMP", 8).filter(pa.array([i % 10 > 0 for i in range(ROWS)])))
    plan = source.plan(ReadRequest(table=table), max_parts=2, spread=True)
    nulls = next(part for part in plan.parts if part.name == "at is NULL")
    assert nulls.rows == 0
    assert plan.parts[-1] == nulls
    assert ids(source, source.open_part(nulls, stop=NeverStop())) == []


def test_what_cannot_be_null_has_no_part_for_it(source, partitioned, small_parts):
    table = partitioned(mode="REQUIRED", found=rows("TIMESTAMP", 8).filter(pa.array([i % 10 > 0 for i in range(ROWS)])))
    plan = source.plan(ReadRequest(table=table), max_parts=2, spread=True)
    assert "at is NULL" not in {part.name for part in plan.parts}
    assert len(opened(source, plan)) == ROWS - ROWS // 10


@pytest.mark.parametrize("column", ["at", "AT", "id"])
def test_only_new_rows_are_in_the_ranges_of_an_incremental_read(source, elsewhere, partitioned, small_parts, column):
    found = rows("TIMESTAMP", 8)
    watermark = "1500" if column == "id" else "2024-01-05 08:00:00+00:00"
    cursor = CursorRead(column, watermark=watermark, settles=column == "at", settle=3600 if column == "at" else None)
    if column != "id":
        found = found.filter(pa.array([i != 2 and i % 10 > 0 for i in range(ROWS)]))
    plan = source.plan(ReadRequest(table=partitioned(found=found), cursor=cursor), max_parts=2, spread=True)
    assert plan.outlives_session
    low = dt.datetime.fromisoformat("2024-01-05T08:00:00+00:00")
    high = dt.datetime.fromisoformat(plan.interval.high) if column != "id" else None
    expected = [
        row["id"]
        for row in found.to_pylist()
        if (row["id"] > 1500 if high is None else row["at"] is not None and low < row["at"] <= high)
    ]
    assert 0 < len(expected) < ROWS
    assert sorted(opened(*elsewhere(plan))) == expected
    assert plan.interval.rows == len(expected)
    assert ("at is NULL" in {part.name for part in plan.parts}) is (column == "id")
    if column != "id":
        assert min(part.id for part in plan.parts if not part.id.startswith("range||")) > "range|2024-01-05"


def test_few_or_lopsided_partitions_are_read_in_streams(source, partitioned, small_parts):
    few = source.plan(ReadRequest(table=partitioned("DATE", "YEAR")), max_parts=5, spread=True)
    assert not few.outlives_session
    assert few.facts["session"]
    lopsided = pa.concat_tables([rows("TIMESTAMP", 8), *[rows("TIMESTAMP", 8).slice(70, 1)] * 9_000])
    plan = source.plan(ReadRequest(table=partitioned(found=lopsided)), max_parts=3, spread=True)
    assert not plan.outlives_session
    assert sum(len(ids(source, source.open_part(part, stop=NeverStop()))) for part in plan.parts) == ROWS + 9_000


def test_a_small_table_is_read_in_streams_without_asking_for_its_partitions(source, partitioned):
    plan = source.plan(ReadRequest(table=partitioned()), max_parts=2, spread=True)
    assert not plan.outlives_session
    assert "partitions_job" not in plan.facts


def test_one_worker_reads_streams(source, partitioned, small_parts):
    assert not source.plan(ReadRequest(table=partitioned()), max_parts=2).outlives_session


def test_without_the_storage_api_there_are_no_ranges(connect, endpoints, partitioned, small_parts):
    source = connect(Endpoints(endpoints.rest))
    plan = source.plan(ReadRequest(table=partitioned()), max_parts=2, spread=True)
    assert not plan.outlives_session
    assert [part.name for part in plan.parts] == ["pages"]


def test_ranges_of_whole_numbers_hold_every_row_once(source, tables, dataset, small_parts, monkeypatch):
    """The emulator has no such partitions: what BigQuery would say of them comes from the table itself."""
    numbers = [None if i % 10 == 0 else (i * 7) % 130 - 20 for i in range(ROWS)]
    found = pa.table({"id": pa.array(range(ROWS), pa.int64()), "n": pa.array(numbers, pa.int64())})
    name = f"{dataset}.ranged_numbers"
    tables.make(name, [SchemaField("id", "INT64"), SchemaField("n", "INT64")], found)
    bucket = "CASE WHEN n IS NULL THEN '__NULL__' WHEN n < 0 OR n >= 100 THEN '__UNPARTITIONED__' ELSE"
    bucket += " CAST(CAST(FLOOR(n / 10) * 10 AS INT64) AS STRING) END"
    monkeypatch.setattr(ranges, "partitioning_of", lambda *_: Partitioning("n", "INT64"))
    monkeypatch.setattr(ranges, "listing", lambda ref: f"SELECT {bucket} AS p, COUNT(*), 0 FROM {ref.sql} GROUP BY p")
    plan = source.plan(ReadRequest(table=name), max_parts=2, spread=True)
    assert {part.id for part in plan.parts} >= {"null|", "range|90|"}
    assert sorted(opened(source, plan)) == list(range(ROWS))


# Without a server ---------------------------------------------------------------------------------


def bounds_of(parts: tuple[Part, ...]) -> list[tuple[str, str]]:
    found = [range_ for part in parts if (range_ := Range.parse(part.id)) is not None and not range_.is_null]
    return sorted(((r.low, r.high) for r in found), key=lambda pair: int(pair[0] or -(10**18)))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 400, 10_000])
@pytest.mark.parametrize("workers", [1, 8])
def test_ranges_join_without_a_gap_and_are_not_too_many(count, workers):
    found = [Partition(n * 10, 1000, (n * 7919 % 50) * MB) for n in range(count)] + [Partition(None, 5, MB)]
    by = Partitioning("n", "INT64")
    parts = ranges.divide(found, by, workers=workers, reads_nulls=True, must=True)
    joined = bounds_of(parts)
    assert joined[0][0] == joined[-1][1] == ""
    assert [high for _, high in joined[:-1]] == [low for low, _ in joined[1:]]
    assert [part.id for part in parts].count("null|") == 1
    assert len(parts) <= 2 * workers * ranges.PARTS_MOST + 2
    assert sum(part.bytes for part in parts) == sum(p.bytes for p in found)
    total = sum(p.bytes for p in found)
    if count == 400:
        most = max(ranges.PART_BYTES_MOST, total / (workers * ranges.PARTS_MOST))
        assert len(parts) >= total / most
        assert max(part.bytes for part in parts) <= most


def test_large_partitions_are_parts_of_their_own_and_small_ones_share():
    sizes = [100, 300, 10, 20, 30, 40, 400]
    found = [Partition(day, 1, size * MB) for day, size in enumerate(sizes)]
    parts = ranges.divide(found, Partitioning("day", "DATE", "DAY"), workers=2, reads_nulls=False)
    assert [(part.name, part.bytes // MB) for part in parts] == [
        ("day from 1970-01-07 on", 400),
        ("day from 1970-01-02 to before 1970-01-03", 300),
        ("day before 1970-01-02", 100),
        ("day from 1970-01-03 to before 1970-01-07", 100),
    ]


def test_conditions_name_both_bounds_in_the_columns_own_type():
    by = Partitioning("a`b", "TIMESTAMP", "HOUR")
    low = by.low_of("2024022903")
    parts = ranges.divide([Partition(0, 1, 1), Partition(low, 1, 1)], by, workers=1, reads_nulls=True, must=True)
    assert Range.parse("range|2024-02-29 03:00:00+00:00|2024-03-01 00:00:00+00:00").condition(by.sql, by.type) == (
        "`a\\`b` >= TIMESTAMP '2024-02-29 03:00:00+00:00' AND `a\\`b` < TIMESTAMP '2024-03-01 00:00:00+00:00'"
    )
    assert Range.parse("null|").condition(by.sql, by.type) == "`a\\`b` IS NULL"
    assert Range.parse("range||").condition(by.sql, by.type) == "`a\\`b` IS NOT NULL"
    assert Range.parse(Range("5", "7").text) == Range("5", "7")
    assert Range.parse("table|p|d|t") is Range.parse("projects/p/locations/us/sessions/s/streams/0") is None
    assert {part.id for part in parts} >= {"null|"}


@pytest.mark.parametrize(
    ("by", "partition", "low"),
    [
        (Partitioning("d", "DATE", "DAY"), "19700102", 1),
        (Partitioning("d", "DATE", "MONTH"), "197002", 31),
        (Partitioning("d", "DATETIME", "YEAR"), "1971", 365 * 86_400_000_000),
        (Partitioning("d", "TIMESTAMP", "HOUR"), "1970010101", 3_600_000_000),
        (Partitioning("n", "INT64"), "-20", -20),
        (Partitioning("n", "INT64"), "__UNPARTITIONED__", None),
        (Partitioning("d", "DATE", "DAY"), "__NULL__", None),
        (Partitioning("d", "DATE", "DAY"), "", None),
    ],
)
def test_a_partitions_name_says_where_it_begins(by, partition, low):
    assert by.low_of(partition) == low


def described(**more: object) -> bigquery.Table:
    reference = {"projectId": "acme", "datasetId": "sales", "tableId": "orders"}
    return bigquery.Table.from_api_repr({"tableReference": reference, "numRows": "10", "numBytes": "1000", **more})


COLUMNS = (Column("Day", "DATE"), Column("n", "INT64"), Column("text", "STRING"))
TENS = {"start": "0", "end": "100", "interval": "10"}


@pytest.mark.parametrize(
    ("table", "by"),
    [
        (described(timePartitioning={"type": "MONTH", "field": "day"}), Partitioning("Day", "DATE", "MONTH")),
        (described(rangePartitioning={"field": "n", "range": TENS}), Partitioning("n", "INT64")),
        (described(timePartitioning={"type": "DAY"}), Partitioning("_PARTITIONTIME", "TIMESTAMP", "DAY")),
        (described(timePartitioning={"type": "DAY"}, streamingBuffer={"estimatedRows": "1"}), None),
        (described(timePartitioning={"type": "DAY", "field": "gone"}), None),
        (described(), None),
    ],
)
def test_what_a_table_is_partitioned_by(table, by):
    assert ranges.partitioning_of(table, COLUMNS) == by


def test_partitions_outside_of_what_is_read_of_the_cursor_are_left_out():
    by = Partitioning("n", "INT64")
    found = [(str(n), 1, 10) for n in (30, 0, 10, 20, 40)] + [("__NULL__", 2, 20), ("__UNPARTITIONED__", 1, 1)]

    def lows(interval: Interval | None) -> list[int | None]:
        return [p.low for p in ranges.listed(found, by, described(), interval)]

    assert lows(None) == [0, 10, 20, 30, 40, None]
    assert lows(Interval("n", "INT64", low="10", high="30")) == [10, 20, 30]
    assert lows(Interval("n", "INT64", low="19", high="29")) == [10, 20]
    assert lows(Interval("n", "INT64", low="20", high="500")) == [20, 30, 40]
    assert lows(Interval("n", "INT64", low="500", high="600")) == [40]
    assert lows(Interval("other", "INT64", low="500", high="600")) == [0, 10, 20, 30, 40, None]


# What the emulator will not refuse -----------------------------------------------------------------

STREAM = "projects/acme/locations/us/sessions/s/streams/0"
TABLE = {
    "tableReference": {"projectId": "acme", "datasetId": "sales", "tableId": "orders"},
    "type": "TABLE",
    "numRows": "1000000",
    "numBytes": str(1000 * MB),
    "schema": {"fields": [{"name": "id", "type": "INTEGER"}, {"name": "day", "type": "DATE"}]},
    "creationTime": "1700000000000",
    "timePartitioning": {"type": "DAY", "field": "day"},
}


def served(rest, partitions_of_it: list[tuple[str, int, int]]) -> None:
    name = query.job_id("run", ranges.listing(TableRef("acme", "sales", "orders")))
    job = {
        "jobReference": {"projectId": "acme", "jobId": name, "location": "US"},
        "status": {"state": "DONE"},
        "configuration": {"query": {"query": "", "destinationTable": {}}},
        "statistics": {"query": {"totalBytesBilled": str(10 * MB), "statementType": "SELECT"}},
    }
    rest.answer("POST", "/jobs", (200, job))
    cells = [{"f": [{"v": p}, {"v": str(count)}, {"v": str(size * MB)}]} for p, count, size in partitions_of_it]
    rest.answer("GET", f"/queries/{name}", (200, {"jobComplete": True, "rows": cells, "totalRows": str(len(cells))}))


def session(request, context) -> types.ReadSession:
    if not request.read_session.read_options.row_restriction:
        text = "Cannot query over table 'sales.orders' without a filter over column(s) 'day'"
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"request failed: {text}")
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=6)
    return types.ReadSession(name="s", streams=[types.ReadStream(name=STREAM)], expire_time=expires)


def test_a_table_that_requires_a_filter_is_read_in_ranges_by_one_worker_too(connect, rest, storage):
    rest.answer("GET", "/tables/orders", (200, {**TABLE, "requirePartitionFilter": True}))
    served(rest, [("20240101", 10, 300), ("20240102", 10, 300)])
    storage.session = session
    storage.rows = lambda request, context: iter([message([1, 2])])
    source = connect(Endpoints(rest.url, storage.address), project="acme")
    for look in (source.describe, source.plan):
        with pytest.raises(ConnectorError, match="requires a filter on day") as refused:
            look(ReadRequest(table="sales.orders", job_key="run"))
        assert (refused.value.code, refused.value.field) == ("partition_filter_required", "row_filter")
    read = ReadRequest(table="sales.orders", job_key="run", row_filter="day >= '2024-01-01' OR id = 1")
    plan = source.plan(read, max_parts=10)
    assert plan.outlives_session
    assert plan.facts["partitions_bytes_billed"] == 10 * MB
    assert [(part.id, part.bytes) for part in plan.parts] == [
        ("range||2024-01-02", 300 * MB),
        ("range|2024-01-02|", 300 * MB),
        ("null|", 0),
    ]
    assert [i for part in plan.parts for i in ids(source, part)] == [1, 2] * 3
    asked = [request.read_session for request in storage.sessions]
    assert [options.read_options.row_restriction for options in asked[1:]] == [
        f"(day >= '2024-01-01' OR id = 1) AND {range_}"
        for range_ in ("`day` < DATE '2024-01-02'", "`day` >= DATE '2024-01-02'", "`day` IS NULL")
    ]
    assert {tuple(options.read_options.selected_fields) for options in asked} == {("id", "day")}
    assert {options.table_modifiers.snapshot_time for options in asked} == {plan.snapshot_time}
    assert {request.max_stream_count for request in storage.sessions} == {1}


def test_without_leave_to_list_the_partitions_streams_are_read_and_the_log_warns(connect, rest, storage):
    rest.answer("GET", "/tables/orders", (200, TABLE))
    text = "Access Denied: Project acme: User does not have bigquery.jobs.create permission in project acme."
    rest.refuse("POST", "/jobs", 403, "accessDenied", text)
    storage.session = lambda request, context: types.ReadSession(name="s", streams=[types.ReadStream(name=STREAM)])
    source = connect(Endpoints(rest.url, storage.address), project="acme")
    plan = source.plan(ReadRequest(table="sales.orders"), max_parts=4, spread=True)
    assert [part.id for part in plan.parts] == [STREAM]
    assert "bigquery.jobs.create" in plan.warnings[0]
    assert not plan.outlives_session
