"""Checks of rows that are about to be published, as SQL: every row-level check shares one scan where it can."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from connectors.base import Column, Reporter, StopSignal, Target, WriteMode
from connectors.checks import CheckResult, Status
from connectors.errors import Held
from connectors.postgres.auditing.judging import Scene, judge
from connectors.postgres.auditing.outcome import outcome
from connectors.postgres.client import Session

if TYPE_CHECKING:
    from connectors.request import TransferRequest

__all__ = ["CHECK_FAILED", "audit", "refuse_bad"]

CHECK_FAILED = "check_failed"
HINT = "Look at the bad rows on the run's page. Approve the run to publish its rows as they are, or discard it."


def audit(
    session: Session,
    request: TransferRequest,
    method: str,
    staged: Target,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    rows: int,
    *,
    reporter: Reporter,
    stop: StopSignal,
) -> tuple[CheckResult, ...]:
    """Judge all checks of the staged rows that `method` is about to bring into the target, and say what came of it."""
    if not request.checks:
        return ()
    began = time.monotonic()
    leaves = outcome(session, method, staged, target, columns, mode)
    scene = Scene(staged, target, columns, rows, leaves, request.former_rows)
    results = judge(session, request.checks, scene, stop=stop)
    reporter.audited(results)
    passed = sum(result.status is Status.PASSED for result in results)
    reporter.log("info", f"{passed} of {_checks(len(results))} passed in {time.monotonic() - began:.2f} s.")
    for result in results:
        if result.is_bad:
            reporter.log("warning", f"Check {result.name}: {result.message}")
        elif result.status is Status.SKIPPED:
            reporter.log("info", f"Check {result.name} was left out: {result.message}")
    return results


def refuse_bad(results: Sequence[CheckResult]) -> None:
    """Raise Held if a person has to look at what these say."""
    bad = [result for result in results if result.holds]
    if bad:
        more = f" ({_checks(len(bad) - 1)} more did not pass.)" if len(bad) > 1 else ""
        raise Held(f"Check {bad[0].name}: {bad[0].message}{more}", hint=HINT, code="check_failed", field="checks")


def _checks(count: int) -> str:
    return "1 check" if count == 1 else f"{count} checks"
