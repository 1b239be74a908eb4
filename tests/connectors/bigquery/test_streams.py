"""What the emulator ignores: snapshots, offsets, expiry, silence, refusals of the Storage Read API."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from itertools import islice

import grpc
import pytest
from google.cloud.bigquery_storage_v1 import types

from connectors.base import NeverStop
from connectors.bigquery import streams
from connectors.bigquery.client import Endpoints
from connectors.errors import ConnectorError, Stopped, TransientError
from connectors.reading import Part, ReadRequest
from tests.connectors.bigquery.conftest import PATIENCE_S, read_all
from tests.connectors.bigquery.recorded import message

STREAM = "projects/acme/locations/us/sessions/s/streams/0"
FIELDS = [{"name": "id", "type": "INTEGER"}]
LATER = dt.datetime.now(dt.UTC) + dt.timedelta(hours=6)


class Stopper:
    """A stop signal that a test pulls."""

    def __init__(self) -> None:
        self.stopped = False
        self._callbacks: list[Callable[[], None]] = []

    def check(self) -> None:
        if self.stopped:
            raise Stopped("Cancelled.", code="cancelled")

    def on_stop(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def pull(self) -> None:
        self.stopped = True
        for callback in list(self._callbacks):
            callback()


def table(**more: object) -> tuple[int, dict[str, object]]:
    body = {
        "tableReference": {"projectId": "acme", "datasetId": "sales", "tableId": "orders"},
        "type": "TABLE",
        "numRows": "4",
        "schema": {"fields": FIELDS},
        "creationTime": "1700000000000",
        **more,
    }
    return 200, body


def refuse(code: grpc.StatusCode, text: str) -> Callable[..., types.ReadSession]:
    return lambda request, context: context.abort(code, text)


@pytest.fixture(autouse=True)
def streams_are_reopened_at_once(monkeypatch):
    monkeypatch.setattr(streams, "REOPEN_WAIT_S", 0.01)


@pytest.fixture
def silent():
    """Stands for a server that says nothing more: handlers wait for it, until the test is over."""
    is_over = threading.Event()
    yield is_over
    is_over.set()


@pytest.fixture
def source(connect, rest, storage):
    rest.answer("GET", "/tables/orders", table())
    storage.session = lambda request, context: types.ReadSession(
        name="projects/acme/locations/us/sessions/s", streams=[types.ReadStream(name=STREAM)], expire_time=LATER
    )
    return connect(Endpoints(rest.url, storage.address), project="acme", silence_s=PATIENCE_S)


@pytest.fixture
def hasty(connect, rest, storage, source):
    """Soon takes a server for silent."""
    return connect(Endpoints(rest.url, storage.address), project="acme", silence_s=0.8)


def plan(source):
    return source.plan(ReadRequest(table="sales.orders"), max_parts=3)


def test_a_session_is_opened_at_the_plans_snapshot_for_the_billed_project(source, storage):
    before = dt.datetime.now(dt.UTC)
    made = plan(source)
    (request,) = storage.sessions
    assert request.read_session.table_modifiers.snapshot_time == made.snapshot_time
    assert before <= made.snapshot_time <= dt.datetime.now(dt.UTC)
    assert request.parent == "projects/acme"
    assert request.max_stream_count == 3
    assert request.read_session.data_format == types.DataFormat.ARROW
    assert made.facts["session_expires"] == LATER.isoformat()
    assert made.estimated_rows == 4


def test_a_snapshot_is_never_older_than_its_table(source, rest):
    ahead = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
    rest.answer("GET", "/tables/orders", table(creationTime=str(int(ahead.timestamp() * 1000))))
    assert plan(source).snapshot_time >= ahead.replace(microsecond=0)


def test_a_snapshot_is_never_ahead_of_bigquerys_clock(source, rest):
    rest.clock_s = -3600
    assert_is_of_now(source, rest)


def test_a_snapshot_is_of_now_although_our_clock_is_behind(source, rest):
    rest.clock_s = 3600
    assert_is_of_now(source, rest)


def assert_is_of_now(source, rest):
    """By the server's clock, of whose time an answer tells the seconds only."""
    before = dt.datetime.now(dt.UTC)
    snapshot = plan(source).snapshot_time - dt.timedelta(seconds=rest.clock_s)
    assert before - dt.timedelta(seconds=1) <= snapshot <= dt.datetime.now(dt.UTC)


