"""Django's PostgreSQL backend, but a connection that a request closes is kept for the next one.

Under ASGI each request has a thread of its own, so Django's persistent connections would pile up in threads that are
gone. And a new connection costs more than most requests: its password is hashed thousands of times on both sides.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Mapping
from typing import Any

from django.db.backends.postgresql import base
from psycopg2 import Error, extensions

KEPT = 8
IDLE_S = 60.0
# Backends gather a cache of every table they met: now and then they start afresh.
LIFE_S = 1800.0
Place = tuple[Any, ...]


def place_of(conn_params: Mapping[str, Any]) -> Place:
    """Which database connections of these parameters lead to, and as whom."""
    return tuple(conn_params.get(name) for name in ("host", "port", "dbname", "user"))


class Connection(extensions.connection):
    """A connection that knows its age, and where it leads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.place: Place = ()
        self.made_at = self.idle_since = time.monotonic()


class Idle:
    """Connections that nobody uses, the one used last on top."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Connection] = []

    def take(self, place: Place) -> Connection | None:
        """A connection to this place whose server has not hung up, or None."""
        while True:
            with self._lock:
                at = next((i for i in reversed(range(len(self._kept))) if self._kept[i].place == place), None)
                if at is None:
                    return None
                connection = self._kept.pop(at)
            if time.monotonic() - connection.idle_since < IDLE_S and _is_silent(connection):
                return connection
            _close(connection)

    def give_back(self, connection: Connection) -> None:
        """Keep a connection that is in no transaction; close any other, and those that nobody wanted for long."""
        now = time.monotonic()
        idle = not connection.closed and connection.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE
        leaving = []
        with self._lock:
            while self._kept and now - self._kept[0].idle_since > IDLE_S:
                leaving.append(self._kept.pop(0))
            if idle and len(self._kept) < KEPT and now - connection.made_at < LIFE_S:
                connection.idle_since = now
                self._kept.append(connection)
            else:
                leaving.append(connection)
        for each in leaving:
            _close(each)

    def clear(self) -> None:
        with self._lock:
            leaving, self._kept = self._kept, []
        for each in leaving:
            _close(each)


def _is_silent(connection: Connection) -> bool:
    """Whether the server has said nothing since: what it says unasked is that it ends the session."""
    readable, _, _ = select.select([connection.fileno()], [], [], 0)
    return not connection.closed and not readable


def _close(connection: Connection) -> None:
    try:
        connection.close()
    except Error:
        return  # it is lost, which is as good


idle = Idle()


class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self) -> dict[str, Any]:
        return {**super().get_connection_params(), "connection_factory": Connection}

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        place = place_of(conn_params)
        connection = idle.take(place)
        if connection is None:
            made = super().get_new_connection(conn_params)
            made.place = place
            return made
        self.isolation_level = base.IsolationLevel.READ_COMMITTED
        return connection

    def _close(self) -> None:
        if self.connection is None or self.errors_occurred:
            super()._close()
        else:
            idle.give_back(self.connection)
