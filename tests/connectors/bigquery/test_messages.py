"""A read stream's messages are taken apart as Google's own classes would."""

from __future__ import annotations

import pytest
from google.cloud.bigquery_storage_v1 import types

from connectors.bigquery import messages


def serialized(**fields: object) -> bytes:
    return types.ReadRowsResponse.serialize(types.ReadRowsResponse(**fields))


def test_rows_and_schema_are_found_among_all_other_fields():
    data = serialized(
        row_count=2**40,
        stats=types.StreamStats(progress=types.StreamStats.Progress(at_response_start=0.25, at_response_end=0.5)),
        throttle_state=types.ThrottleState(throttle_percent=50),
        arrow_schema=types.ArrowSchema(serialized_schema=b"schema"),
        arrow_record_batch=types.ArrowRecordBatch(serialized_record_batch=b"rows" * 100_000, row_count=7),
        uncompressed_byte_size=12345,
    )
    found = messages.parse(data)
    assert bytes(found.schema) == b"schema"
    assert bytes(found.batch) == b"rows" * 100_000
    assert found.progress == 0.5


def test_a_message_without_rows_is_empty():
    found = messages.parse(serialized(row_count=0))
    assert (bytes(found.schema), bytes(found.batch), found.progress) == (b"", b"", None)


def test_fields_of_a_newer_server_are_passed_over():
    newer = b"\x9a\x06\x03new" + b"\xa5\x06\x01\x02\x03\x04" + b"\xa1\x06\x01\x02\x03\x04\x05\x06\x07\x08"
    data = newer + serialized(arrow_record_batch=types.ArrowRecordBatch(serialized_record_batch=b"rows")) + newer
    assert bytes(messages.parse(data).batch) == b"rows"


@pytest.mark.parametrize("end", range(1, 20))
def test_a_cut_message_is_refused(end):
    data = serialized(arrow_record_batch=types.ArrowRecordBatch(serialized_record_batch=b"r" * 300))
    with pytest.raises(ValueError, match=r"longer than its message|without an end"):
        messages.parse(data[:end])


def test_what_is_no_message_at_all_is_refused():
    with pytest.raises(ValueError, match="wire type 7"):
        messages.parse(b"\x0f")
