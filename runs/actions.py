"""What a claimed run does, by its action; each returns the receipt of what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from connectors import column_rules, masks
from connectors.base import Destination, Source
from connectors.billing import Estimate
from connectors.column import column_from_json
from connectors.cursor import CursorRead, Span
from connectors.errors import ConnectorError, NewGeneration
from connectors.modes import Deletes, Guard, Refresh, TextPolicy, WriteDisposition, WriteMode
from connectors.reading import ReadRequest
from connectors.sql_around import MENDABLE, SqlAround
from connectors.target_options import TargetOptions
from connectors.writing import Fence
from pipelines import deletions, quarantines, schema_policies
from pipelines.models import Connection, LoadMethod, Pipeline
from runs import capacity, cost_guard, endings, ends, quarantining, services, undoing
from runs.endings import Divided, NeverPublished, Standing
from runs.lease import Lease
from runs.models import Attempt, Decision, PartLoad, RunAction
from runs.reporter import Reporter
from runs.row_checks import checks_of, former_rows
from runs.services import Claim, Failure
from runs.states import RunStatus, Step
from runs.superseding import superseded_by
from runs.values import parameters_of

if TYPE_CHECKING:
    from connectors.receipt import Receipt
    from connectors.request import TransferRequest

LOSSES_LIMIT = 10
PARTS_LEAST, PARTS_MOST = 8, 200
# What taking away staged rows may wait for.
TAKE_AWAY_S = 10.0
ARCHIVED = Failure("pipeline_archived", "The pipeline was archived before this run's turn came. Nothing was published.")
_BY_KEY = (WriteDisposition.MERGE, WriteDisposition.HISTORY)
_NO_LOAD = (RunAction.REPLAY, RunAction.SET_WATERMARK)
_REFRESH = {RunAction.FULL_REFRESH: Refresh.FULL, RunAction.KEEP: Refresh.KEEP}


def perform(claimed: Claim, standing: Standing, lease: Lease, reporter: Reporter) -> dict[str, Any] | Divided:
    """Do what the run asks for, unless a former attempt already published it; returns the receipt.

    A load in parts comes here twice: for its plan, which gives the parts, and for its publish. What ends the run for
    good takes away what it staged.
    """
    if claimed.is_archived and not standing.is_unknown and not claimed.step and not claimed.decision:
        raise NeverPublished(RunStatus.CANCELLED, ARCHIVED)
    connections = ends.connections(claimed)
    destination = ends.open_destination(claimed, connections)
    try:
        fence = ends.raise_fence(claimed, destination, lease)
        if fence.applied is not None:
            reporter.log("info", "A former attempt had published this run already: nothing to do again.")
            return kept(claimed, fence.applied.receipt)
        try:
            receipt = _perform(claimed, standing, connections, destination, fence, lease, reporter)
        except (NeverPublished, ConnectorError) as error:
            if endings.is_final(claimed, lease, error):
                take_away(destination, fence, lease, reporter)
            raise
    finally:
        destination.close()
    return receipt if isinstance(receipt, Divided) else kept(claimed, receipt.to_json())


def _perform(
    claimed: Claim,
    standing: Standing,
    connections: Mapping[UUID, Connection],
    destination: Destination,
    fence: Fence,
    lease: Lease,
    reporter: Reporter,
) -> Receipt | Divided:
    """Do it, with the fence raised and nothing published yet."""
    if claimed.decision and (claimed.decision == Decision.DISCARD or claimed.cancel_requested):
        raise NeverPublished(RunStatus.CANCELLED, None)
    if standing.is_unknown:
        then = "publishing what is staged" if claimed.step else "starting over"
        go_on(claimed, reporter, f"The destination says that nothing was published: {then}.")
        standing.is_unknown = False
    lease.check()
    if claimed.action == RunAction.UNDO:
        standing.is_loading = True
        return undoing.perform(claimed, destination, fence, lease, reporter)
    if claimed.decision == Decision.PUBLISH:
        standing.is_loading = True
        request = _mended(claimed, transfer_request(claimed, fence, destination))
        return _engine().publish_staged(
            *(destination, fence, request),
            approved=claimed.approved,
            reporter=reporter,
            stop=lease,
            ends=partial(_ends, claimed, lease),
        )
    if claimed.step == Step.PUBLISH:
        return _publish_parts(claimed, standing, connections, destination, fence, lease, reporter)
    return _read(claimed, standing, connections, destination, fence, lease, reporter)


def _mended(claimed: Claim, request: TransferRequest) -> TransferRequest:
    """With the pipeline's SQL as it is now, where that of then was what held the run, at last or before."""
    held = Attempt.objects.filter(run=claimed.run, error_code__in=MENDABLE)
    if claimed.approved not in MENDABLE and not held.exists():
        return request
    alike = Pipeline.objects.filter(pk=claimed.pipeline, revision__fingerprint=claimed.fingerprint)
    now = alike.values_list("revision__definition", flat=True).first()
    return request if now is None else replace(request, sql=SqlAround.of(now))


