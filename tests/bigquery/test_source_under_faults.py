"""Our source where BigQuery fails: the right error, the right offset, no row lost and none doubled."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors import transfer
from connectors.base import NeverStop
from connectors.bigquery import query, streams
from connectors.bigquery.client import Endpoints
from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from connectors.errors import ConnectorError, Stopped, TransientError
from connectors.modes import WriteDisposition, WriteMode
from connectors.postgres.destination import PostgresDestination
from connectors.postgres.options import PostgresOptions
from connectors.reading import ReadPlan, ReadRequest
from connectors.writing import Owner, Target
from tests.bigquery.conftest import PROJECT
from tests.connectors.bigquery.test_streams import Stopper
from tests.connectors.memory import Recorder

ROWS, MESSAGE_ROWS = 4096, 128
SCHEMA = [SchemaField("id", "INT64"), SchemaField("text", "STRING")]
T = TypeVar("T")
CUTS = ("unavailable", "internal", "deadline", "exhausted", "reset", "short")


@pytest.fixture(autouse=True)
def soon_again(monkeypatch):
    monkeypatch.setattr(streams, "REOPEN_WAIT_S", 0.02)
    monkeypatch.setattr(query, "POLL_FAILURE_WAIT_S", 0.02)


@pytest.fixture
def table(bigquery, bigquery_tables, dataset) -> str:
    rows = pa.table({"id": pa.array(range(ROWS), pa.int64()), "text": [f"row {i:08d}" * 10 for i in range(ROWS)]})
    bigquery_tables.make(f"{dataset}.tried", SCHEMA, rows)
    bigquery.storage.small_bytes = 0
    bigquery.storage.message_bytes = 20_000
    return f"{dataset}.tried"


@pytest.fixture
def plan(source, table) -> Callable[..., ReadPlan]:
    return lambda streams=1: source.plan(ReadRequest(table=table), max_parts=streams)


def ids(source: BigQuerySource, plan: ReadPlan) -> list[int]:
    """Of all parts, read at the same time, in the order of the parts."""
    with ThreadPoolExecutor(max(1, len(plan.parts))) as readers:
        batches = readers.map(lambda part: list(source.read(part, stop=NeverStop())), plan.parts)
    return [i for part in batches for batch in part for i in batch.column("id").to_pylist()]


def refusal(work: Callable[[], object]) -> tuple[str, bool]:
    with pytest.raises(ConnectorError) as refused:
        work()
    return refused.value.code, refused.value.transient


@pytest.mark.parametrize("kind", CUTS)
@pytest.mark.parametrize("after", [0, 1000, ROWS])
def test_a_stream_goes_on_where_it_was_cut(bigquery, source, plan, kind, after, monkeypatch):
    if kind == "reset":  # a channel may be told late, and put more calls on its broken connection
        monkeypatch.setattr(streams, "REOPEN_MOST", 10)
    planned = plan()
    fault = bigquery.faults.inject(kind, "ReadRows", after_rows=after)
    assert ids(source, planned) == list(range(ROWS))
    assert fault.hits == 1
    had = min(ROWS, -(-after // MESSAGE_ROWS) * MESSAGE_ROWS)
    offsets = [call.offset for call in bigquery.made("ReadRows")]
    if kind == "reset":  # what was on its way is lost
        assert offsets[0] == 0
        assert all(offset <= had for offset in offsets[1:])
    elif kind == "short" and after == ROWS:
        assert offsets == [0]  # it had told that all were sent
    else:
        assert offsets == [0, had]


@pytest.mark.parametrize("seed", range(4))
def test_many_faults_at_once_lose_and_double_nothing(bigquery, source, plan, seed, monkeypatch):
    # A reset cuts the streams beside it, too: how often one is cut in a row is left to chance.
    monkeypatch.setattr(streams, "REOPEN_MOST", 100)
    monkeypatch.setattr(streams, "REOPEN_WAIT_S", 0)
    planned = plan(4)
    faults = [
        bigquery.faults.inject(
            kind, "ReadRows", after_messages=1 + (seed + i) % 5, times=None, probability=0.4, seed=seed * 10 + i
        )
        for i, kind in enumerate(CUTS)
    ]
    # How many of them hit is left to the order in which streams are opened.
    while sum(fault.hits for fault in faults) <= 3:
        assert ids(source, planned) == list(range(ROWS))
    bigquery.faults.clear()
    assert ids(source, planned) == list(range(ROWS))


def test_a_stream_that_fails_again_and_again_is_given_up(bigquery, source, plan):
    planned = plan()
    bigquery.faults.inject("unavailable", "ReadRows", times=None)
    assert refusal(lambda: ids(source, planned)) == ("bigquery_unavailable", True)
    assert len(bigquery.made("ReadRows")) == streams.REOPEN_MOST + 1


def test_a_stream_that_gives_rows_between_its_failures_is_not(bigquery, source, plan):
    planned = plan()
    fault = bigquery.faults.inject("unavailable", "ReadRows", after_messages=2, times=None)
    assert ids(source, planned) == list(range(ROWS))
    assert fault.hits > 10


def test_a_stream_that_ends_early_every_time_is_read_in_pieces(bigquery, source, plan):
    planned = plan()
    bigquery.faults.inject("short", "ReadRows", after_messages=3, times=None)
    assert ids(source, planned) == list(range(ROWS))


def test_a_filtered_stream_may_end_before_its_progress_does(bigquery, source, plan):
    """Rows that a filter leaves out at the end are not told of: asking once more gives nothing, and that is the end."""
    planned = plan()
    bigquery.faults.inject("short", "ReadRows", after_rows=ROWS - MESSAGE_ROWS)
    bigquery.faults.inject("short", "ReadRows", skip=1)
    assert ids(source, planned) == list(range(ROWS - MESSAGE_ROWS))
    assert [call.offset for call in bigquery.made("ReadRows")] == [0, ROWS - MESSAGE_ROWS]


def test_an_expired_session_is_for_another_plan(bigquery, source, plan):
    planned = plan(2)
    bigquery.faults.inject("expired", "ReadRows", after_messages=3)
    assert refusal(lambda: ids(source, planned)) == ("session_lost", True)
    assert ids(source, plan(2)) == list(range(ROWS))


def another(bigquery, **settings) -> BigQuerySource:
    return BigQuerySource(BigQueryOptions(PROJECT, "US", ""), endpoints=bigquery.endpoints, **settings)


def sooner_or_later(work: Callable[[], T]) -> T:
    """What is worth another try; a channel that was broken looks again after a moment."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return work()
        except TransientError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def limit_s(kind: str, silence_s: float = 2.5) -> float:
    """A call's time limit, which only silence makes us wait for."""
    return silence_s if kind == "silence" else 20.0


