"""Google's own client against the proxy's Storage Read API."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from google.api_core import exceptions
from google.cloud.bigquery import SchemaField
from google.cloud.bigquery_storage_v1 import BigQueryReadClient, types

from tests.bigquery.conftest import PROJECT, Sessions

SCHEMA = [SchemaField("id", "INT64", "REQUIRED"), SchemaField("day", "DATE"), SchemaField("text", "STRING")]
LZ4 = types.ArrowSerializationOptions.CompressionCodec.LZ4_FRAME


@pytest.fixture
def client(sessions: Sessions) -> BigQueryReadClient:
    return sessions.client


@pytest.fixture
def open_session(sessions: Sessions, dataset: str) -> Callable[..., types.ReadSession]:
    return lambda table="days", **options: sessions.open(f"{dataset}.{table}", **options)


@pytest.fixture
def days(bigquery_tables, dataset) -> str:
    start = datetime(2024, 1, 1, tzinfo=UTC).date()
    rows = pa.table(
        {
            "id": pa.array(range(100), pa.int64()),
            "day": [start + timedelta(days=i) for i in range(100)],
            "text": [None if i % 10 == 0 else "x" * 40_000 for i in range(100)],
        }
    )
    bigquery_tables.make(f"{dataset}.days", SCHEMA, rows)
    return f"{dataset}.days"


def test_messages_are_small_and_tell_progress(client, bigquery, open_session, days):
    bigquery.storage.throttle_percent = 25
    session = open_session(streams=1)
    messages = list(client.read_rows(session.streams[0].name))
    assert len(messages) > 3
    assert all(len(m.arrow_record_batch.serialized_record_batch) <= 1_100_000 for m in messages)
    assert [bool(m.arrow_schema.serialized_schema) for m in messages] == [True] + [False] * (len(messages) - 1)
    assert messages[0].stats.progress.at_response_start == 0
    assert messages[-1].stats.progress.at_response_end == 1
    ends = [m.stats.progress.at_response_end for m in messages]
    assert ends == sorted(ends)
    assert {m.throttle_state.throttle_percent for m in messages} == {25}
    assert sum(m.row_count for m in messages) == session.estimated_row_count == 100


def test_a_session_says_when_it_ends(open_session, bigquery, days):
    bigquery.storage.lifetime_s = 60
    before, expires, after = datetime.now(UTC), open_session().expire_time, datetime.now(UTC)
    assert before + timedelta(seconds=60) <= expires <= after + timedelta(seconds=60)


def test_compressed_rows_are_the_same_rows_in_fewer_bytes(client, sessions, open_session, days):
    plain = open_session()
    packed = open_session(arrow_serialization_options=types.ArrowSerializationOptions(buffer_compression=LZ4))

    def sizes(session: types.ReadSession) -> int:
        messages = client.read_rows(session.streams[0].name)
        return sum(len(m.arrow_record_batch.serialized_record_batch) for m in messages)

    assert sizes(packed) < sizes(plain) / 10
    assert sessions.rows(packed) == sessions.rows(plain)


def test_columns_and_rows_are_chosen(sessions, open_session, days):
    restriction = "day >= DATE '2024-03-01' AND text IS NULL"
    rows = sessions.rows(open_session(selected_fields=["day", "id"], row_restriction=restriction))
    assert [row["id"] for row in rows] == [60, 70, 80, 90]
    assert list(rows[0]) == ["id", "day"]


def test_a_column_that_is_not_there_is_refused(open_session, days):
    with pytest.raises(exceptions.InvalidArgument, match="do not exist in the table schema: nothing"):
        open_session(selected_fields=["nothing"])


def test_a_table_is_read_as_it_was_before_each_of_its_changes(
    client, sessions, open_session, bigquery_tables, dataset, days
):
    times, counts = [], []
    more = pa.table({"id": [1000], "day": pa.array([None], pa.date32()), "text": ["late"]})
    changes = [
        lambda: bigquery_tables.append(days, more),
        lambda: bigquery_tables.run(f"DELETE FROM {days} WHERE id < 50"),
        lambda: bigquery_tables.client.insert_rows_json(f"{PROJECT}.{days}", [{"id": 7}], retry=None),
        lambda: bigquery_tables.run(f"UPDATE {days} SET text = 'new' WHERE TRUE"),
        lambda: bigquery_tables.run(f"TRUNCATE TABLE {days}"),
    ]
    for change in changes:
        times.append(datetime.now(UTC))
        time.sleep(0.01)
        change()
    for moment in times:
        rows = sessions.rows(open_session(at=moment))
        counts.append((len(rows), sum(row["text"] == "new" for row in rows)))
    assert counts == [(100, 0), (101, 0), (51, 0), (52, 0), (52, 52)]
    assert sessions.rows(open_session()) == []
    assert [row["id"] for row in sessions.rows(open_session(at=times[1], row_restriction="id > 98"))] == [99, 1000]


def test_a_time_before_the_table_is_refused(open_session, days):
    with pytest.raises(exceptions.InvalidArgument, match="Cannot read before"):
        open_session(at=datetime.now(UTC) - timedelta(days=1))


def test_a_missing_table_and_a_view_are_refused(open_session, bigquery_tables, dataset, days):
    with pytest.raises(exceptions.NotFound, match=rf"Not found: Table {PROJECT}:{dataset}\.nowhere"):
        open_session("nowhere")
    bigquery_tables.run(f"CREATE OR REPLACE VIEW {dataset}.looked AS SELECT id FROM {days}")
    with pytest.raises(exceptions.InvalidArgument, match="non-table entities cannot be read"):
        open_session("looked")


def test_an_unknown_stream_is_not_found(client):
    with pytest.raises(exceptions.NotFound):
        list(client.read_rows(f"projects/{PROJECT}/locations/us/sessions/none/streams/0"))