def test_reading_starts_at_the_offset_asked_for(source, storage):
    storage.rows = lambda request, context: iter([message([3, 4])])
    (part,) = plan(source).parts
    batches = list(source.read(part, start=2, stop=NeverStop()))
    assert [b.num_rows for b in batches] == [2]
    assert (storage.reads[0].read_stream, storage.reads[0].offset) == (STREAM, 2)


def test_only_the_first_message_need_carry_the_schema(source, storage):
    storage.rows = lambda request, context: iter([message([1]), message([2], with_schema=False)])
    assert read_all(source, plan(source).parts) == [{"id": 1}, {"id": 2}]


def test_a_stream_that_is_cut_goes_on_behind_the_rows_already_had(source, storage):
    def rows(request, context):
        left = [1, 2, 3, 4][request.offset :]
        yield message(left[:2])
        if request.offset == 0:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    storage.rows = rows
    assert read_all(source, plan(source).parts) == [{"id": n} for n in (1, 2, 3, 4)]
    assert [read.offset for read in storage.reads] == [0, 2]


def test_rows_are_dropped_here_where_offsets_may_be_ignored(source, storage):
    storage.session = lambda request, context: types.ReadSession(name="s", streams=[types.ReadStream(name=STREAM)])
    storage.rows = lambda request, context: iter([message([1, 2]), message([3, 4, 5]), message([6])])
    (part,) = plan(source).parts
    for start in range(8):
        batches = list(source.read(part, start=start, stop=NeverStop()))
        assert [n for batch in batches for n in batch.column("id").to_pylist()] == list(range(start + 1, 7))
    assert {read.offset for read in storage.reads} == {0}


def test_a_session_that_is_gone_is_not_taken_for_the_end_of_a_stream(source, storage):
    """After a stream that ended without telling that it was whole, an offset past its end is its end; this is not."""

    def rows(request, context):
        if request.offset:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "session expired at 2024-01-01")
        answer = message([1])
        answer.stats.progress.at_response_end = 0.5
        yield answer

    storage.rows = rows
    with pytest.raises(TransientError) as failure:
        read_all(source, plan(source).parts)
    assert failure.value.code == "session_lost"


def test_a_stream_is_not_reopened_where_offsets_may_be_ignored(source, storage):
    storage.session = lambda request, context: types.ReadSession(name="s", streams=[types.ReadStream(name=STREAM)])

    def rows(request, context):
        yield message([1])
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    storage.rows = rows
    with pytest.raises(TransientError) as failure:
        read_all(source, plan(source).parts)
    assert failure.value.code == "connection_lost"
    assert len(storage.reads) == 1


def test_silence_is_a_transient_error_once_it_is_met_again(hasty, storage, silent):
    def rows(request, context):
        if request.offset == 0:
            yield message([1])
        silent.wait(PATIENCE_S)

    storage.rows = rows
    with pytest.raises(TransientError) as failure:
        read_all(hasty, plan(hasty).parts)
    assert failure.value.code == "source_silent"
    # A busy machine may be silent before its first row, too.
    assert [read.offset for read in storage.reads if read.offset] == [1]


def test_a_slow_reader_is_not_silence(hasty, storage):
    storage.rows = lambda request, context: iter([message([1]), message([2])][request.offset :])
    reading = hasty.read(*plan(hasty).parts, stop=NeverStop())
    rows = next(reading).to_pylist()
    time.sleep(1.2)
    rows += [row for batch in reading for row in batch.to_pylist()]
    assert rows == [{"id": 1}, {"id": 2}]
    assert {read.offset for read in storage.reads} == {0}