def test_a_silent_stream_is_asked_again_and_then_given_up(bigquery, table):
    source = another(bigquery, silence_s=1.0)
    planned = source.plan(ReadRequest(table=table), max_parts=1)
    bigquery.faults.inject("silence", "ReadRows", after_messages=3)
    assert ids(source, planned) == list(range(ROWS))
    offsets = [call.offset for call in bigquery.made("ReadRows")]
    # On a machine that stands still there is silence elsewhere, too.
    assert 3 * MESSAGE_ROWS in [later - earlier for earlier, later in pairwise(offsets)]
    source.close()
    source = another(bigquery, silence_s=0.3)
    bigquery.faults.inject("silence", "ReadRows", times=2)
    source.resume(planned)
    assert refusal(lambda: ids(source, planned)) == ("source_silent", True)
    source.close()


def test_slow_streams_are_read_to_their_end(bigquery, table):
    source = another(bigquery, silence_s=0.6)
    planned = source.plan(ReadRequest(table=table), max_parts=2)
    bigquery.faults.inject("slow", "ReadRows", "/0", seconds=0.05)
    bigquery.faults.inject("rate", "ReadRows", "/1", bytes_per_s=300_000)
    assert ids(source, planned) == list(range(ROWS))
    source.close()


def test_a_stream_waits_as_long_as_it_is_told_if_that_is_not_long(bigquery, source, plan):
    planned = plan()
    bigquery.faults.inject("exhausted", "ReadRows", after_messages=1, seconds=0.4)
    began = time.monotonic()
    assert ids(source, planned) == list(range(ROWS))
    assert time.monotonic() - began >= 0.4
    bigquery.faults.inject("exhausted", "ReadRows", seconds=3600)
    with pytest.raises(TransientError) as refused:
        ids(source, planned)
    assert (refused.value.code, refused.value.retry_after_s) == ("rate_limited", 3600)


