"""Calls a worker to look at source tables. A lost call costs seconds: beat asks again."""

from __future__ import annotations

import logging
import time

from celery import current_app

from pipelines import broker
from runs import doorbell

log = logging.getLogger(__name__)

TASK = "runs.look_at_sources"
# Beat asks so often whether a table is due; a call that nobody took up in time is made again.
ASK_EVERY_S = 5.0
EXPIRES_S = 30.0


class SourceLookout:
    """Beat's part: it asks whether a table is due, in one query, and looks at none."""

    def __init__(self) -> None:
        self._asked_at = float("-inf")
        self._ringer: doorbell.Ringer | None = None

    def look(self, now: float | None = None) -> None:
        from runs import services

        now = time.monotonic() if now is None else now
        if now - self._asked_at < ASK_EVERY_S:
            return
        self._asked_at = now
        if services.is_look_due():
            self._ringer = self._ringer or doorbell.Ringer(lambda _times: _call_a_worker())
            self._ringer.ring(1)


def _call_a_worker() -> bool:
    try:
        current_app.send_task(
            TASK,
            queue=doorbell.CONTROL_QUEUE,
            retry=False,
            ignore_result=True,
            expires=EXPIRES_S,
            confirm_timeout=broker.CONFIRM_S,
        )
    except broker.failures() as error:
        log.warning("The broker does not answer, sources are looked at later: %s", type(error).__name__)
        return False
    return True
