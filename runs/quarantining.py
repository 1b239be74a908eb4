"""Quarantined rows of a pipeline: looked at, discarded, and replayed by a run of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.contrib.admin.models import CHANGE, LogEntry

from connectors import naming
from connectors.base import Destination, Source
from connectors.counts import counted
from connectors.postgres.quarantined import Wanted
from connectors.writing import Fence
from pipelines import lookups
from pipelines.models import Pipeline
from runs import services
from runs.lease import Lease
from runs.models import Run, RunAction
from runs.reporter import Reporter
from runs.services import Claim, RunRefused

if TYPE_CHECKING:
    from connectors.postgres.destination import PostgresDestination
    from connectors.receipt import Receipt
    from connectors.request import TransferRequest

NOTE_LENGTH = 500


def look(pipeline: Pipeline, wanted: Mapping[str, Any], *, with_rows: bool) -> dict[str, Any]:
    """What the destination has in quarantine of a pipeline; rows are data, for those who may see them.

    Raises LookupFailed.
    """
    found = lookups.quarantined(pipeline, dict(wanted))
    return found if with_rows else {**found, "rows": []}


def discard(pipeline: Pipeline, wanted: Mapping[str, Any], *, by: Any, note: str = "") -> dict[str, int]:
    """Let nobody replay these open rows any more; the destination and the admin's log keep who, when and why.

    Says how many were `discarded`, and how many like them came `later` than `wanted["as_of"]` and stay open. Raises
    LookupFailed.
    """
    who = by.get_username() if by is not None else ""
    if by is not None and by.is_authenticated:
        # First, for the destination may do it although its answer comes too late.
        chosen = {name: value for name, value in wanted.items() if value and name not in ("ids", "state", "as_of")}
        told = ", ".join(f"{name} {value}" for name, value in chosen.items())
        count = len(wanted.get("ids") or ())
        which = counted(count) if count else f"all open rows{f' of {told}' if told else ''}"
        said = f"Discards {which} of the quarantine. {note[:NOTE_LENGTH]}".strip()
        LogEntry.objects.log_actions(by.pk, Pipeline.objects.filter(pk=pipeline.pk), CHANGE, said)
    done: dict[str, int] = lookups.discard_quarantined(pipeline, dict(wanted), by=who, note=note[:NOTE_LENGTH])
    return done


def request_replay(
    pipeline: Pipeline,
    wanted: Mapping[str, Any],
    *,
    trigger: str,
    by: Any,
    idempotency_key: str | None = None,
    request_digest: str = "",
) -> tuple[Run, bool]:
    """Queue a run that takes the open rows that are wanted into their target; says whether it is new.

    Raises RunRefused where there are none, or they are of several targets; LookupFailed.
    """
    if idempotency_key and (before := services.requested_before(by, idempotency_key, request_digest)):
        return before, False  # whatever has become of the rows since
    services.refuse_beside_held(pipeline.pk)
    asked = {**wanted, "state": "open"}
    targets = lookups.quarantined(pipeline, asked)["targets"]
    if not targets:
        raise RunRefused(
            "nothing_quarantined",
            "None of these rows is open.",
            "Somebody else may have decided on them, or a later run has made them old.",
        )
    if len(targets) > 1:
        raise RunRefused(
            "several_targets",
            "These rows belong into several tables.",
            "Choose those of one table: by the run that put them aside, or one by one.",
        )
    (target,) = targets
    _refuse_former(pipeline, target)
    options = {"target": {"schema": target["schema"], "table": target["table"]}, "quarantine": asked}
    return services.request_run(
        pipeline,
        trigger=trigger,
        by=by,
        action=RunAction.REPLAY,
        options=options,
        interval=(None, None),
        idempotency_key=idempotency_key,
        request_digest=request_digest,
    )


def _refuse_former(pipeline: Pipeline, target: Mapping[str, str]) -> None:
    """Raise RunRefused for rows of a table that no run of the pipeline writes any more: it has another now."""
    now = {"schema": pipeline.target_schema, "table": pipeline.target_table}
    if any(map(naming.is_template, now.values())) or all(target[name] == now[name] for name in now):
        return
    raise RunRefused(
        "former_target",
        f"These rows belong into {target['schema']}.{target['table']}, which {pipeline.name} writes no longer.",
        "Discard them, or let the pipeline write to that table again.",
    )


def replay(
    claimed: Claim,
    source: Source,
    destination: Destination,
    fence: Fence,
    request: TransferRequest,
    lease: Lease,
    reporter: Reporter,
) -> Receipt:
    """Load the rows that the run asks for, as far as they are still open."""
    from connectors import column_rules, transfer
    from connectors import replay as replays

    replays.refuse_redefined(fence, request)
    end: PostgresDestination = destination  # type: ignore[assignment] # the only kind there is
    wanted = Wanted.from_json(claimed.options["quarantine"])
    rows, later = end.choose_quarantined(fence.target, claimed.pipeline, wanted)
    columns = replays.columns_of(fence, source, request.read)
    loaded = replays.loaded_columns(fence, request, columns)
    chosen = replays.ReplaySource(rows, columns, loaded, column_rules.skipped(request.rules))
    replays.tell(chosen, reporter, chosen=len(rows), later=later)
    asked = replays.request_of(request, fence, chosen)
    return transfer.direct(chosen, end, fence, asked, reporter=reporter, stop=lease)
