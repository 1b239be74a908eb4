"""A process that is started once it is needed: until then it costs nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable

EVERY_S = 3.0
# More than a look may take.
JOIN_S = 10.0


class OnDemand:
    """Asks `is_needed` now and then, and calls `start` the first time that it is."""

    def __init__(self, is_needed: Callable[[], bool], start: Callable[[], object], *, every_s: float = EVERY_S) -> None:
        self._is_needed = is_needed
        self._start = start
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="on-demand", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Nothing is started from now on."""
        self._ended.set()
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        while not self._ended.is_set():
            if self._is_needed() and not self._ended.is_set():
                self._start()
                return
            self._ended.wait(self._every_s)
