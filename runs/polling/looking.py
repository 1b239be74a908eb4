"""The calls to sources, in a few threads: one client for each connection, nothing of the control database."""

from __future__ import annotations

import logging
import queue
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from connectors import registry
from connectors.base import Source
from connectors.errors import ConnectorError
from connectors.reading import ReadRequest
from connectors.watching import SourceState, TableState
from pipelines.fields import KeyLost
from pipelines.models import Connection

log = logging.getLogger(__name__)

CALL_LIMIT_S = 8.0


@dataclass(frozen=True)
class Task:
    """One look: at the tables `behind`, or with a dry run before that says which those are."""

    key: object
    source: Source
    request: ReadRequest
    behind: tuple[str, ...] | None


@dataclass(frozen=True)
class Seen:
    """What a look came to: a state, or why there is none."""

    key: object
    behind: tuple[str, ...] = ()
    state: SourceState | None = None
    error: ConnectorError | None = None


class Lookers:
    """Threads that look; what they saw waits in `seen`."""

    def __init__(self, threads: int) -> None:
        self.seen: queue.SimpleQueue[Seen] = queue.SimpleQueue()
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._most = threads
        self._threads: list[threading.Thread] = []
        self._asked = 0

    def look(self, task: Task) -> None:
        self._asked += 1
        if len(self._threads) < min(self._most, self._asked):
            thread = threading.Thread(target=self._run, name="looker", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._tasks.put(task)

    def end(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            self.seen.put(look(task))


def look(task: Task) -> Seen:
    try:
        behind = task.source.tables_behind(task.request) if task.behind is None else task.behind
        return Seen(task.key, behind, _state_of(task.source, behind, task.request.table))
    except ConnectorError as error:
        return Seen(task.key, error=error)
    except Exception as error:  # a defect must not end the thread that looks
        log.exception("A source could not be looked at")
        told = f"Something unexpected happened ({type(error).__name__})."
        return Seen(task.key, error=ConnectorError(told, code="internal_error", hint="The poller's log has more."))


# What of tables behind a query or view only means that nothing is told of them: one of them may be for its owner only.
_UNSEEN = frozenset({"watch_unsupported", "permission_denied", "table_name"})


def _state_of(source: Source, tables: tuple[str, ...], own: str) -> SourceState:
    states: list[tuple[str, TableState]] = []
    unseen: list[str] = [] if tables else ["what the query reads"]
    for table in tables:
        try:
            states.append((table, source.look(table)))
        except ConnectorError as error:
            is_own = bool(own) and table.endswith(own)
            if error.code not in _UNSEEN or (is_own and error.code != "watch_unsupported"):
                raise
            unseen.append(table)
    return SourceState.of(states, unseen)


class Sources:
    """Open sources, one for each connection as it is now."""

    def __init__(self) -> None:
        self._open: dict[UUID, tuple[datetime, Source]] = {}

    def get(self, connection: Connection) -> Source:
        """Raises ConnectorError if the connection cannot be used."""
        known = self._open.get(connection.pk)
        if known is not None and known[0] == connection.updated_at:
            return known[1]
        try:
            options = connection.typed_options()
        except KeyLost as error:
            raise ConnectorError(str(error), code="encryption_key_lost", hint="Enter the secrets again.") from error
        # Google's clients are imported here, with the first pipeline that needs them.
        source = registry.source_type(connection.kind)(options, timeout_s=CALL_LIMIT_S)
        self.close(connection.pk)
        self._open[connection.pk] = connection.updated_at, source
        return source

    def close(self, connection: UUID) -> None:
        known = self._open.pop(connection, None)
        if known is not None:
            with suppress(ConnectorError):
                known[1].close()
