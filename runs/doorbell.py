"""Rings for workers. A lost bell costs time, never a run: the ticker rings for what nobody claimed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from celery import current_app

from pipelines import broker

log = logging.getLogger(__name__)

RING = "runs.ring"
QUEUE = "transfers"
# Of what takes seconds and must not wait behind transfers.
CONTROL_QUEUE = "control"
PENDING_LIMIT = 1000


def ring(times: int = 1) -> None:
    """Say that there is work, from a thread of its own: a broker that hangs must hold up neither page nor tick."""
    global _ringer
    if _ringer is None:
        with _lock:
            if _ringer is None:
                _ringer = Ringer()
    _ringer.ring(times)


def ring_now(times: int = 1) -> bool:
    """Say that there is work; returns False when the broker does not answer, after 5 s at most."""
    try:
        for _ in range(times):
            current_app.send_task(RING, queue=QUEUE, retry=False, ignore_result=True, confirm_timeout=broker.CONFIRM_S)
    except broker.failures() as error:
        log.warning("The broker does not answer, the ticker will ring again: %s", type(error).__name__)
        return False
    return True


class Ringer:
    """What is asked for while a bell is on its way is rung together; what fails is the ticker's to ring again."""

    def __init__(self, ring_now: Callable[[int], bool] | None = None) -> None:
        self._ring_now = ring_now
        self._bells = 0
        self._asked = threading.Condition()
        threading.Thread(target=self._run, name="bell-ringer", daemon=True).start()

    def ring(self, times: int) -> None:
        with self._asked:
            self._bells = min(self._bells + times, PENDING_LIMIT)
            self._asked.notify()

    def _run(self) -> None:
        while True:
            with self._asked:
                self._asked.wait_for(lambda: self._bells)
                times, self._bells = self._bells, 0
            try:
                (self._ring_now or ring_now)(times)
            except Exception:
                # Without this thread nobody would ring any more.
                log.exception("The bell could not be rung")


_ringer: Ringer | None = None
_lock = threading.Lock()
