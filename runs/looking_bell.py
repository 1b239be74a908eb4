"""Calls a worker to look at datasets: beat asks its own database only whether a look is due."""

from __future__ import annotations

import logging
import threading
import time

from celery import current_app
from django.db import connection

from pipelines import broker
from runs import doorbell

log = logging.getLogger(__name__)

TASK = "runs.look_at_datasets"
ASK_EVERY_S = 15.0


class Lookout:
    """Beat's: every 15 seconds one small query, and a bell if a look is due. A lost bell costs as long."""

    def __init__(self) -> None:
        self._asked_at = float("-inf")

    def look(self) -> None:
        now = time.monotonic()
        if now - self._asked_at < ASK_EVERY_S:
            return
        self._asked_at = now
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT EXISTS (SELECT FROM pipelines_datasetrule"
                " WHERE (enabled OR asked) AND next_look <= clock_timestamp())"
            )
            (is_due,) = cursor.fetchone()
        if is_due:
            ring()


def ring() -> None:
    """Say that a look is due, from a thread of its own."""
    global _ringer
    with _lock:
        if _ringer is None:
            _ringer = doorbell.Ringer(lambda _times: _send())
    _ringer.ring(1)


def _send() -> bool:
    try:
        current_app.send_task(
            TASK,
            queue=doorbell.CONTROL_QUEUE,
            retry=False,
            ignore_result=True,
            expires=ASK_EVERY_S * 2,
            confirm_timeout=broker.CONFIRM_S,
        )
    except broker.failures() as error:
        log.warning("The broker does not answer, datasets wait: %s", type(error).__name__)
        return False
    return True


_ringer: doorbell.Ringer | None = None
_lock = threading.Lock()
