"""The messages of a read stream, taken apart where they lie.

Google's own class parses a message into a copy and hands its rows out as another: two more times the
bytes of the whole table, in memory that is new each time.
Format: protocol buffers' encoding, https://protobuf.dev/programming-guides/encoding/, and the fields
of `google.cloud.bigquery.storage.v1.ReadRowsResponse`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_STATS, _RECORD_BATCH, _SCHEMA = 2, 4, 8  # of ReadRowsResponse
_SERIALIZED = 1  # of ArrowRecordBatch and of ArrowSchema
_PROGRESS, _AT_RESPONSE_END = 2, 2  # of StreamStats and of its Progress
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_EMPTY = memoryview(b"")


@dataclass(frozen=True)
class RowsMessage:
    """Arrow IPC messages, as views of what was received; empty where the message has none.

    `progress` is the share of the stream's rows that have been sent with this message; None if it is not told.
    """

    schema: memoryview
    batch: memoryview
    progress: float | None = None


def parse(data: bytes) -> RowsMessage:
    """What a message holds; raises ValueError if it is none."""
    schema = batch = _EMPTY
    progress: float | None = None
    for number, value in _fields(memoryview(data)):
        if number == _SCHEMA:
            schema = _serialized(value)
        elif number == _RECORD_BATCH:
            batch = _serialized(value)
        elif number == _STATS:
            progress = _progress(value)
    return RowsMessage(schema, batch, progress)


def _serialized(message: memoryview) -> memoryview:
    return next((value for number, value in _fields(message) if number == _SERIALIZED), _EMPTY)


def _progress(stats: memoryview) -> float | None:
    """A zero is not sent, and a server that does not count sends none."""
    for number, progress in _fields(stats):
        if number == _PROGRESS:
            for inner, value in _fields(progress):
                if inner == _AT_RESPONSE_END and len(value) == 8:
                    return float(struct.unpack("<d", value)[0])
    return None


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The numbers and bytes of the fields; small whole numbers are passed over."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
            continue
        if kind == _LENGTH:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(data):
            raise ValueError("a field longer than its message")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits per byte, the low ones first, and where it ends."""
    number = shift = 0
    while shift < 70 and at < len(data):
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
    raise ValueError("a number without an end")
