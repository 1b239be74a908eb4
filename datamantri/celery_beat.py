"""Beat's scheduler is our ticker: due times live in our own tables, not in beat's PeriodicTask."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import Any

from celery.beat import Scheduler
from django.db import Error as DatabaseError
from django.db import connection

log = logging.getLogger(__name__)

LONGEST_SLEEP_S = 1.0
LONGEST_BACKOFF_S = 15.0
HOUSEKEEPING_EVERY_S = 60.0


class Ticker(Scheduler):
    """Ticks every second, and at once when a schedule is due; outages of database and broker are waited out."""

    max_interval = LONGEST_SLEEP_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._name = f"beat@{socket.gethostname()}:{os.getpid()}"
        self._failures = 0
        self._seen_at = self._trimmed_at = float("-inf")
        self._bell = threading.Event()
        self._bells = 0
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        from runs import presence

        presence.keep_connections()
        threading.Thread(target=self._ring, name="bell-ringer", daemon=True).start()

    @property
    def info(self) -> str:
        return "    . ticker -> schedules of the control database"

    def tick(self, *_: Any, **__: Any) -> float:
        """One round: ticks, lost leases, bells, housekeeping. Returns the seconds until the next one."""
        from runs import ticker

        began = time.monotonic()
        try:
            self._round(began)
            sleep_s = ticker.seconds_to_next(LONGEST_SLEEP_S)
        except DatabaseError as error:
            self._failures += 1
            sleep_s = min(LONGEST_BACKOFF_S, 0.5 * 2**self._failures)
            log.warning("The control database does not answer (%s); trying again in %.1f s.", error, sleep_s)
            connection.close()
            return sleep_s
        self._failures = 0
        return sleep_s

    def _round(self, began: float) -> None:
        from runs import services, ticker
        from runs.models import Process

        queued = ticker.tick()
        services.sweep()
        self._bells = ticker.bells_due(queued)
        if self._bells:
            self._bell.set()
        if began - self._seen_at > 5:
            services.seen(self._name, Process.Kind.BEAT)
            self._seen_at = began
        if began - self._trimmed_at > HOUSEKEEPING_EVERY_S:
            services.trim()
            services.forget_processes()
            self._trimmed_at = began

    def _ring(self) -> None:
        """Bells ring from a thread of their own: a broker that is away must not hold up the ticks."""
        from runs import doorbell

        while True:
            self._bell.wait()
            self._bell.clear()
            doorbell.ring(self._bells)

    def close(self) -> None:
        from runs import services

        try:
            services.end_process(self._name)
        except DatabaseError as error:
            log.warning("This beat could not sign off: %s", error)
        super().close()
