"""The source's server dies in the middle of a read, and comes back."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from connectors.base import NeverStop
from connectors.bigquery.client import Endpoints
from connectors.errors import TransientError
from connectors.reading import ReadRequest
from datamantri.embedded.stack import EmbeddedStack
from tests.connectors.bigquery.conftest import PATIENCE_S, read_all
from tests.emulator_tables import EmulatorTables

ROWS = 3_000_000
REQUEST = ReadRequest(table="outage.big")


@pytest.fixture
def own_emulator(tmp_path):
    stack = EmbeddedStack(tmp_path, emulator=True, postgres=False, valkey=False, durable=False)
    stack.start()
    yield stack.emulator
    stack.stop()


def test_a_killed_emulator_is_a_transient_error_and_the_same_source_reads_again_later(own_emulator, connect):
    endpoints = Endpoints(own_emulator.rest_endpoint, own_emulator.storage_endpoint)
    tables = EmulatorTables(endpoints.rest)
    tables.make("outage.big", [SchemaField("id", "INT64")], pa.table({"id": range(ROWS)}))
    source = connect(endpoints)
    plan = source.plan(REQUEST, max_parts=2)

    reading = source.read(plan.parts[0], stop=NeverStop())
    next(reading)
    own_emulator.kill()
    with pytest.raises(TransientError) as failure:
        list(reading)
    assert failure.value.code in ("connection_lost", "unreachable", "bigquery_unavailable")
    with pytest.raises(TransientError) as failure:
        source.plan(REQUEST)
    assert failure.value.code in ("connection_lost", "unreachable")

    own_emulator.start()
    with pytest.raises(TransientError) as failure:
        read_until_it_answers(source, plan)
    assert failure.value.code == "session_lost"
    again = source.plan(REQUEST, max_parts=2)
    assert sum(batch.num_rows for part in again.parts for batch in source.read(part, stop=NeverStop())) == ROWS
    tables.close()


def read_until_it_answers(source, plan):
    """A channel looks again for its server after a pause of at most a second."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            return read_all(source, plan.parts)
        except TransientError as error:
            if error.code != "unreachable":
                raise
            time.sleep(0.1)
    return None
