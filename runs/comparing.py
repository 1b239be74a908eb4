"""A run that compares: it reads both sides, and writes nothing but its own receipt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from connectors import column_rules, comparing, masks
from connectors.base import Destination, Source
from connectors.billing import Estimate
from connectors.errors import ConnectorError
from connectors.modes import Deletes, TextPolicy, WriteDisposition, WriteMode
from connectors.parameters import INTERVAL, names_it
from connectors.reading import ReadRequest
from connectors.sides import Published
from runs import actions, cost_guard, ends
from runs.lease import Lease
from runs.models import Run, RunAction
from runs.reporter import Reporter
from runs.services import Claim
from runs.states import RunStatus
from runs.values import as_last_moved, as_run, parameters_of, target_of


@dataclass(frozen=True)
class Options:
    """What a person asked for; `maximum_bytes_billed` is what they were told that it may cost."""

    at_snapshot: bool = True
    look_for_keys: bool = True
    maximum_bytes_billed: int | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        return cls(
            at_snapshot=told.get("at", "snapshot") == "snapshot",
            look_for_keys=bool(told.get("keys", True)),
            maximum_bytes_billed=told.get("maximum_bytes_billed"),
        )


def compare(claimed: Claim, lease: Lease, reporter: Reporter) -> dict[str, Any]:
    """Compare both sides of the claimed run's pipeline; returns what was found, as the run keeps it."""
    actions.go_on(claimed, reporter, "A comparison publishes nothing: starting over.")
    lease.check()
    reporter.phase("comparing")
    # What is there is what the last run that moved rows left there, with the values that it had.
    claimed = as_last_moved(claimed)
    destination = ends.open_destination(claimed, ends.connections(claimed))
    try:
        published = _published(claimed, destination)
        _refuse_intervals(claimed)
        # What is there was read and written as the published run's definition said, not as the next run's will.
        run = Run.objects.filter(pk=published.run, pipeline=claimed.pipeline).select_related("revision").first()
        told = _definition(claimed, published, run, destination.mask_key, reporter)
        former = replace(as_run(claimed, run), definition=told)
        source = ends.open_source(former, ends.connections(former), reporter.meter)
        try:
            request = request_of(former, Options.of(claimed.options))
            limit = cost_guard.limit_of(claimed, reporter, lambda: _estimate(source, request, published))
            if limit is not None:
                most = min(limit, request.read.maximum_bytes_billed or limit)
                request = replace(request, read=replace(request.read, maximum_bytes_billed=most))
            found = comparing.compare(source, destination, request, published, log=reporter.log, stop=lease)
        finally:
            source.close()
    finally:
        destination.close()
    for finding in found.findings():
        reporter.log("warning" if finding.is_good is False else "info", finding.text)
    return actions.kept(claimed, found.to_json())


def _estimate(source: Source, request: comparing.ComparisonRequest, published: Published) -> Estimate:
    """What the comparison bills at most."""
    survey = source.survey(request.read, published.snapshot_time if request.at_snapshot else None)
    billed = comparing.bytes_billed(survey, look_for_keys=request.look_for_keys)
    why = "The source does not tell how many bytes a comparison reads."
    return Estimate(None, 0, why) if billed is None else Estimate(billed[1], 0)


def _published(claimed: Claim, destination: Destination) -> Published:
    target = target_of(claimed)
    published = destination.published(target)
    if published is None or published.pipeline != claimed.pipeline:
        raise comparing.nothing_published(target)
    return published


def _refuse_intervals(claimed: Claim) -> None:
    """Rows of many runs cannot be compared with what one of them would read."""
    definition = claimed.definition
    query, adds = definition["source"]["query"], definition["write_disposition"] != WriteDisposition.REPLACE
    if adds and any(names_it(query, name) for name in INTERVAL):
        raise ConnectorError(
            "Each run of this pipeline reads another data interval: no single query gives all rows of its target.",
            hint="Compare pipelines that replace their table, or that read only new rows by a cursor.",
            code="comparison_of_intervals",
        )


def _definition(claimed: Claim, published: Published, run: Run | None, key: str, reporter: Reporter) -> dict[str, Any]:
    """The definition that the published run went by; None is one that is not known here any more."""
    if run is not None:
        if run.revision.number != claimed.revision:
            reporter.log("info", f"What is there came by revision {run.revision.number}: it is compared by that one.")
        return run.revision.definition
    rules, _ = column_rules.from_json(claimed.definition["column_rules"])
    if published.fingerprint == masks.definition(claimed.fingerprint, column_rules.is_keyed(rules), key):
        return claimed.definition
    raise ConnectorError(
        f"What {target_of(claimed)} has came by another definition, which is not known here any more.",
        hint="Run the pipeline as it is now, then compare.",
        code="definition_changed",
    )


def request_of(claimed: Claim, options: Options) -> comparing.ComparisonRequest:
    definition = claimed.definition
    kept = Run.objects.filter(pipeline=claimed.pipeline, action=RunAction.KEEP, status=RunStatus.SUCCEEDED)
    return comparing.ComparisonRequest(
        read=ReadRequest(
            table=definition["source"]["table"],
            query=definition["source"]["query"],
            row_filter=definition.get("row_filter", ""),
            parameters=parameters_of(claimed),
            job_key=f"{claimed.run.hex}-{claimed.attempt}",
            labels={"datamantri_run": claimed.run.hex, "datamantri_pipeline": claimed.pipeline.hex},
            maximum_bytes_billed=options.maximum_bytes_billed,
            cursor=actions.cursor_read(definition),
        ),
        target=target_of(claimed),
        mode=WriteMode(
            WriteDisposition(definition["write_disposition"]),
            tuple(definition["merge_key"]),
            definition["cursor_column"],
            deletes=Deletes(definition.get("deletes", Deletes.KEEP)),
        ),
        text_policy=TextPolicy(definition["text_policy"]),
        rules=column_rules.from_json(definition["column_rules"])[0],
        at_snapshot=options.at_snapshot,
        look_for_keys=options.look_for_keys,
        has_former_rows=kept.exists(),
    )