def test_stopping_breaks_a_blocking_read(source, storage, silent):
    waiting, stopper = threading.Event(), Stopper()

    def rows(request, context):
        yield message([1])
        waiting.set()
        silent.wait(PATIENCE_S)

    def pull() -> None:
        waiting.wait(PATIENCE_S)
        time.sleep(0.1)
        stopper.pull()

    storage.rows = rows
    begun = time.monotonic()
    threading.Thread(target=pull).start()
    with pytest.raises(Stopped) as failure:
        list(source.read(*plan(source).parts, stop=stopper))
    assert failure.value.code == "cancelled"
    # Neither the server nor silence ended it.
    assert time.monotonic() - begun < PATIENCE_S / 2


def test_a_reader_that_leaves_early_closes_its_call(source, storage):
    closed = threading.Event()

    def rows(request, context):
        context.add_callback(closed.set)
        for n in range(10_000):
            yield message([n])
            if closed.wait(0.01):
                return

    storage.rows = rows
    reading = source.read(*plan(source).parts, stop=NeverStop())
    list(islice(reading, 2))
    reading.close()
    assert closed.wait(PATIENCE_S)


@pytest.mark.parametrize(
    ("status", "text", "code", "transient"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "Session expired at 2024-01-01", "session_lost", True),
        (grpc.StatusCode.NOT_FOUND, "session not found", "session_lost", True),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", "connection_lost", True),
        (grpc.StatusCode.UNAVAILABLE, "try again", "bigquery_unavailable", True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", "rate_limited", True),
        (grpc.StatusCode.INTERNAL, "an internal error", "bigquery_unavailable", True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "late", "timeout", True),
        (grpc.StatusCode.PERMISSION_DENIED, "denied", "permission_denied", False),
        (grpc.StatusCode.UNAUTHENTICATED, "no", "credentials_rejected", False),
    ],
)
def test_refusals_while_reading_say_whether_another_try_is_worth_it(source, storage, status, text, code, transient):
    storage.rows = lambda request, context: context.abort(status, text)
    with pytest.raises(ConnectorError) as failure:
        list(source.read(Part(STREAM), stop=NeverStop()))
    assert (failure.value.code, failure.value.transient) == (code, transient)


def test_a_server_that_dies_in_the_middle_is_a_transient_error(source, storage, silent):
    def rows(request, context):
        yield message([1])
        silent.wait(PATIENCE_S)

    storage.rows = rows
    reading = source.read(*plan(source).parts, stop=NeverStop())
    next(reading)
    stopping = threading.Thread(target=storage.__exit__)
    stopping.start()
    with pytest.raises(TransientError) as failure:
        next(reading)
    assert failure.value.code in ("connection_lost", "unreachable", "bigquery_unavailable", "interrupted")
    silent.set()
    stopping.join(PATIENCE_S)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            grpc.StatusCode.PERMISSION_DENIED,
            "request failed: the user does not have 'bigquery.readsessions.create' permission for 'projects/acme'",
        ),
        (
            grpc.StatusCode.PERMISSION_DENIED,
            "BigQuery Storage API has not been used in project 1 before or it is disabled.",
        ),
        (grpc.StatusCode.UNIMPLEMENTED, "not here"),
    ],
)
def test_without_leave_for_the_storage_api_rows_come_through_rest(source, rest, storage, status, text):
    storage.session = refuse(status, text)
    rest.answer("GET", "/data", (200, {"totalRows": "2", "rows": [{"f": [{"v": "1"}]}, {"f": [{"v": "2"}]}]}))
    made = plan(source)
    assert "REST" in made.warnings[0]
    if "readsessions" in text:
        assert "bigquery.readsessions.create" in made.warnings[0]
        assert "BigQuery Read Session User" in made.warnings[0]
    assert read_all(source, made.parts) == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "Permission 'bigquery.tables.getData' denied", "permission_denied"),
        (grpc.StatusCode.UNAVAILABLE, "try again", "bigquery_unavailable"),
        (grpc.StatusCode.INVALID_ARGUMENT, "request failed: row filter is not valid", "invalid_query"),
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            "request failed: Invalid time travel timestamp 1 for table acme:sales.orders@1. Cannot read before 2.",
            "snapshot_gone",
        ),
    ],
)
def test_what_rest_would_refuse_too_is_an_error(source, storage, status, text, code):
    storage.session = refuse(status, text)
    with pytest.raises(ConnectorError) as failure:
        plan(source)
    assert failure.value.code == code