def test_stopping_ends_the_wait_before_another_try(bigquery, source, plan):
    planned = plan()
    fault = bigquery.faults.inject("exhausted", "ReadRows", seconds=20)
    stopper = Stopper()
    with ThreadPoolExecutor(1) as readers:
        reading = readers.submit(lambda: list(source.read(planned.parts[0], stop=stopper)))
        while not fault.hits:
            time.sleep(0.01)
        time.sleep(0.1)
        stopper.pull()
        assert isinstance(reading.exception(15), Stopped)


REFUSALS = [
    ("unavailable", "bigquery_unavailable"),
    ("deadline", "timeout"),
    ("exhausted", "rate_limited"),
    ("reset", "connection_lost"),
    ("silence", "timeout"),
]


@pytest.mark.parametrize(
    ("kind", "code", "answered"),
    [
        *((kind, code, answered) for kind, code in REFUSALS[:4] for answered in (False, True)),
        ("silence", "timeout", False),
        ("internal", "connection_lost", False),
    ],
)
def test_a_session_that_cannot_be_opened_is_worth_another_try(bigquery, table, kind, code, answered):
    source = another(bigquery, timeout_s=limit_s(kind, 1.0))
    bigquery.faults.inject(kind, "CreateReadSession", answered=answered)
    assert refusal(lambda: source.plan(ReadRequest(table=table))) == (code, True)
    assert len(sooner_or_later(lambda: source.plan(ReadRequest(table=table), max_parts=2)).parts) == 2
    source.close()


@pytest.mark.parametrize(
    ("kind", "code"),
    [*REFUSALS[:3], ("silence", "timeout"), ("internal", "bigquery_unavailable"), ("short", "connection_lost")],
)
def test_a_table_that_cannot_be_looked_at_is_worth_another_try(bigquery, table, kind, code):
    source = another(bigquery, timeout_s=limit_s(kind, 1.0))
    bigquery.faults.inject(kind, "GET", "/tried")
    assert refusal(lambda: source.plan(ReadRequest(table=table))) == (code, True)
    assert sooner_or_later(lambda: source.plan(ReadRequest(table=table))).estimated_rows == ROWS
    source.close()


def test_one_broken_connection_is_no_reason_to_give_up(bigquery, source, table):
    fault = bigquery.faults.inject("reset", "GET", "/tried")
    assert source.plan(ReadRequest(table=table)).estimated_rows == ROWS
    assert fault.hits == 1
    bigquery.faults.inject("reset", "GET", "/tried", times=None)
    assert refusal(lambda: source.plan(ReadRequest(table=table))) == ("connection_lost", True)


@pytest.mark.parametrize(
    ("kind", "answered"),
    [
        *((kind, answered) for kind in ("unavailable", "deadline", "reset") for answered in (False, True)),
        ("silence", True),
    ],
)
def test_a_query_is_run_once_whatever_became_of_its_request(bigquery, table, kind, answered):
    source = another(bigquery, timeout_s=limit_s(kind))
    loads = len(bigquery.made("POST", "/jobs"))
    # The first request of a plan is the dry run.
    fault = bigquery.faults.inject(kind, "POST", "/jobs", answered=answered, skip=1)
    request = ReadRequest(query=f"SELECT id FROM {table} WHERE id < 100", job_key=uuid.uuid4().hex)
    planned = source.plan(request)
    assert fault.hits == 1
    assert sorted(ids(source, planned)) == list(range(100))
    # A dry run, the request that failed, and the one that found the job there or made it.
    assert len(bigquery.made("POST", "/jobs")) == loads + 3
    source.close()


