"""One claimed run → connectors → outcome."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection

from connectors import column_rules, registry
from connectors.base import (
    Destination,
    Fence,
    Owner,
    ReadRequest,
    Source,
    Target,
    TextPolicy,
    WriteDisposition,
    WriteMode,
    column_from_json,
)
from connectors.errors import ConnectorError
from connectors.target_options import TargetOptions
from pipelines.fields import KeyLost
from pipelines.models import Connection
from runs import live, services
from runs.endings import End, NeverPublished, Standing, after_failure, end_of, in_words, succeeded, unresolved
from runs.lease import Lease, keeper
from runs.reporter import Reporter, scribe
from runs.services import Claim, Failure
from runs.states import RunStatus

log = logging.getLogger(__name__)

LOSSES_LIMIT = 10
# Connecting and raising the fence have time limits of their own, which add up to less than this.
FENCE_S = 30.0
ARCHIVED = Failure("pipeline_archived", "The pipeline was archived before this run's turn came. Nothing was published.")


def work_on(*, process: str, task_id: str) -> int:
    """Execute eligible runs until none is left; says how many."""
    worker = f"{process or socket.gethostname()}:{os.getpid()}"
    done = 0
    while True:
        asked = time.monotonic()
        try:
            claimed = services.claim(process=process, worker=worker, task_id=task_id)
        except DatabaseError as error:
            # The ticker rings again for whatever waits.
            log.warning("The control database does not answer: %s", error)
            connection.close()
            return done
        if claimed is None:
            return done
        execute(claimed, granted=asked, process=process)
        done += 1


def execute(claimed: Claim, *, granted: float, process: str) -> None:
    """Run one claimed attempt to its end, and write down how it ended.

    `granted` is the monotonic time before the claim was sent.
    """
    limit = timedelta(seconds=claimed.definition["time_limit_s"])
    lease = Lease(claimed, granted=granted, time_limit=limit, process=process)
    reporter = Reporter(claimed)
    scribe().serve(reporter)
    keeper().hold(lease)
    try:
        live.push_run(claimed.run)
        live.push_board(claimed.run, claimed.pipeline, claimed.status)
        end = _attempt(claimed, lease, reporter)
        lease.rest()
        scribe().serve(None)
        _write_down(lambda: end(reporter.unwritten()), claimed)
    finally:
        scribe().serve(None)
        keeper().release(lease)


def _attempt(claimed: Claim, lease: Lease, reporter: Reporter) -> End:
    """Try once; returns what writes down how that ended."""
    where = lease.process or socket.gethostname()
    reporter.log("info", f"Attempt {claimed.attempt} of revision {claimed.revision} started on {where}.")
    standing = Standing(is_unknown=claimed.status == RunStatus.RESOLVING)
    try:
        return succeeded(claimed, _transfer(claimed, standing, lease, reporter))
    except Exception as error:  # noqa: BLE001 - every kind has its ending, and what nobody foresaw is logged there
        end = end_of(claimed, standing, lease, error)
        return end or _settled(claimed, lease, reporter, in_words(error))


def _settled(claimed: Claim, lease: Lease, reporter: Reporter, error: ConnectorError) -> End:
    """After a failure that may have come after the commit: ask the destination, now if it answers."""
    try:
        destination = _open_destination(claimed, _connections(claimed))
        try:
            fence = _raise_fence(claimed, destination, lease)
        finally:
            destination.close()
    except Exception as again:  # noqa: BLE001 - as above
        return end_of(claimed, Standing(is_unknown=True), lease, again) or unresolved(claimed, error)
    if fence.applied is not None:
        reporter.log("info", "The connection broke after the commit: the rows are published.")
        return succeeded(claimed, _receipt(claimed, fence.applied.receipt))
    return after_failure(claimed, lease, error)


def _transfer(claimed: Claim, standing: Standing, lease: Lease, reporter: Reporter) -> dict[str, Any]:
    """Move the rows, unless a former attempt already published them; returns the receipt."""
    from connectors import transfer

    if claimed.is_archived and not standing.is_unknown:
        raise NeverPublished(RunStatus.CANCELLED, ARCHIVED)
    definition = claimed.definition
    connections = _connections(claimed)
    destination = _open_destination(claimed, connections)
    try:
        fence = _raise_fence(claimed, destination, lease)
        if fence.applied is not None:
            reporter.log("info", "A former attempt had published this run already: nothing to do again.")
            return _receipt(claimed, fence.applied.receipt)
        if standing.is_unknown:
            _go_on(claimed, reporter)
            standing.is_unknown = False
        lease.check()
        source = _open_source(claimed, connections)
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
                mode=WriteMode(
                    WriteDisposition(definition["write_disposition"]),
                    tuple(definition.get("merge_key", ())),
                    definition.get("cursor_column", ""),
                    TargetOptions.from_json(definition.get("target_options", {})),
                ),
                text_policy=TextPolicy(definition.get("text_policy", TextPolicy.FAIL)),
                fingerprint=claimed.fingerprint,
                adopt=definition["destination"]["adopt"],
                expected=tuple(map(column_from_json, definition["source"].get("columns") or ())),
                rules=column_rules.from_json(definition.get("column_rules", {}))[0],
            )
            standing.is_loading = True
            receipt = transfer.direct(source, destination, fence, request, reporter=reporter, stop=lease)
        finally:
            source.close()
    finally:
        destination.close()
    return _receipt(claimed, receipt.to_json())


def _raise_fence(claimed: Claim, destination: Destination, lease: Lease) -> Fence:
    """Become the only one who can commit. A wish to stop does not stop it: how the run stands is asked first."""
    where = claimed.definition["destination"]
    owner = Owner(_installation(), claimed.pipeline, claimed.run, claimed.token)
    with lease.patience(FENCE_S):
        lease.check_ownership()
        fence = destination.raise_fence(Target(where["schema"], where["table"]), owner, adopt=where["adopt"])
        # Leases go by clocks, which may have stood still with their machine. Who owns the run now, with the fence
        # raised, was the last to raise it: a later owner raises it again, and this one can then commit no more.
        lease.obey(services.read_flags(claimed.run, claimed.token, process=lease.process))
        lease.check_ownership()
    return fence


def _go_on(claimed: Claim, reporter: Reporter) -> None:
    """The destination says that the lost attempt published nothing: run on, or end for good."""
    if claimed.cancel_requested:
        raise NeverPublished(RunStatus.CANCELLED, None)
    if claimed.is_archived:
        raise NeverPublished(RunStatus.CANCELLED, ARCHIVED)
    if claimed.losses > LOSSES_LIMIT:
        failure = Failure(
            "worker_lost",
            f"The worker was lost {claimed.losses} times while it worked on this run.",
            "Look for memory limits and crashes in the workers' own logs.",
        )
        raise NeverPublished(RunStatus.FAILED, failure)
    reporter.log("info", "The destination says that nothing was published: starting over.")
    services.resume(claimed)


def _receipt(claimed: Claim, receipt: Mapping[str, Any]) -> dict[str, Any]:
    return {**receipt, "revision": claimed.revision}


# The two ends ---------------------------------------------------------------------------------


def _connections(claimed: Claim) -> Mapping[UUID, Connection]:
    ends = (claimed.definition["source"], claimed.definition["destination"])
    return Connection.objects.in_bulk([UUID(end["connection"]) for end in ends])


def _open_source(claimed: Claim, connections: Mapping[UUID, Connection]) -> Source:
    kind, options = _options("source", claimed, connections)
    return registry.source_type(kind)(options)


def _open_destination(claimed: Claim, connections: Mapping[UUID, Connection]) -> Destination:
    kind, options = _options("destination", claimed, connections)
    return registry.destination_type(kind)(options)


def _options(end: str, claimed: Claim, connections: Mapping[UUID, Connection]) -> tuple[str, Any]:
    """Kind and options of one end, as they are stored now."""
    found = connections.get(UUID(claimed.definition[end]["connection"]))
    if found is None:
        raise ConnectorError(f"The {end} connection was deleted.", code="connection_missing", field=end)
    try:
        return found.kind, found.typed_options()
    except KeyLost as error:
        raise ConnectorError(
            str(error),
            code="encryption_key_lost",
            hint="Put the old key back into ENCRYPTION_KEYS, or enter the connection's secrets again.",
            field=end,
        ) from error


_installation_id: UUID | None = None


def _installation() -> UUID:
    global _installation_id
    if _installation_id is None:
        _installation_id = services.installation_id()
    return _installation_id


def _write_down(write: Callable[[], None], claimed: Claim) -> None:
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
