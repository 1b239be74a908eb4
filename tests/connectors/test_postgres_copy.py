"""One COPY from many readers: complete, bounded, stoppable, and honest about who failed."""

from __future__ import annotations

import decimal
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
from psycopg2 import sql

from connectors.base import NeverStop, StopSignal
from connectors.column import Column
from connectors.columns.encode import BatchEncoder
from connectors.errors import ConnectorError, Stopped, TransientError
from connectors.postgres.copy import QUEUE_BYTES, CopyResult, copy_parts
from connectors.postgres.ddl import create_table

COPIER = f"copier {os.getpid()}"  # other test processes use the same server
COLUMNS = (Column("id", "INT64"), Column("text", "STRING"))
TABLE = sql.Identifier("copied")
PATIENCE_S = 30.0  # what happens is over long before, however busy the machine is; what does not, is not

Reader = Callable[[], Iterator[pa.RecordBatch]]


class Stop:
    """A StopSignal that a test sets off."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        self._stopped = False

    def check(self) -> None:
        if self._stopped:
            raise Stopped("Cancelled.", code="cancelled")

    def on_stop(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def now(self) -> None:
        self._stopped = True
        for callback in list(self._callbacks):
            callback()

    def after(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self.now)
        timer.start()
        return timer

    @property
    def registered(self) -> int:
        return len(self._callbacks)


@pytest.fixture
def cursor(warehouse: dict[str, Any]) -> Iterator[Any]:
    """A cursor in a transaction, with an empty table for COLUMNS made before it."""
    connection = psycopg2.connect(
        **{name: warehouse[name] for name in ("host", "port", "dbname", "user", "password")}, application_name=COPIER
    )
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(TABLE))
        cursor.execute(create_table(TABLE, COLUMNS))
        connection.commit()
        yield cursor
    connection.close()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and thread.name == "reader"]
    assert not left


def batch(start: int, rows: int, text: str = "x") -> pa.RecordBatch:
    ids = pa.array(range(start, start + rows), pa.int64())
    return pa.record_batch([pa.array([text] * rows, pa.string()), ids], names=["text", "id"])


def part(start: int, batches: int, rows: int = 1000, text: str = "x") -> Reader:
    return lambda: (batch(start + i * rows, rows, text) for i in range(batches))


def copy(
    cursor: Any,
    *readers: Reader,
    stop: StopSignal | None = None,
    on_batch: Callable[[int, int], None] = lambda rows, size: None,
    freeze: bool = False,
    columns: tuple[Column, ...] = COLUMNS,
) -> CopyResult:
    return copy_parts(cursor, TABLE, columns, readers, freeze=freeze, on_batch=on_batch, stop=stop or NeverStop())


def count(cursor: Any) -> tuple[int, int]:
    cursor.execute(sql.SQL("SELECT count(*), count(DISTINCT id) FROM {}").format(TABLE))
    rows: tuple[int, int] = cursor.fetchone()
    return rows


def test_all_rows_of_all_readers_arrive_once_and_are_counted(cursor: Any) -> None:
    told: list[tuple[int, int]] = []
    done = copy(
        cursor,
        *(part(i * 100_000, 20) for i in range(5)),
        on_batch=lambda rows, size: told.append((rows, size)),
    )
    assert count(cursor) == (100_000, 100_000)
    assert done.rows == sum(rows for rows, _ in told) == 100_000
    assert 0 < sum(size for _, size in told) <= done.bytes
    # 2 for the number of fields, 4 for each length, 8 and 1 of data; 19 before and 2 after all rows.
    assert done.bytes == 100_000 * (2 + 4 + 8 + 4 + 1) + 21


def test_nothing_to_copy_is_a_good_copy(cursor: Any) -> None:
    assert copy(cursor, part(0, 0), part(0, 1, rows=0)) == CopyResult(0, 21)
    assert copy(cursor) == CopyResult(0, 21)


def test_a_table_made_in_the_transaction_can_be_frozen(cursor: Any) -> None:
    cursor.execute(sql.SQL("DROP TABLE {}").format(TABLE))
    cursor.execute(create_table(TABLE, COLUMNS))
    assert copy(cursor, part(0, 3), freeze=True).rows == 3000


def test_columns_are_matched_by_name_and_others_of_the_table_take_their_default(cursor: Any) -> None:
    cursor.execute(
        sql.SQL("ALTER TABLE {} ADD COLUMN first int DEFAULT 7, DROP COLUMN id, ADD COLUMN id bigint").format(TABLE)
    )
    copy(cursor, part(41, 1, rows=2, text="é😀"))
    cursor.execute(sql.SQL("SELECT first, id, text FROM {} ORDER BY id").format(TABLE))
    assert cursor.fetchall() == [(7, 41, "é😀"), (7, 42, "é😀")]


def test_what_a_reader_raises_comes_out_as_it_is_and_stops_the_others(cursor: Any) -> None:
    closed = threading.Event()

    def endless() -> Iterator[pa.RecordBatch]:
        try:
            while True:
                yield batch(0, 100)
                time.sleep(0.01)  # the COPY must wait now and then: only then is another reader started
        finally:
            closed.set()

    def broken() -> Iterator[pa.RecordBatch]:
        yield batch(0, 100)
        raise TransientError("The stream broke.", code="stream_broken")

    with pytest.raises(TransientError, match="The stream broke") as caught:
        copy(cursor, lambda: endless(), lambda: broken())
    assert caught.value.code == "stream_broken"
    assert closed.is_set()


def test_a_reader_that_cannot_be_made_comes_out_too(cursor: Any) -> None:
    def unmade() -> Iterator[pa.RecordBatch]:
        raise TransientError("No session.")

    with pytest.raises(TransientError, match="No session"):
        copy(cursor, unmade)


def test_what_the_encoder_refuses_comes_out_as_it_is(cursor: Any) -> None:
    with pytest.raises(ConnectorError) as caught:
        copy(cursor, part(0, 1, text="a\0b"))
    assert (caught.value.code, caught.value.field) == ("nul_character", "text")
    cursor.connection.rollback()
    assert count(cursor) == (0, 0)


def test_what_the_listener_raises_comes_out_as_it_is(cursor: Any) -> None:
    def listener(rows: int, size: int) -> None:
        raise LookupError("nobody listens")

    with pytest.raises(LookupError, match="nobody listens"):
        copy(cursor, part(0, 1000), on_batch=listener)


def test_what_postgresql_refuses_names_row_and_column_and_ends_the_reading(cursor: Any) -> None:
    cursor.execute(sql.SQL("DROP TABLE {0}; CREATE TABLE {0} (v numeric(3,0))").format(TABLE))
    columns, read = (Column("v", "NUMERIC"),), 0

    def rows(last: int) -> pa.RecordBatch:
        values = [decimal.Decimal(number) for number in [*[1] * 19_999, last]]
        return pa.record_batch([pa.array(values, pa.decimal128(38, 9))], names=["v"])

    good, bad = rows(1), rows(10**20)
    # The last row of what is sent at once, for PostgreSQL to answer in a pause: while something is sent, libpq listens.
    encoder = BatchEncoder(columns)
    encoder.header()
    number = next(n for n in range(1, 1000) if any(encoder.encode(good)))

    def reader() -> Iterator[pa.RecordBatch]:
        nonlocal read
        for read in range(1, 300):
            yield bad if read == number else good
            time.sleep(0.1)

    with pytest.raises(psycopg2.errors.NumericValueOutOfRange) as caught:
        copy(cursor, reader, columns=columns)
    assert caught.value.diag.context == f"COPY copied, line {number * 20_000}, column v"
    assert read < 100


def test_a_trigger_that_talks_does_not_disturb(cursor: Any) -> None:
    speak(cursor, "NOTICE")
    assert copy(cursor, part(0, 20)).rows == 20_000


def test_a_trigger_that_insists_on_being_heard_is_named(cursor: Any) -> None:
    speak(cursor, "INFO")

    def slow() -> Iterator[pa.RecordBatch]:
        yield batch(0, 100_000)
        for _ in range(300):
            time.sleep(0.1)  # PostgreSQL speaks in a pause: while something is sent, libpq listens to it
            yield batch(0, 20_000)

    with pytest.raises(ConnectorError) as caught:
        copy(cursor, slow)
    assert caught.value.code == "copy_interrupted"


def speak(cursor: Any, level: str) -> None:
    cursor.execute(
        f"CREATE OR REPLACE FUNCTION speak() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$BEGIN IF new.id = 7 THEN RAISE {level} 'seven'; END IF; RETURN new; END$$;"
        f" CREATE TRIGGER speak BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION speak()"
    )


def test_rows_that_a_trigger_drops_are_not_counted(cursor: Any) -> None:
    cursor.execute(
        "CREATE OR REPLACE FUNCTION drop_odd() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF new.id % 2 = 1 THEN RETURN NULL; END IF; RETURN new; END$$;"
        " CREATE TRIGGER drop_odd BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION drop_odd()"
    )
    assert copy(cursor, part(0, 1)).rows == 500


def test_a_stop_is_heard_while_rows_flow(cursor: Any) -> None:
    stop = Stop()
    timers: list[threading.Timer] = []

    def endless() -> Iterator[pa.RecordBatch]:
        yield batch(0, 1000)
        timers.append(stop.after(0.2))
        while True:
            yield batch(0, 1000)

    with pytest.raises(Stopped):
        copy(cursor, lambda: endless(), stop=stop)
    assert stop.registered == 0
    timers[0].join()


def test_a_stop_is_heard_while_a_reader_is_silent(cursor: Any) -> None:
    stop, wake = Stop(), threading.Event()
    stop.on_stop(wake.set)
    timers: list[threading.Timer] = []

    def silent() -> Iterator[pa.RecordBatch]:
        yield batch(0, 1000)
        timers.append(stop.after(0.2))
        assert wake.wait(PATIENCE_S)

    with pytest.raises(Stopped):
        copy(cursor, lambda: silent(), stop=stop)
    timers[0].join()


def test_a_stop_is_heard_while_postgresql_waits_for_a_lock(cursor: Any, warehouse_cursor: Any) -> None:
    warehouse_cursor.execute(sql.SQL("BEGIN; LOCK TABLE {}").format(TABLE))
    stop = Stop()
    stop.on_stop(cursor.connection.cancel)

    def stop_once_it_waits() -> None:
        until(lambda: is_waited_for(warehouse_cursor))
        stop.now()

    stopper = threading.Thread(target=stop_once_it_waits)
    stopper.start()
    with pytest.raises(Stopped):
        copy(cursor, part(0, 1000), stop=stop)
    stopper.join()


def test_a_server_that_ends_the_session_ends_the_copy(cursor: Any, warehouse_cursor: Any) -> None:
    def ending() -> Iterator[pa.RecordBatch]:
        yield batch(0, 1000)
        warehouse_cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", (COPIER,)
        )
        time.sleep(0.2)
        for _ in range(100_000):
            yield batch(0, 1000)

    with pytest.raises(psycopg2.Error):
        copy(cursor, lambda: ending())
    assert cursor.connection.closed


def test_readers_wait_when_the_queue_is_full(cursor: Any, warehouse_cursor: Any) -> None:
    warehouse_cursor.execute(sql.SQL("BEGIN; LOCK TABLE {}").format(TABLE))
    taken = 0

    waiting: list[int] = []

    def greedy() -> Iterator[pa.RecordBatch]:
        nonlocal taken
        big = batch(0, 1000, "x" * 1000)
        for _ in range(100):
            yield big
            taken += big.nbytes

    def let_go_once_it_is_full() -> None:
        until(lambda: is_waited_for(warehouse_cursor) and taken >= QUEUE_BYTES)
        time.sleep(0.3)  # enough for a reader that does not wait
        waiting.append(taken)
        warehouse_cursor.execute("ROLLBACK")

    watcher = threading.Thread(target=let_go_once_it_is_full)
    watcher.start()
    assert copy(cursor, lambda: greedy()).rows == 100_000
    watcher.join()
    assert QUEUE_BYTES <= waiting[0] < QUEUE_BYTES + (2 << 20)


def is_waited_for(cursor: Any) -> bool:
    """Whether somebody waits for the lock of TABLE."""
    cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'copied'::regclass)")
    found: tuple[bool] = cursor.fetchone()
    return found[0]


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
