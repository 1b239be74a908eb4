"""Who owns a run keeps its lease, and stops by itself when it no longer may go on."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection

from connectors.errors import Stopped
from runs import services

log = logging.getLogger(__name__)

FLAGS_EVERY_S = 1.0
CLOCK_EVERY_S = 0.25
EXIT_AFTER_S = 5.0
EXIT_CODE = 70

REASONS = {
    "cancelled": "The run was cancelled.",
    "time_limit": "The run reached its time limit.",
    "drain": "The worker is shutting down.",
    "lease_lost": "This worker no longer owns the run.",
}


class Lease:
    """A StopSignal for the engine, fed by the keeper's threads.

    The database's clock grants the lease; a monotonic clock that was started before each renewal was
    sent limits it here, so a paused process finds out that it is too late before it writes. Who is given
    `grace_s` is not stopped at once when the worker shuts down: `is_winding_up` asks it to come to an end.
    """

    def __init__(
        self,
        claimed: services.Claim | services.PartClaim,
        *,
        granted: float,
        time_limit: timedelta,
        process: str,
        grace_s: float = 0.0,
    ) -> None:
        self.claim = claimed
        self.process = process
        self.reason = ""
        self._valid_until = granted + settings.LEASE_TTL.total_seconds()
        self._deadline = granted + time_limit.total_seconds()
        self._exit_after_s = EXIT_AFTER_S
        self._stopped_at: float | None = None
        self._grace_s = grace_s
        self._winds_up_until: float | None = None
        self._at_rest = False
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    # The engine's side: connectors.base.StopSignal

    def check(self) -> None:
        self.check_ownership()
        if self.reason:
            raise Stopped(REASONS[self.reason], code=self.reason)

    def on_stop(self, callback: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._callbacks.append(callback)
            late = bool(self.reason)
        if late:
            self._break([callback])
        return lambda: self._forget(callback)

    # The executor's side

    def is_winding_up(self) -> bool:
        return self._winds_up_until is not None

    def check_ownership(self) -> None:
        """Raise Stopped only if the run may belong to somebody else by now."""
        if time.monotonic() > self._valid_until:
            self.stop("lease_lost")
        if self.reason == "lease_lost":
            raise Stopped(REASONS[self.reason], code=self.reason)

    @contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """What nothing can break, but ends by itself in `seconds`, does not cost the process its life.

        What comes after it has the usual time again, however long ago the run was told to stop.
        """
        self._exit_after_s = seconds + EXIT_AFTER_S
        try:
            yield
        finally:
            if self._stopped_at is not None:
                self._stopped_at = time.monotonic()
            self._exit_after_s = EXIT_AFTER_S

    def rest(self) -> None:
        """The attempt is over: nothing is left to break, and its end may be written down in peace."""
        self._at_rest = True

    # The keeper's side

    def renewed(self, granted: float) -> None:
        self._valid_until = granted + settings.LEASE_TTL.total_seconds()

    def look_at_the_clock(self) -> None:
        now = time.monotonic()
        if now > self._valid_until:
            self.stop("lease_lost")
        elif now > self._deadline:
            self.stop("time_limit")
        elif self._winds_up_until is not None and now > self._winds_up_until:
            self.stop("drain")

    def obey(self, answer: services.Renewal) -> None:
        if not answer.owned:
            self.stop("lease_lost")
        elif answer.cancel_requested:
            self.stop("cancelled")
        elif answer.draining and self._grace_s:
            self._winds_up_until = self._winds_up_until or time.monotonic() + self._grace_s
        elif answer.draining:
            self.stop("drain")

    def stop(self, reason: str) -> None:
        """Stop for the first reason given; a lost lease outranks all others."""
        with self._lock:
            if self._at_rest or self.reason == reason or (self.reason and reason != "lease_lost"):
                return
            self.reason = reason
            self._stopped_at = self._stopped_at or time.monotonic()
            callbacks = list(self._callbacks)
        if callbacks:
            # A callback that hangs must not keep the keeper from ending this process.
            threading.Thread(target=self._break, args=(callbacks,), name="lease-stop", daemon=True).start()

    @property
    def is_stuck(self) -> bool:
        """Still held although everything that blocks was broken a while ago."""
        if self._stopped_at is None or self._at_rest:
            return False
        return time.monotonic() > self._stopped_at + self._exit_after_s

    def _break(self, callbacks: list[Callable[[], None]]) -> None:
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("Could not break a wait of run %s", self.claim.run)

    def _forget(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)


class Keeper:
    """Two threads a process, for the lease that is held now.

    One talks to the database: renews, reads cancel and drain flags. The other only looks at the clock,
    for a database that does not answer must not keep anybody from noticing that time is up.
    """

    def __init__(self) -> None:
        self._held: Lease | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._keep, name="lease-keeper", daemon=True).start()
        threading.Thread(target=self._watch, name="lease-clock", daemon=True).start()

    def hold(self, lease: Lease) -> None:
        with self._changed:
            self._held = lease
            self._changed.notify_all()

    def release(self, lease: Lease) -> None:
        with self._changed:
            if self._held is lease:
                self._held = None
                self._changed.notify_all()

    def _next(self, known: Lease | None, every: float) -> Lease:
        """The lease that is held: at once if it is another than `known`, else after `every` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._held not in (None, known), timeout=every if self._held else None)
            self._changed.wait_for(lambda: self._held is not None)
            return self._held  # type: ignore[return-value]

    def _keep(self) -> None:
        every = settings.HEARTBEAT.total_seconds()
        lease: Lease | None = None
        renew_at = 0.0
        while True:
            held = self._next(lease, min(FLAGS_EVERY_S, every))
            if held is not lease:
                lease, renew_at = held, time.monotonic() + every
                continue
            asked = time.monotonic()
            if self._ask(lease, renew=asked >= renew_at) and asked >= renew_at:
                renew_at = asked + every

    def _ask(self, lease: Lease, *, renew: bool) -> bool:
        """Renew the lease, or only read what its owner is asked to do; says whether the database answered."""
        asked = time.monotonic()
        ask = lease.claim.renew if renew else lease.claim.read_flags
        try:
            answer = ask(process=lease.process)
        except DatabaseError as error:
            log.warning("The control database does not answer the heartbeat: %s", type(error).__name__)
            connection.close()
            return False
        except Exception:
            # The thread must outlive it: without a keeper every later run would lose its lease.
            log.exception("The heartbeat of run %s failed", lease.claim.run)
            return False
        if renew and answer.owned:
            lease.renewed(asked)
        if self._held is lease:
            lease.obey(answer)
        return True

    def _watch(self) -> None:
        lease: Lease | None = None
        while True:
            lease = self._next(lease, CLOCK_EVERY_S)
            lease.look_at_the_clock()
            if lease.is_stuck and self._held is lease:
                log.error("Run %s did not stop in time: this process ends itself.", lease.claim.run)
                os._exit(EXIT_CODE)


_keeper: Keeper | None = None


def keeper() -> Keeper:
    """This process's keeper; worker children execute one run at a time."""
    global _keeper
    if _keeper is None:
        _keeper = Keeper()
    return _keeper
