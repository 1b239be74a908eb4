"""Beat's scheduler is our ticker: due times live in our own tables, not in beat's PeriodicTask."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from celery.beat import Scheduler
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connection

from runs.alerts.bell import Watchman
from runs.looking_bell import Lookout
from runs.lookout import SourceLookout

log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_SLEEP_S = 1.0
# Whoever else holds a pipeline that is due is not asked more often than this.
SHORTEST_SLEEP_S = 0.02
LONGEST_BACKOFF_S = 15.0
HOUSEKEEPING_EVERY_S = 60.0
# A batch of housekeeping takes less; it waits for a moment in which no tick waits for it, but not for ever.
HOUSEKEEPING_TAKES_S = 0.2
HOUSEKEEPING_WAITS_S = 600.0


class Ticker(Scheduler):
    """Ticks every second, and at once when a schedule is due; outages of database and broker are waited out."""

    max_interval = LONGEST_SLEEP_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._name = f"beat@{socket.gethostname()}:{os.getpid()}"
        self._failures = 0
        self._is_in_round = False
        self._seen_at = self._trimmed_at = float("-inf")
        self._kept_at = time.monotonic()
        self._watchman = Watchman()
        self._lookout = Lookout()
        self._source_lookout = SourceLookout()
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        from runs import presence

        presence.keep_connections()

    @property
    def info(self) -> str:
        return "    . ticker -> schedules of the control database"

    def tick(self, *_: Any, **__: Any) -> float:
        """One round: ticks, lost leases, bells, housekeeping. Returns the seconds until the next one."""
        from runs import ticker

        self._is_in_round = True
        try:
            began = time.monotonic()
            self._round(began)
            sleep_s = ticker.seconds_to_next(LONGEST_SLEEP_S)
            if self._has_house_to_keep(began, sleep_s):
                self._keep_house(began)
                sleep_s = min(sleep_s, ticker.seconds_to_next(LONGEST_SLEEP_S))
            sleep_s = max(SHORTEST_SLEEP_S, sleep_s)
        except DatabaseError as error:
            log.warning("The control database does not answer: %s", error)
        except Exception:
            # Beat would end, and with it every schedule.
            log.exception("A round of the ticker failed")
        else:
            self._failures = 0
            return sleep_s
        finally:
            self._is_in_round = False
        connection.close()
        self._failures += 1
        return min(LONGEST_BACKOFF_S, 0.5 * 2 ** min(self._failures, 10))

    def _round(self, began: float) -> None:
        from runs import doorbell, services, ticker
        from runs.models import Process

        queued = (self._do(ticker.tick) or 0) + (self._do(services.settle) or 0)
        self._do(services.sweep)
        if bells := self._do(partial(ticker.bells_due, queued)):
            doorbell.ring(bells)
        self._do(self._watchman.look)
        self._do(self._lookout.look)
        self._do(self._source_lookout.look)
        if began - self._seen_at > settings.HEARTBEAT.total_seconds():
            services.seen(self._name, Process.Kind.BEAT)
            self._seen_at = began
            self._do(services.advance_backfills)
            self._do(services.release_affordable)

    def _do(self, duty: Callable[[], T]) -> T | None:
        """One duty of a round. A defect in it, or in what it met, must not keep the others from being done."""
        try:
            return duty()
        except Exception as error:
            if _is_away(error):
                raise
            log.exception("A duty of the ticker failed")
            return None

    def _has_house_to_keep(self, now: float, spare_s: float) -> bool:
        if now - self._trimmed_at <= HOUSEKEEPING_EVERY_S:
            return False
        return spare_s > HOUSEKEEPING_TAKES_S or now - self._kept_at > HOUSEKEEPING_WAITS_S

    def _keep_house(self, now: float) -> None:
        from runs import services

        self._kept_at = now
        services.forget_processes()
        services.discard_expired()
        services.forget_deliveries()
        # Answers of look-ups that came when nobody waited any more.
        self.app.backend.cleanup()
        # More than one batch is old: go on in the next round.
        if not services.trim():
            self._trimmed_at = now

    def close(self) -> None:
        """Sign off. Beat calls this on its way out, and before that from its signal handler, wherever that comes."""
        from runs import services

        if self._is_in_round:
            # In the middle of a query: another one on the same connection would wait for it for ever.
            return
        try:
            connection.close()  # whatever the signal broke off
            services.end_process(self._name)
        except DatabaseError as error:
            log.warning("This beat could not sign off: %s", error)
        super().close()


def _is_away(error: Exception) -> bool:
    """Whether the control database did not answer: what it answers has a code."""
    return isinstance(error, (OperationalError, InterfaceError)) and not getattr(error.__cause__, "pgcode", None)
