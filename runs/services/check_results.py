"""What checks came to, kept as their history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connectors.checks import CheckResult as Result
from runs.models import CheckResult
from runs.services.journal import storable
from runs.services.ownership import Claim
from runs.states import RunStatus

_KEPT = ("kind", "severity", "status", "message", "value", "seconds", "sample")


def keep_results(claimed: Claim, results: Sequence[Result]) -> None:
    """Write down what the checks of an attempt came to, in place of what those of an earlier one did.

    Bad rows are kept of a check's newest failure only, and of runs that are held.
    """
    CheckResult.objects.bulk_create(
        [_row(claimed, result, result.sample) for result in results],
        update_conflicts=True,
        unique_fields=["run", "name"],
        update_fields=_KEPT,
    )
    if names := [result.name for result in results if result.sample is not None]:
        older = CheckResult.objects.filter(pipeline=claimed.pipeline, name__in=names, sample__isnull=False)
        older.exclude(run=claimed.run).exclude(run__status=RunStatus.HELD).update(sample=None)


def note_results(claimed: Claim, told: Sequence[Mapping[str, Any]]) -> None:
    """Write down what a receipt says of checks, unless that is known: whoever made them may have died since."""
    rows = [_row(claimed, Result.from_json(each), None) for each in told]
    CheckResult.objects.bulk_create(rows, ignore_conflicts=True)


def _row(claimed: Claim, result: Result, sample: Any) -> CheckResult:
    return CheckResult(
        run_id=claimed.run,
        pipeline_id=claimed.pipeline,
        name=result.name,
        kind=str(result.kind),
        severity=str(result.severity),
        status=str(result.status),
        message=storable(result.message),
        value=result.value,
        seconds=result.seconds,
        sample=sample and {"columns": list(sample.columns), "rows": [list(row) for row in sample.rows]},
    )
