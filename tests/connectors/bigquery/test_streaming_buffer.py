"""A table's record with a streaming buffer, recorded: the emulator has none."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from connectors.bigquery.client import Endpoints
from connectors.watching import SourceState
from tests.connectors.bigquery.test_streams import table

BUFFER = {"estimatedRows": "5", "estimatedBytes": "400", "oldestEntryTime": "1700000001000"}
CHANGED = {"lastModifiedTime": "1700000000500", "numBytes": "64"}


@pytest.fixture
def source(connect, rest):
    return connect(Endpoints(rest.url), project="acme")


def test_a_buffer_counts_as_streaming_and_what_is_in_it_as_a_change(source, rest):
    rest.answer(
        "GET",
        "/tables/orders",
        table(**CHANGED),
        table(**CHANGED, streamingBuffer=BUFFER),
        table(**CHANGED, streamingBuffer=BUFFER | {"estimatedRows": "6"}),
        table(**CHANGED, streamingBuffer={}),  # as it is while nothing is known of what is in it
    )
    states = [source.look("sales.orders") for _ in range(4)]
    none, five, six, _ = states
    assert [state.rows for state in states] == [4, 4, 4, 4]
    # Its rows are in none of the other figures: only the buffer itself tells of them.
    assert len({state.record for state in states}) == 1
    assert not none.streaming
    assert len({state.fingerprint for state in (none, five, six)}) == 3
    told = [bool(SourceState.of([("sales.orders", state)]).streaming) for state in states]
    assert told == [False, True, True, True]
    for _, path, _, _ in rest.requests:
        (fields,) = parse_qs(urlsplit(path).query)["fields"]
        assert "streamingBuffer" in fields.split(",")
