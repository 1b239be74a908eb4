"""One claimed run → connectors → outcome."""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection

from connectors import registry
from connectors.base import Destination, Fence, Owner, ReadRequest, Target, WriteDisposition
from connectors.errors import ConnectorError, OutcomeUnknown, StaleToken, Stopped, TransientError
from pipelines.fields import KeyLost
from pipelines.models import Connection
from runs import services
from runs.lease import Lease, keeper
from runs.reporter import Reporter, scribe
from runs.services import Claim, Failure, Line
from runs.states import RunStatus

log = logging.getLogger(__name__)

LOSSES_LIMIT = 10
FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 600.0


class NeverPublished(Exception):
    """A run whose outcome was unknown turns out unpublished, and must not be tried again."""

    def __init__(self, to: RunStatus, failure: Failure | None) -> None:
        super().__init__(to)
        self.to, self.failure = to, failure


def work_on(*, process: str, task_id: str) -> int:
    """Execute eligible runs until none is left; says how many."""
    worker = f"{process}:{os.getpid()}" if process else f"{socket.gethostname()}:{os.getpid()}"
    done = 0
    while True:
        asked = time.monotonic()
        claimed = services.claim(process=process, worker=worker, task_id=task_id)
        if claimed is None:
            return done
        execute(claimed, granted=asked, process=process)
        done += 1


def execute(claimed: Claim, *, granted: float, process: str) -> None:
    """Run one claimed attempt to its end, and write down how it ended."""
    limit = timedelta(seconds=claimed.definition["time_limit_s"])
    lease = Lease(claimed, granted=granted, time_limit=limit, process=process)
    reporter = Reporter(claimed)
    scribe().serve(reporter)
    keeper().hold(lease)
    try:
        end = _attempt(claimed, lease, reporter)
        scribe().serve(None)
        _write_down(lambda: end(reporter.take_lines()), lease)
    finally:
        scribe().serve(None)
        keeper().release(lease)


End = Callable[[list[Line]], None]


@dataclass
class Standing:
    """What this attempt knows: whether a former one may have published the run."""

    unknown: bool


def _attempt(claimed: Claim, lease: Lease, reporter: Reporter) -> End:
    """Try once; returns what to write down, given the log lines that are still unwritten."""
    where = lease.process or socket.gethostname()
    reporter.log("info", f"Attempt {claimed.attempt} of revision {claimed.revision} started on {where}.")
    standing = Standing(unknown=claimed.status == RunStatus.RESOLVING)
    try:
        return _succeeded(claimed, _transfer(claimed, standing, lease, reporter))
    except NeverPublished as verdict:
        to, failure = verdict.to, verdict.failure
        return lambda lines: services.finish(claimed, to, failure=failure, lines=lines)
    except Stopped as stopped:
        return _after_stop(claimed, standing, stopped)
    except StaleToken as stale:
        # A newer owner raised the fence: it writes how the run ends, or the next one does.
        return _unresolved(claimed, stale)
    except OutcomeUnknown as unknown:
        return _settled(claimed, reporter, unknown)
    except ConnectorError as error:
        return _unresolved(claimed, error) if standing.unknown else _after_failure(claimed, error)
    except Exception as error:
        log.exception("Run %s met an unexpected error", claimed.run)
        surprise = ConnectorError(
            f"Something unexpected happened ({type(error).__name__}).",
            code="internal_error",
            hint="The worker's own log has the details.",
        )
        return _settled(claimed, reporter, surprise)


def _settled(claimed: Claim, reporter: Reporter, error: ConnectorError) -> End:
    """After a failure that may have come after the commit: ask the destination, now if it answers."""
    try:
        destination = _open_destination(_options(claimed.definition)[1])
        try:
            fence = _raise_fence(claimed, destination)
        finally:
            destination.close()
    except (ConnectorError, DatabaseError):
        return _unresolved(claimed, error)
    if fence.applied is not None:
        reporter.log("info", "The connection broke after the commit: the rows are published.")
        return _succeeded(claimed, dict(fence.applied.receipt))
    return _after_failure(claimed, error)


