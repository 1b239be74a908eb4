"""What faults do to sessions and streams."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import grpc
from google.cloud.bigquery_storage_v1 import types
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import RetryInfo

from tests.bigquery.calls import Call
from tests.bigquery.faults import Faults, Pace, Strike, cannot_reset

Code = grpc.StatusCode
Messages = Iterator[types.ReadRowsResponse]
_REFUSALS = {
    "unavailable": (Code.UNAVAILABLE, "The service is currently unavailable."),
    "internal": (Code.INTERNAL, "Received RST_STREAM with error code 2"),
    "deadline": (Code.DEADLINE_EXCEEDED, "Deadline Exceeded"),
    "exhausted": (Code.RESOURCE_EXHAUSTED, "there was an error operating on the stream: Exceeded rate limits"),
}


class StorageStrikes:
    """`reset` breaks the connection that comes from a port, `expire` ends the life of a session."""

    def __init__(self, faults: Faults, expire: Callable[[str], None]) -> None:
        self.reset: Callable[[int], object] = cannot_reset
        self._faults = faults
        self._expire = expire

    @contextmanager
    def on_a_session(self, call: Call, context: grpc.ServicerContext) -> Iterator[None]:
        """Around the opening of a session."""
        strikes, over = self._faults.meet(call), _over(context)
        try:
            for strike in strikes:
                if not strike.fault.answered and strike.is_due():
                    self._strike(strike, context, over)
            yield
            for strike in strikes:
                if strike.fault.answered and strike.is_due():
                    self._strike(strike, context, over)
        finally:
            for strike in strikes:
                strike.end()

    def on_a_stream(self, call: Call, messages: Messages, context: grpc.ServicerContext) -> Messages:
        """The messages of a stream, as far as its faults let them through."""
        strikes, over = self._faults.meet(call), _over(context)
        paces = {strike: Pace(strike.fault.bytes_per_s) for strike in strikes if strike.fault.bytes_per_s}
        rows = count = 0
        try:
            while True:
                for strike in (s for s in strikes if not s.fault.lasts and s.is_due(rows, count)):
                    if strike.fault.kind == "short":
                        return
                    self._strike(strike, context, over)
                message = next(messages, None)
                if message is None:
                    return
                for strike in (s for s in strikes if s.fault.lasts and s.is_due(rows, count)):
                    size = len(message.arrow_record_batch.serialized_record_batch)
                    wait = paces[strike].seconds(size) if strike in paces else strike.fault.seconds
                    if wait:
                        self._faults.wait(wait, over, because=strike)
                rows, count = rows + message.row_count, count + 1
                yield message
        finally:
            for strike in strikes:
                strike.end()

    def _strike(self, strike: Strike, context: grpc.ServicerContext, over: threading.Event) -> None:
        fault = strike.fault
        if fault.kind == "expired":
            # The stream's next look at its session ends it.
            self._expire(strike.target.split("/streams/")[0])
        if fault.kind in ("silence", "slow"):
            self._faults.wait(fault.seconds, over, because=strike)
        if fault.kind in ("reset", "silence"):
            self.reset(int(context.peer().rsplit(":", 1)[1]))
            context.abort(Code.UNAVAILABLE, "the connection was reset")
        if fault.kind in _REFUSALS:
            if fault.kind == "exhausted" and fault.seconds:
                context.set_trailing_metadata(_retry_after(fault.seconds))
            context.abort(*_REFUSALS[fault.kind])


def _over(context: grpc.ServicerContext) -> threading.Event:
    """Is set when the client gives the call up."""
    over = threading.Event()
    context.add_callback(over.set)
    return over


def _retry_after(seconds: float) -> tuple[tuple[str, bytes]]:
    """The metadata in which Google says when to ask again."""
    code, words = _REFUSALS["exhausted"]
    status = status_pb2.Status(code=code.value[0], message=words)
    info = RetryInfo()
    info.retry_delay.FromTimedelta(timedelta(seconds=seconds))
    status.details.add().Pack(info)
    return (("grpc-status-details-bin", status.SerializeToString()),)
