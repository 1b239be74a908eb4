"""Calls a worker to judge and to send. A lost bell costs seconds: beat rings again for whatever is left."""

from __future__ import annotations

import logging
import threading
import time

from celery import current_app
from django.db import connection

from pipelines import broker
from runs import doorbell

log = logging.getLogger(__name__)

TASK = "runs.alerts"
LOOK_EVERY_S = 2.0
# How often somebody looks at the clock for what is late or stale.
WATCH_EVERY_S = 30.0


def ring() -> None:
    """Say that there is something to judge or to send, from a thread of its own."""
    global _ringer
    with _lock:
        if _ringer is None:
            _ringer = doorbell.Ringer(lambda _times: _send(watch=False))
    _ringer.ring(1)


def _ring_to_watch() -> None:
    global _watch_ringer
    with _lock:
        if _watch_ringer is None:
            _watch_ringer = doorbell.Ringer(lambda _times: _send(watch=True))
    _watch_ringer.ring(1)


def _send(*, watch: bool) -> bool:
    try:
        current_app.send_task(
            TASK,
            kwargs={"watch": watch},
            queue=doorbell.CONTROL_QUEUE,
            retry=False,
            ignore_result=True,
            expires=WATCH_EVERY_S,
            confirm_timeout=broker.CONFIRM_S,
        )
    except broker.failures() as error:
        log.warning("The broker does not answer, alerts wait: %s", type(error).__name__)
        return False
    return True


_ringer: doorbell.Ringer | None = None
_watch_ringer: doorbell.Ringer | None = None
_lock = threading.Lock()

# Whether there is anything to judge or to send now; and whether any rule or alert needs a look at the clock.
_ANYTHING = """
SELECT EXISTS (SELECT FROM runs_alertevent)
    OR EXISTS (SELECT FROM runs_alertdelivery WHERE state IN ('waiting', 'sending') AND due <= clock_timestamp()
               AND (lease_until IS NULL OR lease_until < clock_timestamp())),
       EXISTS (SELECT FROM pipelines_alertrule WHERE enabled AND kinds && '{late,stale}'::varchar[])
    OR EXISTS (SELECT FROM runs_alert WHERE closed_at IS NULL)
"""


class Watchman:
    """Beat's part in alerts: it only looks whether there is something to do, in one query every other second."""

    def __init__(self) -> None:
        self._looked_at = self._watched_at = float("-inf")

    def look(self, now: float | None = None) -> None:
        now = time.monotonic() if now is None else now
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        with connection.cursor() as cursor:
            cursor.execute(_ANYTHING)
            waits, lasts = cursor.fetchone()
        if lasts and now - self._watched_at >= WATCH_EVERY_S:
            self._watched_at = now
            _ring_to_watch()
        elif waits:
            ring()