def _transfer(claimed: Claim, standing: Standing, lease: Lease, reporter: Reporter) -> dict[str, Any]:
    """Move the rows, unless a former attempt already published them; returns the receipt."""
    from connectors import transfer

    definition = claimed.definition
    source_end, destination_end = _options(definition)
    destination = _open_destination(destination_end)
    try:
        fence = _raise_fence(claimed, destination)
        if fence.applied is not None:
            reporter.log("info", "A former attempt had published this run already: nothing to do again.")
            return dict(fence.applied.receipt)
        if standing.unknown:
            _go_on(claimed, reporter)
            standing.unknown = False
        lease.check()
        source = registry.source_type(source_end[0])(source_end[1])
        try:
            request = transfer.TransferRequest(
                owner=fence.owner,
                read=ReadRequest(
                    table=definition["source"]["table"],
                    query=definition["source"]["query"],
                    job_key=f"{claimed.run.hex}-{claimed.attempt}",
                    labels={"datamantri_run": claimed.run.hex, "datamantri_pipeline": claimed.pipeline.hex},
                ),
                target=fence.target,
                disposition=WriteDisposition(definition["write_disposition"]),
                fingerprint=claimed.fingerprint,
                adopt=definition["destination"]["adopt"],
            )
            receipt = transfer.direct(source, destination, fence, request, reporter=reporter, stop=lease)
        finally:
            source.close()
    finally:
        destination.close()
    return {**receipt.to_json(), "revision": claimed.revision}


def _open_destination(end: tuple[str, Any]) -> Destination:
    kind, options = end
    return registry.destination_type(kind)(options)


def _raise_fence(claimed: Claim, destination: Destination) -> Fence:
    owner = Owner(_installation(), claimed.pipeline, claimed.run, claimed.token)
    return destination.raise_fence(_target(claimed), owner, adopt=claimed.definition["destination"]["adopt"])


def _go_on(claimed: Claim, reporter: Reporter) -> None:
    """The destination says that the lost attempt published nothing: run on, or end for good."""
    if claimed.cancel_requested:
        raise NeverPublished(RunStatus.CANCELLED, None)
    if claimed.losses > LOSSES_LIMIT:
        failure = Failure(
            "worker_lost",
            f"The worker was lost {claimed.losses} times while it worked on this run.",
            "Look for memory limits and crashes in the workers' own logs.",
        )
        raise NeverPublished(RunStatus.FAILED, failure)
    reporter.log("info", "The destination says that nothing was published: starting over.")
    services.resume(claimed)


def _options(definition: dict[str, Any]) -> tuple[tuple[str, Any], tuple[str, Any]]:
    """Kind and options of the source and the destination, as they are stored now."""
    ids = UUID(definition["source"]["connection"]), UUID(definition["destination"]["connection"])
    found = Connection.objects.in_bulk(ids)
    pair = []
    for end, pk in zip(("source", "destination"), ids, strict=True):
        if pk not in found:
            raise ConnectorError(f"The {end} connection was deleted.", code="connection_missing", field=end)
        try:
            pair.append((found[pk].kind, found[pk].typed_options()))
        except KeyLost as error:
            raise ConnectorError(
                str(error),
                code="encryption_key_lost",
                hint="Put the old key back into ENCRYPTION_KEYS, or enter the connection's secrets again.",
                field=end,
            ) from error
    return pair[0], pair[1]


def _target(claimed: Claim) -> Target:
    destination = claimed.definition["destination"]
    return Target(destination["schema"], destination["table"])


_installation_id: UUID | None = None


def _installation() -> UUID:
    global _installation_id
    if _installation_id is None:
        _installation_id = services.installation_id()
    return _installation_id


# How an attempt ends --------------------------------------------------------------------------