def take_away(destination: Destination, fence: Fence, lease: Lease, reporter: Reporter) -> None:
    """Drop what this run staged; where that cannot be done now, a later run of the pipeline does it."""
    if not fence.leftovers:
        return
    try:
        with lease.patience(TAKE_AWAY_S):
            destination.forget_staged(fence, fence.leftovers)
    except ConnectorError as error:
        reporter.log("warning", f"What was staged could not be taken away: {error.message} A later run does it.")


def _publish_parts(
    claimed: Claim,
    standing: Standing,
    connections: Mapping[UUID, Connection],
    destination: Destination,
    fence: Fence,
    lease: Lease,
    reporter: Reporter,
) -> Receipt | Divided:
    """Publish what the parts staged."""
    from connectors import staged

    source = ends.open_source(claimed, connections, reporter.meter)
    try:
        failed = services.failed_part(claimed.run)
        if failed is not None:
            raise _as_raised(failed)
        standing.is_loading = True
        request = transfer_request(claimed, fence, destination)
        return staged.publish_parts(
            *(source, destination, fence, request),
            reporter=reporter,
            stop=lease,
            ends=partial(_ends, claimed, lease),
        )
    except staged.Unfinished as unfinished:
        reporter.log(
            "warning", f"{len(unfinished.parts)} parts are not whole at the destination: they are loaded again."
        )
        return Divided(unfinished.generation, fence.token, again=tuple(unfinished.parts))
    finally:
        source.close()


def _ends(claimed: Claim, lease: Lease, error: ConnectorError) -> bool:
    """Whether this was the last attempt, and nobody asked for its end."""
    return not lease.reason and endings.is_final(claimed, lease, error)


def _as_raised(failed: PartLoad) -> ConnectorError:
    """The error that ended a part. Only a new plan can be tried: the part's own tries are used up."""
    told = {"hint": failed.error_hint, "code": failed.error_code}
    kind = NewGeneration if failed.error_code == NewGeneration.code else ConnectorError
    return kind(f"Part {failed.number + 1}: {failed.error_message}", **told)


def _read(
    claimed: Claim,
    standing: Standing,
    connections: Mapping[UUID, Connection],
    destination: Destination,
    fence: Fence,
    lease: Lease,
    reporter: Reporter,
) -> Receipt | Divided:
    """Do what needs the source as well."""
    if claimed.action in _NO_LOAD:
        _refuse_beside_held(claimed)
    source = ends.open_source(claimed, connections, reporter.meter)
    try:
        request = transfer_request(claimed, fence, destination)
        standing.is_loading = True
        if claimed.action == RunAction.REPLAY:
            return quarantining.replay(claimed, source, destination, fence, request, lease, reporter)
        if claimed.action == RunAction.SET_WATERMARK:
            value = str(claimed.options.get("watermark", ""))
            return _engine().set_watermark(source, destination, fence, request, value, reporter=reporter)
        return _load(claimed, source, destination, fence, request, lease, reporter)
    finally:
        source.close()


def _refuse_beside_held(claimed: Claim) -> None:
    """Raise ConnectorError if a load was held since this was asked for, whose rows it would put out of date.

    Waiting for a person's decision it would hold up the loads behind it.
    """
    try:
        services.refuse_beside_held(claimed.pipeline)
    except services.RunRefused as refused:
        raise ConnectorError(
            refused.message, hint=f"{refused.hint} Then ask for this again.", code="run_held"
        ) from refused


def _load(
    claimed: Claim,
    source: Source,
    destination: Destination,
    fence: Fence,
    request: TransferRequest,
    lease: Lease,
    reporter: Reporter,
) -> Receipt | Divided:
    """Load in one go, or plan a load in parts: as the pipeline says, or as the size suggests."""
    from connectors import staged, transfer

    try:
        limit = cost_guard.limit_of(claimed, reporter, lambda: _estimate(source, fence, request))
    except cost_guard.OverBudget:
        # Whatever a former attempt staged: should it go on, it makes a new plan.
        take_away(destination, fence, lease, reporter)
        raise
    if limit is not None:
        request = replace(request, read=replace(request.read, maximum_bytes_billed=limit))
    method = claimed.definition.get("load_method", LoadMethod.AUTO)
    planned = partial(transfer.prepare, source, destination, fence, request, stop=lease)
    if method == LoadMethod.AUTO and request.read.cursor is not None:
        # A second plan would ask for the cursor's bounds, and be billed, once more.
        is_large = (source.describe(request.read).bytes or 0) >= staged.LARGE_BYTES
        prepared = planned(parts=_parts() if is_large else 0)
    else:
        prepared = planned(parts=_parts() if method == LoadMethod.STAGED else 0)
        is_large = method == LoadMethod.AUTO and staged.is_large(prepared.plan)
        if is_large:
            prepared = planned(parts=_parts())
    if limit is not None:
        cost_guard.look_again(claimed, reporter, prepared.plan)
    if is_large and staged.is_large(prepared.plan):
        reporter.log("info", "So large a read is divided into parts: each keeps what it has when something fails.")
        method = LoadMethod.STAGED
    if method == LoadMethod.STAGED:
        made = staged.stage(
            destination, fence, request, prepared, generation=claimed.attempt, reporter=reporter, stop=lease
        )
        if made is not None:
            new = tuple(services.NewPart(part.name, part.rows) for part in made.parts)
            return Divided(made.generation, fence.token, new)
    return transfer.direct(source, destination, fence, request, prepared=prepared, reporter=reporter, stop=lease)


