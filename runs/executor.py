"""One claimed run → connectors → outcome."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection, transaction

from connectors.billing import Bill
from connectors.errors import ConnectorError
from runs import actions, backfills, comparing, doorbell, ends, live, parts, presence, services
from runs.endings import (
    Divided,
    End,
    Standing,
    after_failure,
    compared,
    divided,
    end_of,
    in_words,
    is_final,
    succeeded,
    unresolved,
)
from runs.lease import Lease, keeper
from runs.models import RunAction
from runs.reporter import Reporter, scribe
from runs.services import Claim, PartClaim
from runs.services.check_results import keep_results
from runs.states import RunStatus

log = logging.getLogger(__name__)
NOTHING_BILLED = Bill(0, 0)


def work_on(*, process: str, task_id: str) -> int:
    """Execute eligible runs until none is left; says how many."""
    worker = presence.worker_name(process, os.getpid())
    done = 0
    while True:
        asked = time.monotonic()
        claimed: Claim | None = None
        part: PartClaim | None = None
        try:
            waiting = services.waiting()
            if waiting.runs:
                claimed = services.claim(process=process, worker=worker, task_id=task_id)
            if claimed is None and waiting.parts:
                part = services.claim_part(process=process, worker=worker, task_id=task_id)
        except DatabaseError as error:
            # The ticker rings again for whatever waits.
            log.warning("The control database does not answer: %s", error)
            connection.close()
            return done
        taken = claimed or part
        if done and taken is not None and taken.others_wait:
            # The slots that were just freed let others go than what this worker goes on with.
            doorbell.ring()
        if claimed is not None:
            execute(claimed, granted=asked, process=process)
        elif part is not None:
            execute_part(part, granted=asked, process=process)
        else:
            return done
        done += 1


def execute(claimed: Claim, *, granted: float, process: str) -> None:
    """Run one claimed attempt to its end, and write down how it ended.

    `granted` is the monotonic time before the claim was sent.
    """
    limit = timedelta(seconds=claimed.definition["time_limit_s"])
    lease = Lease(claimed, granted=granted, time_limit=limit, process=process)
    reporter = Reporter(claimed)
    live.push_board(claimed.run, claimed.pipeline, claimed.status)
    _hold(claimed, lease, reporter, lambda: _attempt(claimed, lease, reporter))
    if claimed.action == RunAction.BACKFILL:
        backfills.move_on()


def execute_part(claimed: PartClaim, *, granted: float, process: str) -> None:
    """Load one claimed part of a run, as far as this worker may, and write down how it was let go."""
    limit = timedelta(seconds=claimed.seconds_left)
    lease = Lease(claimed, granted=granted, time_limit=limit, process=process, grace_s=parts.WIND_UP_S)
    reporter = Reporter(claimed, title=claimed.title)
    _hold(claimed, lease, reporter, lambda: parts.load(claimed, lease, reporter))


def _hold(claimed: Claim | PartClaim, lease: Lease, reporter: Reporter, work: Callable[[], End]) -> None:
    """Do `work` with its lease kept and its log written, and write down how it ended."""
    scribe().serve(reporter)
    keeper().hold(lease)
    try:
        live.push_run(claimed.run)
        end = work()
        lease.rest()
        scribe().serve(None)
        _write_down(lambda: _end(end, reporter), claimed)
    finally:
        scribe().serve(None)
        keeper().release(lease)


def _attempt(claimed: Claim, lease: Lease, reporter: Reporter) -> End:
    """Try once; returns what writes down how that ended."""
    where = lease.process or socket.gethostname()
    reporter.log("info", f"Attempt {claimed.attempt} of revision {claimed.revision} started on {where}.")
    compares = claimed.action == RunAction.COMPARE
    standing = Standing(is_unknown=claimed.status == RunStatus.RESOLVING and not compares)
    try:
        if compares:
            return compared(claimed, comparing.compare(claimed, lease, reporter))
        done = actions.perform(claimed, standing, lease, reporter)
        return divided(claimed, done) if isinstance(done, Divided) else succeeded(claimed, done)
    except Exception as error:  # noqa: BLE001 - every kind has its ending, and what nobody foresaw is logged there
        end = end_of(claimed, standing, lease, error)
        return end or _settled(claimed, lease, reporter, in_words(error))


def _settled(claimed: Claim, lease: Lease, reporter: Reporter, error: ConnectorError) -> End:
    """After a failure that may have come after the commit: ask the destination, now if it answers."""
    try:
        destination = ends.open_destination(claimed, ends.connections(claimed))
        try:
            fence = ends.raise_fence(claimed, destination, lease)
            if fence.applied is None and is_final(claimed, lease, error):
                actions.take_away(destination, fence, lease, reporter)
        finally:
            destination.close()
    except Exception as again:  # noqa: BLE001 - as above
        return end_of(claimed, Standing(is_unknown=True), lease, again) or unresolved(claimed, error)
    if fence.applied is not None:
        reporter.log("info", "The connection broke after the commit: the rows are published.")
        return succeeded(claimed, actions.kept(claimed, fence.applied.receipt))
    return after_failure(claimed, lease, error)


def _end(end: End, reporter: Reporter) -> None:
    """Write down how the attempt ended, and with it what it was billed and what its checks came to."""
    estimate = reporter.estimate
    # What comes to nothing is as it was: most runs that find nothing new are told of nothing else.
    is_told = estimate is not None and bool(estimate.query_bytes or estimate.storage_bytes)
    is_billed = reporter.meter.bill != NOTHING_BILLED or is_told
    if not is_billed and not reporter.results:
        end(reporter.unwritten())
        return
    with transaction.atomic():
        if is_billed:
            services.note_bill(reporter.claim, reporter.meter.bill, estimate)
        end(reporter.unwritten())
        if reporter.results:
            keep_results(reporter.claim, reporter.results)


def _write_down(write: Callable[[], None], claimed: Claim | PartClaim) -> None:
    """Write the outcome; while the control database is away, keep trying as long as the lease may still be ours."""
    deadline = time.monotonic() + settings.LEASE_TTL.total_seconds()
    while True:
        try:
            write()
            return
        except services.StaleToken:
            log.warning("Run %s has a newer owner, which writes how it ends, or this was written.", claimed.run)
            return
        except DatabaseError as error:
            connection.close()
            if time.monotonic() > deadline:
                # The lease runs out and the next owner reads the outcome from the destination.
                log.error("Run %s: its outcome could not be written: %s", claimed.run, type(error).__name__)
                return
            time.sleep(0.5)
