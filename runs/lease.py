"""Who owns a run keeps its lease, and stops by itself when it no longer may go on."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection

from connectors.errors import Stopped
from runs import services

log = logging.getLogger(__name__)

FLAGS_EVERY_S = 1.0
EXIT_AFTER_S = 5.0

REASONS = {
    "cancelled": "The run was cancelled.",
    "time_limit": "The run reached its time limit.",
    "drain": "The worker is shutting down.",
    "lease_lost": "This worker no longer owns the run.",
}


class Lease:
    """A StopSignal for the engine, fed by the keeper thread.

    The database's clock grants the lease; a monotonic clock that was started before each renewal was
    sent limits it here, so a paused process finds out that it is too late before it writes.
    """

    def __init__(self, claimed: services.Claim, *, granted: float, time_limit: timedelta, process: str) -> None:
        self.claim = claimed
        self.process = process
        self._valid_until = granted + settings.LEASE_TTL.total_seconds()
        self._deadline = granted + time_limit.total_seconds()
        self._reason = ""
        self._stopped_at: float | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    # The engine's side: connectors.base.StopSignal

    def check(self) -> None:
        if not self._reason and time.monotonic() > self._valid_until:
            self.stop("lease_lost")
        if self._reason:
            raise Stopped(REASONS[self._reason], code=self._reason)

    def on_stop(self, callback: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._callbacks.append(callback)
            late = bool(self._reason)
        if late:
            self._break(callback)
        return lambda: self._forget(callback)

    # The keeper's side

    def renewed(self, granted: float) -> None:
        self._valid_until = granted + settings.LEASE_TTL.total_seconds()

    def look_at_the_clock(self) -> None:
        now = time.monotonic()
        if now > self._valid_until:
            self.stop("lease_lost")
        elif now > self._deadline:
            self.stop("time_limit")

    def obey(self, answer: services.Renewal) -> None:
        if not answer.owned:
            self.stop("lease_lost")
        elif answer.cancel_requested:
            self.stop("cancelled")
        elif answer.draining:
            self.stop("drain")

    def stop(self, reason: str) -> None:
        """Stop for the first reason given; a lost lease outranks all others."""
        with self._lock:
            if self._reason and reason != "lease_lost":
                return
            self._reason = reason
            self._stopped_at = self._stopped_at or time.monotonic()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            self._break(callback)

    @property
    def stuck(self) -> bool:
        """Still held although everything that blocks was broken a while ago."""
        return self._stopped_at is not None and time.monotonic() > self._stopped_at + EXIT_AFTER_S

    def _break(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            log.exception("Could not break a wait of run %s", self.claim.run)

    def _forget(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)


class Keeper:
    """One thread a process: renews the lease that is held now, and reads cancel and drain flags."""

    def __init__(self) -> None:
        self._held: Lease | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="lease-keeper", daemon=True).start()

    def hold(self, lease: Lease) -> None:
        with self._changed:
            self._held = lease
            self._changed.notify()

    def release(self, lease: Lease) -> None:
        with self._changed:
            if self._held is lease:
                self._held = None
                self._changed.notify()

    def _run(self) -> None:
        renew_at = 0.0
        current: Lease | None = None
        every = settings.HEARTBEAT.total_seconds()
        while True:
            with self._changed:
                if self._held is None:
                    current = None
                    self._changed.wait()
                else:
                    self._changed.wait(timeout=min(FLAGS_EVERY_S, every))
                lease = self._held
            if lease is None:
                continue
            if lease is not current:
                current, renew_at = lease, time.monotonic() + every
                continue
            renew_at = self._keep(lease, renew_at, every)
            if lease.stuck and self._held is lease:
                log.error("Run %s did not stop in %s s: this process ends itself.", lease.claim.run, EXIT_AFTER_S)
                os._exit(70)

    def _keep(self, lease: Lease, renew_at: float, every: float) -> float:
        asked = time.monotonic()
        try:
            if asked >= renew_at:
                answer = services.renew(lease.claim.run, lease.claim.token, process=lease.process)
                if answer.owned:
                    lease.renewed(asked)
                renew_at = asked + every
            else:
                answer = services.read_flags(lease.claim.run, lease.claim.token, process=lease.process)
            if self._held is lease:
                lease.obey(answer)
        except DatabaseError as error:
            log.warning("The control database does not answer the heartbeat: %s", type(error).__name__)
            connection.close()
        lease.look_at_the_clock()
        return renew_at


_keeper: Keeper | None = None


def keeper() -> Keeper:
    """This process's keeper; worker children execute one run at a time."""
    global _keeper
    if _keeper is None:
        _keeper = Keeper()
    return _keeper
