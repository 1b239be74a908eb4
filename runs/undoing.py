"""A run that puts a former state of its pipeline's table back; what is kept is told by the destination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib.admin.models import CHANGE, LogEntry

from connectors.base import Destination
from connectors.writing import Fence
from pipelines import lookups
from pipelines.models import Pipeline
from runs import services
from runs.lease import Lease
from runs.models import Run
from runs.reporter import Reporter
from runs.services import Claim

if TYPE_CHECKING:
    from connectors.receipt import Receipt


@dataclass(frozen=True)
class Former:
    """A former state as the page shows it; `made_by` is the run that left it so, where it is still known here."""

    kept: UUID
    expected: UUID | None
    schema: str
    table: str
    kept_as: str
    kept_at: datetime
    made_by: Run | None
    watermark: str
    is_copy: bool
    is_there: bool
    rows: int | None
    bytes: int
    is_redefined: bool

    @property
    def target(self) -> str:
        return f"{self.schema}.{self.table}"

    @property
    def value(self) -> str:
        """What is asked for: this state, on the ground of what was published last."""
        return f"{self.kept}.{self.expected or ''}"


def former_states(pipeline: Pipeline) -> list[Former]:
    """Ask the destination what is kept; the page waits for the answer. Raises LookupFailed."""
    found = lookups.former_states(pipeline)
    made_by = Run.objects.select_related("revision").in_bulk([one["made_by"] for one in found if one["made_by"]])
    return [_former(one, made_by) for one in found]


def _former(one: Mapping[str, Any], runs: Mapping[UUID, Run]) -> Former:
    return Former(
        kept=UUID(one["run"]),
        expected=UUID(one["last_run"]) if one["last_run"] else None,
        schema=one["target"]["schema"],
        table=one["target"]["table"],
        kept_as=one["table"],
        kept_at=datetime.fromisoformat(one["kept_at"]),
        made_by=runs.get(UUID(one["made_by"])) if one["made_by"] else None,
        watermark=one["watermark"],
        is_copy=one["is_copy"],
        is_there=one["is_there"],
        rows=one["rows"],
        bytes=one["bytes"],
        is_redefined=one["is_redefined"],
    )


def drop(pipeline: Pipeline, *, by: Any) -> dict[str, Any]:
    """Let go of what is kept: nothing can be put back then; the admin's log keeps who and when. Raises LookupFailed."""
    if by is not None and by.is_authenticated:
        # First, for the destination may do it although its answer comes too late.
        chosen = Pipeline.objects.filter(pk=pipeline.pk)
        LogEntry.objects.log_actions(by.pk, chosen, CHANGE, "Drops the former tables that are kept for an undo.")
    done: dict[str, Any] = lookups.drop_former(pipeline)
    return done


def find(states: Sequence[Former], kept: UUID) -> Former | None:
    return next((state for state in states if state.kept == kept), None)


def perform(claimed: Claim, destination: Destination, fence: Fence, lease: Lease, reporter: Reporter) -> Receipt:
    """Put back what the run asks for."""
    from connectors import undo

    expected = claimed.options.get("expected")
    request = undo.UndoRequest(
        fence.target,
        kept=UUID(claimed.options["kept"]),
        expected=UUID(expected) if expected else None,
        depth=claimed.definition.get("undo_depth", 0),
    )
    return undo.undo(destination, fence, request, reporter=reporter, stop=lease)


def request(
    pipeline: Pipeline,
    state: Former,
    *,
    trigger: str,
    by: Any,
    idempotency_key: str | None = None,
    request_digest: str = "",
) -> tuple[Run, bool]:
    """Ask for an undo to this state; says whether the run is new. Raises RunRefused."""
    return services.request_undo(
        pipeline,
        trigger=trigger,
        by=by,
        kept=state.kept,
        expected=state.expected,
        target={"schema": state.schema, "table": state.table},
        idempotency_key=idempotency_key,
        request_digest=request_digest,
    )
