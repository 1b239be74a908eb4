"""What a run's checks have to know."""

from __future__ import annotations

from connectors.check_rules import named
from connectors.checks import Check, CheckKind, checks_from_json
from runs import services
from runs.models import Run, RunAction
from runs.states import RunStatus

# What reads as scheduled runs do; of a pipeline that reads everything each time, a full refresh as well.
_ALIKE = (RunAction.LOAD, RunAction.KEEP)


def checks_of(claimed: services.Claim | services.PartClaim) -> tuple[Check, ...]:
    """The checks of the definition that the run is of, each with a name."""
    return named(checks_from_json(claimed.definition.get("checks", ())))


def former_rows(claimed: services.Claim | services.PartClaim) -> tuple[int, ...] | None:
    """How many rows earlier runs moved, the newest first, where a check asks; None if this run is not like them."""
    wanted = [check.runs for check in checks_of(claimed) if check.kind is CheckKind.ROW_COUNT and check.percent]
    if not wanted or isinstance(claimed, services.PartClaim):
        return ()
    alike = _ALIKE if claimed.definition["incremental"] else (*_ALIKE, RunAction.FULL_REFRESH)
    if claimed.action not in alike:
        return None
    runs = Run.objects.filter(pipeline=claimed.pipeline, status=RunStatus.SUCCEEDED, action__in=alike)
    return tuple(runs.order_by("-created_at").values_list("rows", flat=True)[: max(wanted)])