def test_a_query_that_is_limited_waits_for_the_runs_own_retry(bigquery, source, table):
    bigquery.faults.inject("exhausted", "POST", "/jobs", skip=1)
    request = ReadRequest(query=f"SELECT id FROM {table}", job_key=uuid.uuid4().hex)
    assert refusal(lambda: source.plan(request)) == ("rate_limited", True)


@pytest.mark.parametrize(
    ("kind", "code"),
    [*REFUSALS[:3], ("silence", "timeout"), ("short", "connection_lost"), ("internal", "bigquery_unavailable")],
)
def test_pages_that_fail_are_worth_another_try_from_the_row_that_was_had(bigquery, table, monkeypatch, kind, code):
    monkeypatch.setattr("connectors.bigquery.pages._PAGE_ROWS_MOST", 500)
    source = BigQuerySource(
        BigQueryOptions(PROJECT, "US", ""), endpoints=Endpoints(bigquery.endpoints.rest), timeout_s=limit_s(kind)
    )
    part = source.plan(ReadRequest(table=table)).parts[0]
    bigquery.faults.inject(kind, "GET", "/data", skip=3)
    had: list[int] = []

    def read() -> None:
        for batch in source.read(part, start=len(had), stop=NeverStop()):
            had.extend(batch.column("id").to_pylist())

    assert refusal(read) == (code, True)
    assert len(had) == 1500
    sooner_or_later(read)
    assert had == list(range(ROWS))
    source.close()


@pytest.mark.parametrize("disposition", WriteDisposition)
def test_a_whole_load_through_faults_has_each_row_once(
    bigquery, source, warehouse, warehouse_cursor, table, disposition, monkeypatch
):
    # How often a stream is cut in a row is left to chance.
    monkeypatch.setattr(streams, "REOPEN_MOST", 100)
    monkeypatch.setattr(streams, "REOPEN_WAIT_S", 0)
    for i, kind in enumerate(CUTS):
        bigquery.faults.inject(kind, "ReadRows", after_messages=2, times=None, probability=0.3, seed=i)
    destination = PostgresDestination(PostgresOptions(**warehouse), allow_superuser=True)
    name = f"faults_{uuid.uuid4().hex[:8]}"
    if disposition is not WriteDisposition.REPLACE:
        warehouse_cursor.execute(f"CREATE TABLE {name} (id bigint, text text)")
    owner = Owner(uuid.uuid4(), uuid.uuid4(), uuid.uuid4(), 1)
    key = ("id",) if disposition in (WriteDisposition.MERGE, WriteDisposition.HISTORY) else ()
    target = Target("public", name)
    try:
        receipt = transfer.direct(
            source,
            destination,
            destination.raise_fence(target, owner, adopt=True),
            transfer.TransferRequest(owner, ReadRequest(table=table), target, WriteMode(disposition, key), adopt=True),
            reporter=Recorder(),
            stop=NeverStop(),
        )
    finally:
        destination.close()
    assert receipt.rows == ROWS
    warehouse_cursor.execute(f"SELECT count(*), count(DISTINCT id), sum(id) FROM {name}")
    assert warehouse_cursor.fetchone() == (ROWS, ROWS, ROWS * (ROWS - 1) // 2)
    assert sum(fault["hits"] for fault in bigquery.faults.told()) > 0
    deadline = time.monotonic() + 30
    while watching := [thread for thread in threading.enumerate() if thread.name == "bigquery-silence"]:
        assert time.monotonic() < deadline, watching
        time.sleep(0.01)
