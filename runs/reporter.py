"""Engine callbacks → saved and pushed: at once after silence, then at most every 100 ms."""

from __future__ import annotations

import logging
import threading
import time

from django.db import Error as DatabaseError
from django.db import connection

from connectors.billing import NOTHING_BILLED, Estimate, Meter
from connectors.checks import CheckResult
from connectors.reading import ReadPlan
from runs import costs, live, services
from runs.services import Line, Progress

log = logging.getLogger(__name__)

PAUSE_S = 0.1
PROGRESS_EVERY_S = 0.5
RETRY_S = 1.0
# A bill is written with the end of the attempt: in between, only so that a lost worker's is not lost with it.
BILL_EVERY_S = 5.0
PENDING_LIMIT = 10_000
LINES_AT_ONCE = 500


class Reporter:
    """The engine's Reporter for one attempt: callbacks only take notes, the scribe thread writes them."""

    def __init__(self, claimed: services.Claim | services.PartClaim, *, title: str = "") -> None:
        self.claim = claimed
        self._title = f"{title}: " if title else ""
        self.stale = False
        # Of checks, with bad rows: whoever ends the attempt writes them down.
        self.results: tuple[CheckResult, ...] = ()
        self._lines: list[Line] = []
        self._dropped = 0
        self._progress = Progress()
        self._progress_at = float("-inf")
        self._lock = threading.Lock()
        # How many of the first lines may have been written: the connection broke before the answer came.
        self._doubtful = 0
        self._last_seq = 0
        self.estimate: Estimate | None = None
        self.meter = Meter(lambda: scribe().wake(), self.estimated)
        self._billed = NOTHING_BILLED
        self._billed_at = time.monotonic()

    # The engine's side: connectors.base.Reporter

    def log(self, level: str, message: str) -> None:
        with self._lock:
            if len(self._lines) < PENDING_LIMIT:
                self._lines.append(Line(level, self._title + message))
            else:
                self._dropped += 1
        scribe().wake()

    def progress(self, *, rows: int, bytes: int) -> None:
        with self._lock:
            self._progress.rows, self._progress.bytes, self._progress.phase = rows, bytes, "loading"
        scribe().wake()

    def planned(self, plan: ReadPlan) -> None:
        with self._lock:
            self._progress.estimated_rows = plan.estimated_rows
            self._progress.estimated_bytes = plan.estimated_bytes
            self._progress.phase = "loading"
        query, storage = (plan.facts.get(f"estimated_{of}_bytes") for of in ("query", "storage"))
        if query is not None or storage is not None:
            asked = sum(plan.facts.get(f"{of}_bytes_billed") or 0 for of in ("cursor", "partitions"))
            self.estimated(Estimate(asked + (query or 0), storage or 0))
        scribe().wake()

    def estimated(self, told: Estimate) -> None:
        """What this attempt will bill, as it is first known; what comes to nothing is not worth a line."""
        if self.estimate is not None:
            return
        self.estimate = told
        if told.query_bytes or told.storage_bytes:
            self.log("info", costs.in_words(told))

    def publishing(self) -> None:
        with self._lock:
            self._progress.phase = "publishing"
            self._progress_at = float("-inf")
        scribe().wake()

    def audited(self, results: tuple[CheckResult, ...]) -> None:
        self.results = results

    def phase(self, name: str) -> None:
        with self._lock:
            self._progress.phase = name
            self._progress_at = float("-inf")
        scribe().wake()

    # The side of those who write

    def due_in(self) -> float | None:
        """Seconds until something should be written; None when there is nothing."""
        if self.stale:
            return None
        if self._lines:
            return 0.0
        waits = []
        if self._progress != Progress():
            waits.append(self._progress_at + PROGRESS_EVERY_S)
        if self.meter.has_run and self.meter.bill != self._billed:
            waits.append(self._billed_at + BILL_EVERY_S)
        return max(0.0, min(waits) - time.monotonic()) if waits else None

    def write(self) -> None:
        """Write what was noted; raises DatabaseError when the notes have to wait."""
        self._settle_doubt()
        with self._lock:
            lines = self._lines[:LINES_AT_ONCE]
            progress, self._progress = self._progress, Progress()
        self._doubtful = len(lines)
        try:
            written = self.claim.write_lines(lines, progress)
        except services.StaleToken:
            self.stale = True
            return
        except DatabaseError:
            with self._lock:
                self._progress = progress.under(self._progress)
            raise
        self._forget(len(lines))
        if written:
            self._last_seq = written[-1]["seq"]
        if progress != Progress():
            self._progress_at = time.monotonic()
            live.push_run(self.claim.run)
        self._note_bill()

    def _note_bill(self) -> None:
        """Write what was billed so far, now and then."""
        if not self.meter.has_run or time.monotonic() < self._billed_at + BILL_EVERY_S:
            return
        bill = self.meter.bill
        try:
            if bill != self._billed:
                services.note_bill(self.claim, bill)
        except services.StaleToken:
            self.stale = True
        self._billed, self._billed_at = bill, time.monotonic()

    def unwritten(self) -> list[Line]:
        """What no write has brought to the database: the caller writes it, in order, before anything later.

        Raises DatabaseError while that cannot be told.
        """
        self._settle_doubt()
        with self._lock:
            return [*self._lines, *self._left_out()]

    def _settle_doubt(self) -> None:
        """A write whose answer never came may have been made: twice the same lines would be two places in the log."""
        if self._doubtful:
            last = self._lines[self._doubtful - 1]
            if services.is_written(self.claim.run, last, attempt=self.claim.attempt, after=self._last_seq):
                self._forget(self._doubtful)
            self._doubtful = 0

    def _forget(self, count: int) -> None:
        self._doubtful = 0
        with self._lock:
            del self._lines[:count]
            if not self._lines:
                self._lines = self._left_out()
                self._dropped = 0

    def _left_out(self) -> list[Line]:
        if not self._dropped:
            return []
        return [Line("warning", f"{self._dropped:,} log lines came too fast and were left out.")]


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
        due_in: float | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._noted, timeout=due_in)
                self._noted = False
            with self._writing:
                reporter = self._reporter
                has_written = reporter is None or reporter.due_in() != 0.0 or self._write(reporter)
            time.sleep(PAUSE_S if has_written else RETRY_S)
            due_in = reporter.due_in() if reporter else None

    def _write(self, reporter: Reporter) -> bool:
        try:
            reporter.write()
        except DatabaseError as error:
            run = reporter.claim.run
            log.warning("The log of run %s waits for the control database: %s", run, type(error).__name__)
            connection.close()
            return False
        except Exception:
            # The thread must outlive it: without a scribe no later run would have a log.
            log.exception("The log of run %s could not be written", reporter.claim.run)
            return False
        return True


_scribe: Scribe | None = None


def scribe() -> Scribe:
    global _scribe
    if _scribe is None:
        _scribe = Scribe()
    return _scribe