def _succeeded(claimed: Claim, receipt: dict[str, Any]) -> End:
    done = Line("info", f"Succeeded: {receipt.get('rows', 0):,} rows published to {_target(claimed)}.")
    return lambda lines: services.finish(claimed, RunStatus.SUCCEEDED, receipt=receipt, lines=[*lines, done])


def _after_stop(claimed: Claim, standing: Standing, stopped: Stopped) -> End:
    """Stopped before anything was published: the open transaction was rolled back."""
    if stopped.code == "lease_lost":
        return _abandoned(claimed)
    if standing.unknown:
        return _unresolved(claimed, stopped, delay_s=0)
    if stopped.code == "cancelled":
        done = Line("warning", "Cancelled. Nothing was published.")
        return lambda lines: services.finish(claimed, RunStatus.CANCELLED, lines=[*lines, done])
    if stopped.code == "time_limit":
        limit = claimed.definition["time_limit_s"]
        over = ConnectorError(
            f"The run was stopped at its time limit of {limit} seconds. Nothing was published.",
            code="time_limit",
            hint="Raise the pipeline's time limit, or read less.",
        )
        return _after_failure(claimed, over)
    done = Line("info", "The worker is shutting down: another one starts this run over.")
    return lambda lines: services.hand_back(claimed, lines=[*lines, done])


def _abandoned(claimed: Claim) -> End:
    def nothing(lines: list[Line]) -> None:
        log.warning("Run %s went to another worker; %d log lines of this one are left out.", claimed.run, len(lines))

    return nothing


def _unresolved(claimed: Claim, error: ConnectorError, *, delay_s: float | None = None) -> End:
    """Only the destination can say how this ended: it is asked again, less often the longer it takes."""
    failure = _failure(error)
    wait = min(60.0, 2.0 ** min(claimed.attempt - 1, 6)) if delay_s is None else delay_s
    told = Line("warning", f"{error.message} The destination is asked how this attempt ended.")
    return lambda lines: services.resolve_later(claimed, failure, delay=timedelta(seconds=wait), lines=[*lines, told])


def _after_failure(claimed: Claim, error: ConnectorError) -> End:
    """Nothing was published: try again if that is of use and allowed, else fail."""
    failure = _failure(error)
    allowed = claimed.definition["retries"]
    if isinstance(error, TransientError) and claimed.failures < allowed:
        delay = backoff_s(claimed.failures, error.retry_after_s)
        told = Line("warning", f"{error.message} Trying again in {delay:.0f} s ({claimed.failures + 1} of {allowed}).")
        wait = timedelta(seconds=delay)
        return lambda lines: services.retry_later(claimed, failure, delay=wait, lines=[*lines, told])
    told = Line("error", f"{error.message} [{error.code}] {error.hint}".strip())
    return lambda lines: services.finish(claimed, RunStatus.FAILED, failure=failure, lines=[*lines, told])


def backoff_s(failures: int, asked: float | None = None) -> float:
    """Exponential backoff with jitter: 5 s, 10 s, 20 s … at most 10 minutes, or what the system asked for."""
    usual = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2**failures) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
    return max(usual, asked or 0.0)


def _failure(error: ConnectorError) -> Failure:
    return Failure(error.code, error.message, error.hint)


def _write_down(write: Callable[[], None], lease: Lease) -> None:
    """Write the outcome; while the control database is away, keep trying as long as the lease may still be ours."""
    deadline = time.monotonic() + settings.LEASE_TTL.total_seconds()
    while True:
        try:
            write()
            return
        except services.StaleToken:
            log.warning("Run %s has a newer owner, which writes how it ends.", lease.claim.run)
            return
        except DatabaseError as error:
            connection.close()
            if time.monotonic() > deadline:
                # The lease runs out and the next owner reads the outcome from the destination.
                log.error("Run %s: its outcome could not be written: %s", lease.claim.run, type(error).__name__)
                return
            time.sleep(0.5)
