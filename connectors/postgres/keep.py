"""Idle sessions kept for the next run of this process: making one costs more than a small run.

A backend starts cold and the password is hashed thousands of times on both sides: about 20 ms for
what takes 5 ms on a session that is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg2
from psycopg2 import extensions

from connectors.postgres.client import Session
from connectors.postgres.options import PostgresOptions

IDLE_S = 20.0
# Backends gather a cache of every table they met: now and then they start afresh.
LIFE_S = 600.0
PER_PROCESS = 4


class Keep:
    """Sessions by the options they were made of; each is closed when nobody wants it for `idle_s`."""

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._idle: list[tuple[Session, threading.Timer]] = []

    def take(self, options: PostgresOptions, make: Callable[[], Session]) -> Session:
        """A session that has just answered, or one that `make` makes."""
        while (session := self._pop(options)) is not None:
            try:
                session.execute("SELECT")
            except psycopg2.Error:
                session.close()  # the server restarted, or a firewall forgot the connection
            else:
                return session
        return make()

    def give_back(self, session: Session) -> None:
        """Keep a session that is in no transaction and that no late cancel can hit; close any other."""
        status = session.connection.info.transaction_status
        idle = not session.connection.closed and status == extensions.TRANSACTION_STATUS_IDLE
        usable = idle and not session.was_cancelled and session.is_shared
        with self._lock:
            if usable and len(self._idle) < PER_PROCESS and time.monotonic() - session.made_at < LIFE_S:
                timer = threading.Timer(self._idle_s, self._close, (session,))
                timer.daemon = True
                timer.start()
                self._idle.append((session, timer))
                return
        session.close()

    def clear(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for session, timer in idle:
            timer.cancel()
            session.close()

    def _pop(self, options: PostgresOptions) -> Session | None:
        with self._lock:
            for entry in self._idle:
                session, timer = entry
                if session.options == options:
                    self._idle.remove(entry)
                    timer.cancel()
                    return session
        return None

    def _close(self, session: Session) -> None:
        """The timer's end of the race with `take`: only who removes the entry has the session."""
        with self._lock:
            found = next((entry for entry in self._idle if entry[0] is session), None)
            if found is not None:
                self._idle.remove(found)
        if found is not None:
            session.close()


sessions = Keep()
