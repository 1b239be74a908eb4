"""One claimed part → connectors → how it was let go."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from django.db import Error as DatabaseError

from connectors.counts import counted
from connectors.errors import ConnectorError, NewGeneration, StaleToken, Stopped, TransientError
from runs import ends, services
from runs.actions import transfer_request
from runs.endings import FIRST_RETRY_S, backoff_s, first_wait_s, gives_up, in_words, too_late
from runs.lease import Lease
from runs.reporter import Reporter
from runs.services import Failure, Line, PartClaim

log = logging.getLogger(__name__)

# What a worker that shuts down may take to commit the rows it has.
WIND_UP_S = 8.0

End = Callable[[list[Line]], None]
"""Writes down how the part was let go, given the log lines that are still unwritten."""


@dataclass
class Committed:
    """What the destination has of the part."""

    rows: int = 0
    bytes: int = 0
    done: bool = False
    found: int | None = None

    def note(self, rows: int, bytes: int, done: bool) -> None:
        self.rows, self.bytes, self.done = rows, bytes, done
        self.found = rows if self.found is None else self.found

    @property
    def has_grown(self) -> bool:
        return self.found is not None and self.rows > self.found


def load(claimed: PartClaim, lease: Lease, reporter: Reporter) -> End:
    """Load a part as far as it goes; returns what writes down how that ended."""
    committed = Committed()
    again = claimed.losses or claimed.failures or claimed.token > 1
    reporter.log("info", f"{'Goes on' if again else 'Started'} on {lease.process or 'this worker'}.")
    try:
        _move(claimed, committed, lease, reporter)
    except Exception as error:  # noqa: BLE001 - every kind has its ending, and what nobody foresaw is logged there
        return _after(claimed, committed, lease, error)
    if committed.done:
        line = Line("info", f"{claimed.title}: all of its rows are staged, {committed.rows:,}.")
        return lambda lines: _finish(claimed, committed, [*lines, line])
    return _let_go(claimed, committed, "The worker is shutting down")


def _move(claimed: PartClaim, committed: Committed, lease: Lease, reporter: Reporter) -> None:
    from connectors import staged  # brings pyarrow, which web and beat do without
    from connectors.postgres.checkpoints import PartKey

    known = ends.connections(claimed)
    fence = ends.fence_of_part(claimed)
    destination = ends.open_destination(claimed, known)
    try:
        source = ends.open_source(claimed, known, reporter.meter)
        try:
            lease.check()
            staged.load_part(
                source,
                destination,
                fence,
                PartKey(claimed.generation, claimed.number, claimed.token),
                transfer_request(claimed, fence, destination),
                reporter=reporter,
                stop=lease,
                is_over=lease.is_winding_up,
                on_commit=committed.note,
            )
        finally:
            source.close()
    finally:
        destination.close()


def _finish(claimed: PartClaim, committed: Committed, lines: list[Line]) -> None:
    services.finish_part(claimed, rows=committed.rows, bytes=committed.bytes, lines=lines)


def _after(claimed: PartClaim, committed: Committed, lease: Lease, error: Exception) -> End:
    """What fails after a stop fails because of it: breaking a wait can look like any error."""
    if lease.reason and not isinstance(error, Stopped):
        error = Stopped(str(error), code=lease.reason)
    match error:
        case services.StaleToken() | Stopped(code="lease_lost" | "cancelled"):
            return _abandoned(claimed, error)
        case Stopped(code="time_limit"):
            return _failed(claimed, committed, services.time_is_up(claimed.definition))
        case Stopped():
            return _let_go(claimed, committed, "The worker is shutting down")
        case StaleToken():
            # The part is still ours, so it is the fence: a former owner of the run raised it, paused since before the
            # plan. Whoever takes the run's last step raises it again, and lets the parts go on under that one.
            return _under_a_new_fence(claimed, committed)
        case DatabaseError():
            told = TransientError("DataMantri's own database did not answer.", code="control_database")
            return _let_go(claimed, committed, told.message, delay_s=FIRST_RETRY_S)
        case NewGeneration():
            return _failed(claimed, committed, _failure(error))
        case TransientError():
            return _again(claimed, committed, error)
        case ConnectorError():
            return _failed(claimed, committed, _failure(error))
    log.error("%s of run %s met an unexpected error", claimed.title, claimed.run, exc_info=error)
    told = in_words(error)
    if isinstance(told, TransientError):
        return _again(claimed, committed, told)
    return _failed(claimed, committed, _failure(told))


def _again(claimed: PartClaim, committed: Committed, error: TransientError) -> End:
    allowed = claimed.definition["retries"]
    # What brought rows is no failure of the part: it may break as often as it gets on.
    failures = 0 if committed.has_grown else claimed.failures
    if failures >= allowed:
        return _failed(claimed, committed, _failure(error))
    if gives_up(claimed, failures, error):
        end = _failed(claimed, committed, _failure(error))
        return lambda lines: end([*lines, too_late(claimed)])
    delay = backoff_s(failures, error.retry_after_s, first_s=first_wait_s(claimed))
    line = Line(
        "warning",
        f"{claimed.title}: {error.message} Going on behind {counted(committed.rows)} in {delay:.0f} s"
        f" ({failures + 1} of {allowed}).",
    )
    return lambda lines: services.release_part(
        claimed,
        rows=committed.rows,
        bytes=committed.bytes,
        failure=_failure(error),
        failures=failures + 1,
        delay=timedelta(seconds=delay),
        lines=[*lines, line],
    )


def _failed(claimed: PartClaim, committed: Committed, failure: Failure) -> End:
    line = Line("error", f"{claimed.title}: {failure.message} [{failure.code}] {failure.hint}".strip())
    return lambda lines: services.fail_part(
        claimed, failure, rows=committed.rows, bytes=committed.bytes, lines=[*lines, line]
    )


def _let_go(claimed: PartClaim, committed: Committed, why: str, *, delay_s: float = 0.0) -> End:
    line = Line("info", f"{claimed.title}: {why.rstrip('.')}: another one goes on behind {counted(committed.rows)}.")
    return lambda lines: services.release_part(
        claimed, rows=committed.rows, bytes=committed.bytes, delay=timedelta(seconds=delay_s), lines=[*lines, line]
    )


def _under_a_new_fence(claimed: PartClaim, committed: Committed) -> End:
    line = Line(
        "warning",
        f"{claimed.title}: a former owner of this run has raised the fence. It is raised again, then parts go on.",
    )
    return lambda lines: services.release_part(
        claimed, rows=committed.rows, bytes=committed.bytes, needs_fence=True, lines=[*lines, line]
    )


def _abandoned(claimed: PartClaim, error: Exception) -> End:
    def nothing(lines: list[Line]) -> None:
        log.info(
            "%s of run %s is no longer this worker's (%s); %d lines are left out",
            claimed.title,
            claimed.run,
            " ".join(str(error).split()),
            len(lines),
        )

    return nothing


def _failure(error: ConnectorError) -> Failure:
    return Failure(error.code, error.message, error.hint)
