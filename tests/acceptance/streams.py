"""How fast BigQuery's streams are for a test, and which of them are open."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.bigquery.calls import Call
from tests.bigquery.proxy import BehavingBigQuery
from tests.bigquery.storage_strikes import Messages

_LOOK_EVERY_S = 0.05


class Streams:
    """Each stream of `served` brings `bytes_per_s`: set at any time, it holds for those that are open, too.

    `reading` has the calls that read and that the client has not given up.
    """

    def __init__(self, served: BehavingBigQuery, bytes_per_s: int) -> None:
        self.bytes_per_s = bytes_per_s
        self.reading: set[Any] = set()
        strikes = served.storage.strikes
        self._plain = strikes.on_a_stream
        strikes.on_a_stream = self._paced  # type: ignore[method-assign]

    def _paced(self, call: Call, messages: Messages, context: Any) -> Messages:
        over = threading.Event()

        def end() -> None:
            self.reading.discard(context)
            over.set()

        self.reading.add(context)
        if not context.add_callback(end):
            end()  # it was given up before it was heard of
        for message in self._plain(call, messages, context):
            self._wait(len(message.arrow_record_batch.serialized_record_batch), over)
            yield message

    def _wait(self, size: int, over: threading.Event) -> None:
        began = time.monotonic()
        while (left := began + size / self.bytes_per_s - time.monotonic()) > 0 and not over.is_set():
            over.wait(min(left, _LOOK_EVERY_S))
