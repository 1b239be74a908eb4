"""Each fault, as Google's own clients meet it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
import pyarrow as pa
import pytest
import requests
from google.api_core import exceptions
from google.cloud import bigquery as google
from google.cloud.bigquery import SchemaField
from google.cloud.bigquery_storage_v1 import types

from datamantri.embedded.ports import Ports
from tests.bigquery.calls import Call
from tests.bigquery.conftest import PROJECT
from tests.door import Behind
from tests.emulator_tables import EmulatorTables

ROWS, MESSAGE_ROWS = 1024, 64
SOON_S = 30.0
SCHEMA = [SchemaField("id", "INT64"), SchemaField("text", "STRING")]
T = TypeVar("T")


def rows() -> pa.Table:
    return pa.table({"id": pa.array(range(ROWS), pa.int64()), "text": ["x" * 100] * ROWS})


@pytest.fixture
def table(bigquery, bigquery_tables, dataset) -> str:
    """ROWS rows in messages of MESSAGE_ROWS, as many streams as are asked for."""
    bigquery_tables.make(f"{dataset}.faulty", SCHEMA, rows())
    bigquery.storage.small_bytes = 0
    bigquery.storage.message_bytes = 9_000
    return f"{dataset}.faulty"


@pytest.fixture
def read(sessions, table) -> Callable[..., list[int]]:
    """The sizes of the messages of a stream until it ends or fails, as one attempt without any retry."""

    def read(stream: str = "", offset: int = 0) -> list[int]:
        name = stream or sessions.open(table).streams[0].name
        call = sessions.client.transport.read_rows(types.ReadRowsRequest(read_stream=name, offset=offset))
        sizes: list[int] = []
        try:
            sizes.extend(message.row_count for message in call)
        except grpc.RpcError as error:
            error.passed = sizes  # type: ignore[attr-defined]
            raise exceptions.from_grpc_error(error) from error
        return sizes

    return read


def passed(refused: pytest.ExceptionInfo[BaseException]) -> int:
    """Rows that came through before the failure."""
    return sum(refused.value.__cause__.passed)


def once_connected_again(work: Callable[[], T]) -> T:
    """A channel may put more calls on a connection that it has yet to find broken."""
    deadline = time.monotonic() + SOON_S
    while True:
        try:
            return work()
        except exceptions.ServiceUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def seconds_of(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


REFUSALS = [
    ("unavailable", exceptions.ServiceUnavailable, "currently unavailable"),
    ("internal", exceptions.InternalServerError, "Received RST_STREAM with error code 2"),
    ("deadline", exceptions.DeadlineExceeded, "Deadline Exceeded"),
    ("exhausted", exceptions.ResourceExhausted, "Exceeded rate limits"),
    ("reset", exceptions.ServiceUnavailable, "(?i)reset by peer|socket closed|broken pipe|stream removed"),
]


def test_without_faults_a_stream_comes_in_messages(read):
    assert read() == [MESSAGE_ROWS] * (ROWS // MESSAGE_ROWS)


@pytest.mark.parametrize(("kind", "error", "words"), REFUSALS)
def test_a_stream_is_refused_after_so_many_rows(bigquery, read, kind, error, words):
    fault = bigquery.faults.inject(kind, "ReadRows", after_rows=300)
    with pytest.raises(error, match=words) as refused:
        read()
    # A broken connection may lose what was sent just before.
    assert passed(refused) == 320 or (kind == "reset" and passed(refused) <= 320)
    assert fault.hits == 1
    assert sum(once_connected_again(read) if kind == "reset" else read()) == ROWS


@pytest.mark.parametrize(("kind", "error", "words"), REFUSALS)
def test_a_session_is_refused_before_or_after_it_was_opened(bigquery, sessions, table, kind, error, words):
    for answered in (False, True):
        bigquery.faults.inject(kind, "CreateReadSession", answered=answered)
        with pytest.raises(error, match=words):
            sessions.open(table)
        opened = once_connected_again(lambda: sessions.open(table)) if kind == "reset" else sessions.open(table)
        assert len(opened.streams) == 1


def test_it_is_said_when_to_ask_again(bigquery, read):
    bigquery.faults.inject("exhausted", "ReadRows", seconds=7.5)
    with pytest.raises(exceptions.ResourceExhausted) as refused:
        read()
    (info,) = refused.value.details
    assert (info.retry_delay.seconds, info.retry_delay.nanos) == (7, 500_000_000)


def test_a_session_expires_in_the_middle_for_all_its_streams(bigquery, sessions, table, read):
    session = sessions.open(table, streams=2)
    other = sessions.open(table)
    bigquery.faults.inject("expired", "ReadRows", "/streams/0", after_messages=2)
    with pytest.raises(exceptions.FailedPrecondition, match="session expired") as refused:
        read(session.streams[0].name)
    assert passed(refused) == 2 * MESSAGE_ROWS
    with pytest.raises(exceptions.FailedPrecondition, match="session expired"):
        read(session.streams[1].name)
    assert sum(read(other.streams[0].name)) == ROWS


@pytest.mark.parametrize("after", [0, 100, ROWS])
def test_a_short_stream_ends_as_if_it_were_at_its_end(bigquery, sessions, table, read, after):
    fault = bigquery.faults.inject("short", "ReadRows", after_rows=after)
    stream = sessions.open(table).streams[0].name
    got = sum(read(stream))
    assert got == -(-after // MESSAGE_ROWS) * MESSAGE_ROWS
    assert fault.hits == 1
    assert sum(read(stream, got)) == ROWS - got


def test_a_silent_stream_says_nothing_until_it_breaks(bigquery, read):
    bigquery.faults.inject("silence", "ReadRows", after_messages=1, seconds=0.4)
    began = time.monotonic()
    with pytest.raises(exceptions.ServiceUnavailable) as refused:
        read()
    assert 0.4 <= time.monotonic() - began < SOON_S
    assert passed(refused) <= MESSAGE_ROWS


def test_a_silence_without_limit_ends_when_the_faults_are_cleared(bigquery, sessions, table, read):
    fault = bigquery.faults.inject("silence", "ReadRows")
    with ThreadPoolExecutor(1) as readers:
        reading = readers.submit(read)
        while not fault.hits:
            time.sleep(0.01)
        assert not reading.done()
        bigquery.faults.clear()
        assert isinstance(reading.exception(SOON_S), exceptions.ServiceUnavailable)


def test_a_silence_that_is_about_to_begin_ends_with_the_faults_as_well(bigquery):
    faults = bigquery.faults
    faults.inject("silence", "ReadRows")
    (strike,) = faults.meet(Call("storage", "ReadRows", "", {}))
    assert strike.is_due()
    faults.clear()
    faults.wait(0, because=strike)


def test_a_silent_session_runs_into_the_clients_own_limit(bigquery, sessions, table):
    bigquery.faults.inject("silence", "CreateReadSession")
    with pytest.raises(exceptions.DeadlineExceeded):
        sessions.open(table, timeout_s=0.3)


def test_slow_messages_come_all_the_same(bigquery, read):
    bigquery.faults.inject("slow", "ReadRows", seconds=0.02)
    assert seconds_of(read) >= 0.02 * ROWS / MESSAGE_ROWS


def test_each_stream_is_held_to_its_own_rate(bigquery, sessions, table, read, monkeypatch):
    size = rows().nbytes
    waits: list[float] = []
    wait = bigquery.faults.wait

    def noted(seconds: float, *how: Any, **more: Any) -> None:
        waits.append(seconds)
        wait(seconds, *how, **more)

    monkeypatch.setattr(bigquery.faults, "wait", noted)
    session = sessions.open(table, streams=2)
    bigquery.faults.inject("rate", "ReadRows", times=None, bytes_per_s=size)
    with ThreadPoolExecutor(2) as readers:
        both = seconds_of(lambda: list(readers.map(read, [stream.name for stream in session.streams])))
    # Each has half of the bytes, and waits for these only.
    assert both >= 0.45
    assert 0.45 <= sum(waits) <= 1.4


def test_only_the_chosen_stream_is_slow(bigquery, sessions, table, read):
    session = sessions.open(table, streams=2)
    fault = bigquery.faults.inject("rate", "ReadRows", "/streams/1", times=None, bytes_per_s=100_000)
    read(session.streams[0].name)
    assert fault.hits == 0
    assert seconds_of(lambda: read(session.streams[1].name)) > 0.4
    assert fault.hits == 1


def test_calls_are_chosen_by_their_number_and_by_chance(bigquery, sessions, table, read):
    stream = sessions.open(table).streams[0].name

    def struck() -> list[int]:
        found = []
        for i in range(12):
            try:
                read(stream)
            except exceptions.ServiceUnavailable:
                found.append(i)
        bigquery.faults.clear()
        return found

    bigquery.faults.inject("unavailable", "ReadRows", skip=2, times=3)
    assert struck() == [2, 3, 4]
    chances = []
    for seed in (1, 1, 2):
        bigquery.faults.inject("unavailable", "ReadRows", times=None, probability=0.5, seed=seed)
        chances.append(struck())
    assert chances[0] == chances[1] != chances[2]
    assert all(0 < len(chance) < 12 for chance in chances)


def test_a_fault_that_hit_nothing_says_so_and_still_lies_in_wait(bigquery, sessions, table, read):
    fault = bigquery.faults.inject("unavailable", "ReadRows", after_rows=ROWS + 1)
    assert sum(read()) == ROWS
    assert fault.hits == 0
    short = bigquery.faults.inject("unavailable", "ReadRows", after_rows=700)
    halves = [stream.name for stream in sessions.open(table, streams=2).streams]
    assert sum(read(halves[0])) == 512
    with pytest.raises(exceptions.ServiceUnavailable):
        read()
    assert short.hits == 1


REST_REFUSALS = [
    ("unavailable", exceptions.ServiceUnavailable, "backendError"),
    ("internal", exceptions.InternalServerError, "internalError"),
    ("deadline", exceptions.GatewayTimeout, "timeout"),
    ("exhausted", exceptions.TooManyRequests, "rateLimitExceeded"),
]


def get(client: google.Client, table: str, timeout_s: float = 30.0) -> google.Table:
    return client.get_table(f"{PROJECT}.{table}", retry=None, timeout=timeout_s)


def insert(client: google.Client, table: str, name: str) -> google.QueryJob:
    sql = f"INSERT INTO {table} (id) VALUES (7777)"
    return client.query(sql, job_id=name, retry=None, job_retry=None, timeout=30)


@pytest.mark.parametrize(("kind", "error", "reason"), REST_REFUSALS)
def test_a_request_is_refused_before_or_after_it_was_carried_out(bigquery, bigquery_tables, table, kind, error, reason):
    client = bigquery_tables.client
    name = f"once_{time.time_ns()}"
    fault = bigquery.faults.inject(kind, "POST", "/jobs")
    with pytest.raises(error) as refused:
        insert(client, table, name)
    assert refused.value.errors[0]["reason"] == reason
    assert get(client, table).num_rows == ROWS
    bigquery.faults.inject(kind, "POST", "/jobs", answered=True)
    with pytest.raises(error):
        insert(client, table, name)
    with pytest.raises(exceptions.Conflict):
        insert(client, table, name)
    assert get(client, table).num_rows == ROWS + 1
    assert fault.hits == 1


@pytest.mark.parametrize("answered", [False, True])
def test_a_request_meets_a_broken_connection(bigquery, bigquery_tables, table, answered):
    bigquery.faults.inject("reset", "POST", "/jobs", answered=answered)
    with pytest.raises(requests.exceptions.ConnectionError, match=r"(?i)reset by peer|aborted"):
        insert(bigquery_tables.client, table, f"broken_{time.time_ns()}")
    assert get(bigquery_tables.client, table).num_rows == ROWS + answered


def test_an_answer_breaks_off(bigquery, bigquery_tables, table):
    bigquery.faults.inject("short", "GET", table.split(".")[1])
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
        get(bigquery_tables.client, table)
    assert get(bigquery_tables.client, table).num_rows == ROWS


def test_an_answer_is_late_or_never_comes(bigquery, bigquery_tables, table):
    client = bigquery_tables.client
    bigquery.faults.inject("slow", "GET", seconds=0.3)
    assert seconds_of(lambda: get(client, table)) >= 0.3
    bigquery.faults.inject("silence", "GET")
    with pytest.raises(requests.exceptions.ReadTimeout):
        get(client, table, timeout_s=0.3)
    bigquery.faults.inject("silence", "GET", seconds=0.2)
    with pytest.raises(requests.exceptions.ConnectionError):
        get(client, table)


def test_an_answer_comes_no_faster_than_it_may(bigquery, bigquery_tables, table):
    def page() -> int:
        return len(list(bigquery_tables.client.list_rows(f"{PROJECT}.{table}", retry=None, timeout=30)))

    assert page() == ROWS
    bigquery.faults.inject("rate", "GET", "/data", bytes_per_s=300_000)
    assert seconds_of(page) > 0.4


@pytest.mark.parametrize(
    "how",
    [
        {"kind": "explosion"},
        {"kind": "expired", "method": "GET"},
        {"kind": "short", "method": "CreateReadSession"},
        {"kind": "rate", "method": "ReadRows"},
        {"kind": "slow"},
        {"kind": "unavailable", "method": "GET", "after_rows": 3},
        {"kind": "unavailable", "times": 0},
        {"kind": "unavailable", "probability": 0},
    ],
)
def test_a_fault_that_cannot_be_is_refused(bigquery, how):
    with pytest.raises(ValueError, match=r"\w+"):
        bigquery.faults.inject(**how)


def test_faults_come_through_the_door_of_a_process_of_its_own(emulator, dataset):
    arguments = ["--rest", emulator["rest"], "--storage", emulator["storage"]]
    with Behind("tests.bigquery", arguments) as proxy:
        tables = EmulatorTables(proxy.addresses["rest"])
        name = f"{dataset}.elsewhere"
        tables.make(name, SCHEMA, rows())
        proxy.call("set", lifetime_s=60, small_bytes=0)
        number = proxy.call("inject", kind="unavailable", method="GET", target="/elsewhere", skip=1)
        assert get(tables.client, name).num_rows == ROWS
        with pytest.raises(exceptions.ServiceUnavailable):
            get(tables.client, name)
        (told,) = proxy.call("faults")
        assert (told["number"], told["kind"], told["hits"]) == (number, "unavailable", 1)
        assert proxy.call("calls", method="GET", target="/elsewhere") == 2
        proxy.call("clear")
        assert proxy.call("faults") == []
        with pytest.raises(ValueError, match="kind is one of"):
            proxy.call("inject", kind="explosion")
        with pytest.raises(ValueError, match="there is no speed"):
            proxy.call("set", speed=3)
        tables.close()
    assert proxy.process.poll() == 0


def test_a_process_that_was_killed_comes_back_at_its_addresses(emulator, tmp_path):
    # Ports that nobody else is given meanwhile.
    ports = Ports(tmp_path / "ports.json")
    arguments = ["--rest", emulator["rest"], "--storage", emulator["storage"]]
    for side in ("rest", "storage"):
        arguments += [f"--{side}-port", str(ports.choose(side))]
    with Behind("tests.bigquery", arguments) as first:
        rest, storage = first.addresses["rest"], first.addresses["storage"]
        first.process.kill()
        first.process.wait(SOON_S)
    with Behind("tests.bigquery", arguments) as second:
        assert (second.addresses["rest"], second.addresses["storage"]) == (rest, storage)
    ports.give_back()


def test_threads_may_inject_and_clear_while_streams_are_read(bigquery, sessions, table, read):
    stream, ended = sessions.open(table).streams[0].name, threading.Event()

    def stir() -> None:
        while not ended.is_set():
            bigquery.faults.inject("slow", "ReadRows", seconds=0.001, times=None)
            time.sleep(0.001)
            bigquery.faults.clear()

    with ThreadPoolExecutor(3) as pool:
        stirring = pool.submit(stir)
        found = list(pool.map(lambda _: sum(read(stream)), range(20)))
        ended.set()
        stirring.result(SOON_S)
    assert found == [ROWS] * 20
