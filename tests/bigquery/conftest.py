from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import grpc
import pyarrow as pa
import pytest
from google.cloud.bigquery_storage_v1 import BigQueryReadClient, types
from google.cloud.bigquery_storage_v1.services.big_query_read.transports.grpc import BigQueryReadGrpcTransport

from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from tests.bigquery.fixtures import bigquery, bigquery_tables
from tests.bigquery.proxy import BehavingBigQuery

__all__ = ["bigquery", "bigquery_tables"]
PROJECT = "demo-project"


@pytest.fixture
def source(bigquery: BehavingBigQuery) -> Iterator[BigQuerySource]:
    made = BigQuerySource(BigQueryOptions(PROJECT, "US", ""), endpoints=bigquery.endpoints, timeout_s=30.0)
    yield made
    made.close()


@pytest.fixture
def dataset(worker_id: str) -> str:
    """A dataset name of this test process's own."""
    return f"behaving_{worker_id}"


class Sessions:
    """Read sessions through Google's own client, which repeats no call by itself here."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.client = BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))

    def open(
        self, table: str, streams: int = 1, *, at: datetime | None = None, timeout_s: float = 30, **options: Any
    ) -> types.ReadSession:
        """A session over `table`, a `dataset.table`, with TableReadOptions."""
        dataset, name = table.split(".")
        session = types.ReadSession(
            table=f"projects/{PROJECT}/datasets/{dataset}/tables/{name}",
            data_format=types.DataFormat.ARROW,
            read_options=types.ReadSession.TableReadOptions(**options),
        )
        if at is not None:
            session.table_modifiers = types.ReadSession.TableModifiers(snapshot_time=at)
        return self.client.create_read_session(
            parent=f"projects/{PROJECT}",
            read_session=session,
            max_stream_count=streams,
            retry=None,
            timeout=timeout_s,
        )

    def rows(self, session: types.ReadSession) -> list[dict[str, Any]]:
        """The rows of all its streams, one stream after the other."""
        schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
        batches = [
            pa.ipc.read_record_batch(pa.py_buffer(message.arrow_record_batch.serialized_record_batch), schema)
            for stream in session.streams
            for message in self.client.read_rows(stream.name)
        ]
        return [row for batch in batches for row in batch.to_pylist()]


@pytest.fixture
def sessions(bigquery: BehavingBigQuery) -> Iterator[Sessions]:
    with grpc.insecure_channel(bigquery.endpoints.storage) as channel:
        yield Sessions(channel)
