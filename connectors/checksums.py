"""The checksum of each column as the source itself says it, for a check before the rows are published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from connectors.base import Source, StopSignal
from connectors.billing import Estimate, billed_for
from connectors.checks import CheckKind
from connectors.column import Column
from connectors.errors import ConnectorError
from connectors.reading import ReadPlan
from connectors.request import TransferRequest
from connectors.sides import Cost, Scope, TableDigest


@dataclass(frozen=True)
class SourceSums:
    """What the source says of the rows that this run read; `why_not` where it cannot."""

    digest: TableDigest | None
    why_not: str = ""
    bytes_billed: int = 0


AskSource = Callable[[Sequence[Column]], SourceSums]


def nobody_asked(columns: Sequence[Column]) -> SourceSums:
    return SourceSums(None, "The source is not read again for rows that are staged already.")


def rows_put_aside(columns: Sequence[Column]) -> SourceSums:
    return SourceSums(None, "Rows of this run are in quarantine: the sums of the others are not the source's.")


def with_checksums(told: Estimate, source: Source, request: TransferRequest) -> Estimate:
    """What a run bills, with what the source bills for checksums if checks ask for them."""
    if request.read.cursor is not None or all(check.kind is not CheckKind.CHECKSUM for check in request.checks):
        return told
    survey = source.survey(request.read, None)
    if told.query_bytes is None or not survey.bytes:
        return replace(told, query_bytes=None, why=told.why or "What checksums bill is not known.")
    return replace(told, query_bytes=told.query_bytes + billed_for(survey.bytes))


def source_sums(source: Source, request: TransferRequest, plan: ReadPlan, stop: StopSignal) -> AskSource:
    """Who asks for sums asks the source, at the snapshot that the rows were read at; that is billed as a query."""

    def ask(columns: Sequence[Column]) -> SourceSums:
        if request.read.cursor is not None:
            return SourceSums(None, "Of a run that reads only new rows the source has no checksum.")
        try:
            survey = source.survey(request.read, plan.snapshot_time)
        except ConnectorError as error:
            if error.transient:
                raise
            return SourceSums(None, error.message)
        if not survey.is_pinned:
            return SourceSums(None, survey.why_not or "The source cannot be read again as it was.")
        cost = Cost()
        scope = Scope(at=plan.snapshot_time, text_policy=request.text_policy)
        side = source.comparing(request.read, scope, tuple(columns), cost, stop=stop)
        try:
            return SourceSums(side.digest(columns), bytes_billed=cost.bytes_billed)
        except ConnectorError as error:
            if error.code != "bytes_billed_limit":
                raise
            # The rows are there, and were paid for: only the check is not to be had.
            return SourceSums(None, error.message, bytes_billed=cost.bytes_billed)

    return ask