def _estimate(source: Source, fence: Fence, request: TransferRequest) -> Estimate:
    """What the load would bill, its checks included."""
    from connectors import checksums, transfer

    return checksums.with_checksums(source.estimate(transfer.reading(fence, request)), source, request)


def _parts() -> int:
    """More parts than workers, so that a large one holds up nobody."""
    return min(PARTS_MOST, max(PARTS_LEAST, 3 * capacity.total_slots()))


def transfer_request(claimed: Claim | services.PartClaim, fence: Fence, destination: Destination) -> TransferRequest:
    """What the engine has to know, of the definition that this run is of."""
    definition, span = claimed.definition, span_of(claimed)
    rules, key = column_rules.from_json(definition["column_rules"])[0], destination.mask_key
    return _engine().TransferRequest(
        owner=fence.owner,
        read=ReadRequest(
            table=definition["source"]["table"],
            query=definition["source"]["query"],
            row_filter=definition.get("row_filter", ""),
            parameters=parameters_of(claimed),
            job_key=f"{claimed.run.hex}-{claimed.attempt}",
            labels={"datamantri_run": claimed.run.hex, "datamantri_pipeline": claimed.pipeline.hex},
            cursor=cursor_read(definition, span),
        ),
        target=fence.target,
        mode=WriteMode(
            WriteDisposition(definition["write_disposition"]),
            tuple(definition["merge_key"]),
            definition["cursor_column"] if definition["write_disposition"] in _BY_KEY else "",
            TargetOptions.from_json(definition["target_options"]),
            span if definition["write_disposition"] == WriteDisposition.APPEND else None,
            deletes=Deletes(definition.get("deletes", Deletes.KEEP)),
            sees_all=deletions.sees_all(definition, claimed.options),
            undo_depth=definition.get("undo_depth", 0),
        ),
        text_policy=TextPolicy(definition["text_policy"]),
        quarantine=quarantines.rule_of(definition),
        guard=Guard(definition["guard_zero_rows"], definition["guard_shrink_percent"]),
        checks=checks_of(claimed),
        former_rows=former_rows(claimed),
        refresh=_REFRESH.get(RunAction(claimed.action), Refresh.NEW),
        fingerprint=masks.definition(claimed.fingerprint, column_rules.is_keyed(rules), key),
        adopt=definition["destination"]["adopt"],
        rules=rules,
        mask_key=key,
        schema_policy=schema_policies.policy_of(definition),
        sql=SqlAround.of(definition),
        supersedes=superseded_by(claimed, fence),
        expected=tuple(map(column_from_json, definition["source"]["columns"] or ())),
    )


def span_of(claimed: Claim | services.PartClaim) -> Span | None:
    """The past range of the cursor that a slice of a backfill loads again."""
    told = claimed.options.get("span")
    if claimed.action != RunAction.BACKFILL or told is None:
        return None
    if not claimed.definition["incremental"]:
        raise ConnectorError(
            "The pipeline no longer reads by a cursor, of which this is a range.",
            hint="Cancel the backfill, and start another.",
            code="backfill_redefined",
        )
    return Span(claimed.definition["cursor_column"], told["low"], told["high"])


def cursor_read(definition: Mapping[str, Any], span: Span | None = None) -> CursorRead | None:
    if not definition["incremental"]:
        return None
    return CursorRead(
        definition["cursor_column"],
        initial=definition["initial_value"],
        lookback=definition["lookback"],
        settles=definition["write_disposition"] == WriteDisposition.APPEND,
        settle=definition["settle"],
        span=span,
    )


def _engine() -> ModuleType:
    """Imported where rows move: it brings pyarrow, which web and beat do without."""
    from connectors import transfer

    return transfer


def go_on(claimed: Claim, reporter: Reporter, why: str) -> None:
    """Nothing was published by a lost attempt: run on, or end for good."""
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
    if claimed.status == RunStatus.RESOLVING:
        reporter.log("info", why)
        services.resume(claimed)


def kept(claimed: Claim, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """The receipt as the run keeps it."""
    return {**receipt, "revision": claimed.revision}
