"""The poller: one loop that decides, a few threads that look, and one statement a second for all pipelines.

Any number may run: they share the pipelines, see services.polls. Nothing here is a truth: a poller that dies loses
seconds, and another one goes on with what the control database says was asked for.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import random
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from django.db import Error as DatabaseError
from django.db import IntegrityError, connection

from connectors.errors import ConnectorError, TransientError
from connectors.watching import SourceState
from pipelines.models import Connection, Pipeline
from runs import queries, services
from runs.models import Because, Poll
from runs.polling.looking import Lookers, Seen, Sources, Task
from runs.polling.subjects import Place, Subject, growing
from runs.services import Assigned

log = logging.getLogger(__name__)

SHARE_EVERY_S = 2.0
ASSIGN_EVERY_S = 1.0
# That polling goes well is written down now and then, what goes wrong at once.
WRITE_EVERY_S = 15.0
# Which tables are behind a query or view is asked again after a while: views change.
BEHIND_FOR_S = 600.0
THREADS = 24
# A system that hangs must not hold up the others; BigQuery takes 100 calls a second of one account.
PER_CONNECTION = 8
CALLS_PER_S = 80.0
LONGEST_AWAY_S = 60.0
LONGEST_PAUSE_S = 0.5
# Without anything to poll, nowhere, for so long the process becomes small again.
IDLE_S = 60.0


@dataclass
class Line:
    """The places of one connection that are due, and how that connection is."""

    places: deque[Place] = field(default_factory=deque)
    under_way: int = 0
    free_at: float = float("-inf")
    failures: int = 0
    away_until: float = float("-inf")

    def may_start(self, now: float) -> bool:
        most = 1 if self.failures else PER_CONNECTION
        return bool(self.places) and self.under_way < most and now >= max(self.free_at, self.away_until)


class Poller:
    """`run` polls until it is told to stop, or until there is nothing to poll for a minute."""

    def __init__(self, name: str, *, threads: int = THREADS, idle_s: float = IDLE_S) -> None:
        self._name = name
        self._threads = threads
        self._idle_s = idle_s
        self._lookers = Lookers(threads)
        self._sources = Sources()
        self._connections: dict[UUID, Connection] = {}
        self._subjects: dict[UUID, Subject] = {}
        self._unusable: dict[UUID, Assigned] = {}
        self._places: dict[Any, Place] = {}
        self._lines: dict[UUID, Line] = defaultdict(Line)
        self._agenda: list[tuple[float, int, Place]] = []
        self._numbers = itertools.count()
        self._under_way = 0
        self._good: set[UUID] = set()
        self._share_at = self._assign_at = float("-inf")
        self._lives_until = float("-inf")
        self._write_at = time.monotonic() + WRITE_EVERY_S
        self._busy_at = time.monotonic()
        self._outages = 0

    def run(self, stop: threading.Event) -> bool:
        """Returns whether it stopped because there was nothing to poll."""
        services.make_shares()
        try:
            while not stop.is_set():
                try:
                    self.round()
                    self._outages = 0
                except DatabaseError as error:
                    log.warning("The control database does not answer: %s", error)
                    self._wait_out(stop)
                except Exception:
                    # This process would end, and with it the polls of every pipeline.
                    log.exception("A round of the poller failed")
                    self._wait_out(stop)
                if time.monotonic() - self._busy_at > self._idle_s and not services.has_realtime():
                    return True
            return False
        finally:
            self._lookers.end()
            self._leave()

    def round(self, longest_s: float = LONGEST_PAUSE_S) -> None:
        """Renew what is due, start looks, and act on what was seen until something else is due."""
        now = time.monotonic()
        if now >= self._share_at:
            services.take_shares(self._name)
            self._share_at = now + SHARE_EVERY_S
            self._lives_until = now + services.SILENT_AFTER.total_seconds()
        if now >= self._assign_at:
            self._assign(services.assigned(self._name), now)
            self._assign_at = now + ASSIGN_EVERY_S
        if now >= self._write_at:
            self._write(now)
        self._start_looks(now)
        try:
            seen = self._lookers.seen.get(timeout=self._pause(now, longest_s))
            while True:
                self._act(seen, time.monotonic())
                seen = self._lookers.seen.get_nowait()
        except queue.Empty:
            return

    # What there is to poll ------------------------------------------------------------------------

    def _assign(self, rows: list[Assigned], now: float) -> None:
        """Follow what pipelines there are, and how they are defined now."""
        if rows:
            self._busy_at = now
        wanted = {row.pipeline: row for row in rows}
        for pipeline in [pk for pk, mine in self._subjects.items() if pk not in wanted or not mine.is_as(wanted[pk])]:
            self._forget(pipeline)
        new = [row for row in rows if row.pipeline not in self._subjects and self._unusable.get(row.pipeline) != row]
        if new:
            self._learn(new, now)
        for row in rows:
            if (subject := self._subjects.get(row.pipeline)) is not None:
                subject.note_end(row.last_run, row.last, now)

    def _learn(self, rows: list[Assigned], now: float) -> None:
        keys = [row.pipeline for row in rows]
        pipelines = Pipeline.objects.select_related("source").in_bulk(keys)
        polls = Poll.objects.in_bulk(keys)
        clock = queries.database_now()
        for row in rows:
            pipeline, poll = pipelines.get(row.pipeline), polls.get(row.pipeline)
            if pipeline is None or pipeline.revision_id != row.revision or (poll.version if poll else 0) != row.version:
                continue  # it changed a moment ago: the next look at what there is tells
            age = (clock - poll.asked_at).total_seconds() if poll and poll.asked_at else None
            try:
                subject = Subject.of(row, pipeline, poll, now, age)
            except ConnectorError as error:
                # As it is defined now it cannot be polled: nothing to try again before that changes.
                self._unusable[row.pipeline] = row
                self._keep([row.pipeline], partial(services.write_failure, failures=1, error=error))
                continue
            self._unusable.pop(row.pipeline, None)
            self._connections[pipeline.source_id] = pipeline.source
            self._add(subject, now)

    def _add(self, subject: Subject, now: float) -> None:
        place = self._places.get(subject.place)
        if place is None:
            # New ones begin one after the other: a thousand at once would stay together.
            due = now + random.uniform(0, min(subject.every_s, 1.0))  # noqa: S311 - no secret
            place = Place(subject.connection, subject.request, due)
            self._places[subject.place] = place
            self._enter(place)
        place.subjects[subject.pipeline] = subject
        self._subjects[subject.pipeline] = subject

    def _forget(self, pipeline: UUID) -> None:
        subject = self._subjects.pop(pipeline)
        self._good.discard(pipeline)
        place = self._places.get(subject.place)
        if place is None:
            return
        place.subjects.pop(pipeline, None)
        if not place.subjects:
            place.is_gone = True
            del self._places[subject.place]
            if not any(other.connection == place.connection for other in self._places.values()):
                self._sources.close(place.connection)
                self._lines.pop(place.connection, None)

    # Looking --------------------------------------------------------------------------------------

    def _enter(self, place: Place) -> None:
        heapq.heappush(self._agenda, (place.due, next(self._numbers), place))

    def _start_looks(self, now: float) -> None:
        while self._agenda and self._agenda[0][0] <= now:
            place = heapq.heappop(self._agenda)[2]
            if not place.is_gone:
                self._lines[place.connection].places.append(place)
        if now > self._lives_until:
            return  # others may have its shares by now
        started = True
        while started:
            started = False
            # One of each connection after the other.
            for key, line in list(self._lines.items()):
                if self._under_way < self._threads and line.may_start(now):
                    self._look(key, line, now)
                    started = True

    def _look(self, key: UUID, line: Line, now: float) -> None:
        place = line.places.popleft()
        if place.is_gone:
            return
        place.due = now
        try:
            source = self._sources.get(self._connections[key])
        except ConnectorError as error:
            self._failed(place, error, now)
            self._again(place, now)
            return
        known = place.behind if now < place.behind_until else None
        line.under_way += 1
        self._under_way += 1
        line.free_at = max(line.free_at, now) + max(1, len(place.behind)) / CALLS_PER_S
        self._lookers.look(Task(place, source, place.request, known))

    def _again(self, place: Place, now: float) -> None:
        """When it is looked at next: on the beat of its own, and never twice for what was missed."""
        if place.is_gone or not place.subjects:
            return
        wait = growing(place.failures, first=place.every_s) if place.failures else place.every_s
        place.due = max(place.due + wait, now)
        self._enter(place)

    def _pause(self, now: float, longest_s: float) -> float:
        """Until when nothing is due."""
        due = [self._share_at, self._assign_at, self._write_at]
        if self._agenda:
            due.append(self._agenda[0][0])
        if self._under_way < self._threads:
            due += [max(each.free_at, each.away_until) for each in self._lines.values() if each.places]
        return min(longest_s, max(0.001, min(due) - now))

    # What was seen --------------------------------------------------------------------------------

    def _act(self, seen: Seen, now: float) -> None:
        place: Place = seen.key  # type: ignore[assignment]
        self._under_way -= 1
        line = self._lines[place.connection]
        line.under_way = max(0, line.under_way - 1)
        if place.is_gone:
            return
        try:
            if seen.state is None:
                self._failed(place, seen.error or ConnectorError("Nothing was seen."), now)
            else:
                self._saw(place, seen, seen.state, now)
        finally:
            self._again(place, now)

    def _saw(self, place: Place, seen: Seen, state: SourceState, now: float) -> None:
        line = self._lines[place.connection]
        if line.failures:
            line.failures, line.away_until = 0, float("-inf")
        place.failures = 0
        if seen.behind != place.behind or now >= place.behind_until:
            place.behind, place.behind_until = seen.behind, now + BEHIND_FOR_S
        recovered, unseen = [], []
        for subject in list(place.subjects.values()):
            self._good.add(subject.pipeline)
            if subject.has_failed:
                subject.has_failed = False
                recovered.append(subject.pipeline)
            if subject.unseen != state.unseen:
                subject.unseen = state.unseen
                unseen.append(subject.pipeline)
        self._keep(recovered, services.write_seen)
        if unseen:
            self._keep(unseen, lambda pipelines: services.write_unseen(pipelines, state.unseen))
        for subject in list(place.subjects.values()):
            subject.note_poll(now)
            if because := subject.because(state, now):
                self._ask(subject, state, because, now)

    def _ask(self, subject: Subject, state: SourceState, because: Because, now: float) -> None:
        mine = subject.assigned
        asked = services.ask(mine.pipeline, revision=mine.revision, version=mine.version, state=state, because=because)
        if asked.is_obsolete:
            # Somebody else was first, or the pipeline is another one by now.
            self._forget(mine.pipeline)
            self._assign_at = now
        elif asked.refusal:
            subject.was_refused(now)
        else:
            subject.has_asked(state, now)

    def _failed(self, place: Place, error: ConnectorError, now: float) -> None:
        """A system that is away is asked by one look at a time, later and later; a table that is wrong, by itself."""
        line = self._lines[place.connection]
        if isinstance(error, TransientError):
            line.failures += 1
            wait = growing(line.failures, first=1.0, longest=LONGEST_AWAY_S)
            line.away_until = now + max(wait, error.retry_after_s or 0.0)
            others = [other for other in self._places.values() if other.connection == place.connection]
            concerned = [pk for other in others for pk in other.subjects]
            failures = line.failures
        else:
            place.failures += 1
            place.behind_until = float("-inf")
            concerned, failures = list(place.subjects), place.failures
        for pipeline in concerned:
            self._subjects[pipeline].has_failed = True
            self._good.discard(pipeline)
        self._keep(concerned, lambda pipelines: services.write_failure(pipelines, failures, error))

    # The control database -------------------------------------------------------------------------

    def _keep(self, pipelines: Iterable[UUID], write: Any) -> None:
        pipelines = sorted(pipelines)
        if not pipelines:
            return
        try:
            write(pipelines)
        except IntegrityError:
            # One of them was deleted meanwhile.
            self._assign_at = float("-inf")

    def _write(self, now: float) -> None:
        self._write_at = now + WRITE_EVERY_S
        self._keep(self._good, services.write_seen)
        self._good.clear()

    def _wait_out(self, stop: threading.Event) -> None:
        connection.close()
        self._outages += 1
        self._share_at = self._assign_at = float("-inf")
        stop.wait(growing(self._outages, first=0.5, longest=15.0))

    def _leave(self) -> None:
        try:
            services.leave_shares(self._name)
        except DatabaseError as error:
            log.warning("This poller could not sign off: %s", error)
