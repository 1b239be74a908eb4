"""Engine callbacks → saved and pushed: at once after silence, then at most every 100 ms."""

from __future__ import annotations

import logging
import threading
import time

from django.db import Error as DatabaseError
from django.db import connection

from connectors.base import ReadPlan
from runs import live, services
from runs.services import Line, Progress

log = logging.getLogger(__name__)

PAUSE_S = 0.1
PROGRESS_EVERY_S = 0.5
PENDING_LIMIT = 10_000


class Reporter:
    """The engine's Reporter for one attempt: callbacks only take notes, the scribe thread writes them."""

    def __init__(self, claimed: services.Claim) -> None:
        self.claim = claimed
        self._lines: list[Line] = []
        self._dropped = 0
        self._progress = Progress()
        self._has_progress = False
        self._progress_at = 0.0
        self._lock = threading.Lock()
        self.stale = False

    def log(self, level: str, message: str) -> None:
        with self._lock:
            if len(self._lines) < PENDING_LIMIT:
                self._lines.append(Line(level, message))
            else:
                self._dropped += 1
        scribe().wake()

    def progress(self, *, rows: int, bytes: int) -> None:
        with self._lock:
            self._progress.rows, self._progress.bytes = rows, bytes
            self._progress.phase = "loading"
            self._has_progress = True
        scribe().wake()

    def planned(self, plan: ReadPlan) -> None:
        with self._lock:
            self._progress.estimated_rows = plan.estimated_rows
            self._progress.estimated_bytes = plan.estimated_bytes
            self._progress.phase = "loading"
            self._has_progress = True

    def publishing(self) -> None:
        with self._lock:
            self._progress.phase = "publishing"
            self._has_progress = True
            self._progress_at = 0.0
        scribe().wake()

    def take_lines(self) -> list[Line]:
        """What is not written yet: the caller writes it, in order, before anything later."""
        with self._lock:
            lines, self._lines = self._lines, []
            if self._dropped:
                lines.append(Line("warning", f"{self._dropped} further log lines came too fast and were dropped."))
                self._dropped = 0
        return lines

    @property
    def has_notes(self) -> bool:
        return bool(self._lines) or (self._has_progress and time.monotonic() >= self._progress_at + PROGRESS_EVERY_S)

    def write(self) -> None:
        """Write what was noted; called by the scribe, or by the executor once the scribe let go."""
        lines = self.take_lines()
        with self._lock:
            progress, self._progress, self._has_progress = self._progress, Progress(), False
            self._progress_at = time.monotonic()
        try:
            services.write_lines(
                self.claim.run, lines, attempt=self.claim.attempt, token=self.claim.token, progress=progress
            )
        except services.StaleToken:
            self.stale = True
        except DatabaseError:
            with self._lock:
                self._lines = lines + self._lines
            raise
        if progress != Progress():
            live.push_run(self.claim.run)


class Scribe:
    """One thread a process, with a database connection of its own, that writes for the current reporter."""

    def __init__(self) -> None:
        self._reporter: Reporter | None = None
        self._changed = threading.Condition()
        self._noted = False
        self._writing = threading.Lock()
        threading.Thread(target=self._run, name="log-scribe", daemon=True).start()

    def serve(self, reporter: Reporter | None) -> None:
        """Write for `reporter` from now on; returns when nothing is being written for the former one."""
        with self._writing:
            self._reporter = reporter

    def wake(self) -> None:
        # Progress comes with every batch: taking the lock only for the first note keeps it cheap.
        if not self._noted:
            with self._changed:
                self._noted = True
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._noted:
                    self._changed.wait()
                self._noted = False
            with self._writing:
                reporter = self._reporter
                if reporter is not None and not reporter.stale and reporter.has_notes:
                    self._write(reporter)
            time.sleep(PAUSE_S)
            if reporter is not None and reporter.has_notes and not reporter.stale:
                self.wake()

    def _write(self, reporter: Reporter) -> None:
        try:
            reporter.write()
        except DatabaseError as error:
            log.warning(
                "The log of run %s waits for the control database: %s", reporter.claim.run, type(error).__name__
            )
            connection.close()
            time.sleep(1)


_scribe: Scribe | None = None


def scribe() -> Scribe:
    global _scribe
    if _scribe is None:
        _scribe = Scribe()
    return _scribe
