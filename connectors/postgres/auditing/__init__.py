"""Checks of rows that are about to be published, as SQL: every row-level check shares one scan where it can."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from connectors.base import Reporter, StopSignal
from connectors.checks import CheckResult, Status
from connectors.checksums import AskSource
from connectors.column import Column
from connectors.errors import Held
from connectors.modes import WriteMode
from connectors.postgres.auditing.diverting import are_put_aside, put_aside
from connectors.postgres.auditing.judging import Scene, judge
from connectors.postgres.auditing.outcome import outcome
from connectors.postgres.client import Session
from connectors.postgres.publish.marks import Seen
from connectors.postgres.quarantine import Quarantine
from connectors.writing import Target

if TYPE_CHECKING:
    from connectors.request import TransferRequest

__all__ = ["CHECK_FAILED", "audit", "divert", "refuse_bad"]

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
    ask_source: AskSource,
    seen: Seen,
    *,
    judged: Sequence[CheckResult] = (),
    reporter: Reporter,
    stop: StopSignal,
) -> tuple[CheckResult, ...]:
    """Judge all checks of the staged rows that `method` is about to bring into the target, and say what came of it.

    `judged` are those that have been already, as their bad rows were put aside.
    """
    if not request.checks:
        return ()
    began = time.monotonic()
    leaves = outcome(session, method, staged, target, columns, mode, seen)
    scene = Scene(staged, target, columns, rows, leaves, request.former_rows, ask_source)
    _, others = are_put_aside(request.checks, is_on=request.quarantine.is_on)
    results = (*judged, *judge(session, others, scene, stop=stop))
    reporter.audited(results)
    passed = sum(result.status is Status.PASSED for result in results)
    reporter.log("info", f"{passed} of {_checks(len(results))} passed in {time.monotonic() - began:.2f} s.")
    for result in results:
        if result.is_bad:
            reporter.log("warning", f"Check {result.name}: {result.message}")
        elif result.status is Status.SKIPPED:
            reporter.log("info", f"Check {result.name} was left out: {result.message}")
    return results


def divert(
    session: Session,
    request: TransferRequest,
    method: str,
    staged: Target,
    target: Target,
    columns: Sequence[Column],
    mode: WriteMode,
    rows: int,
    quarantine: Quarantine,
    *,
    stop: StopSignal,
) -> tuple[tuple[CheckResult, ...], int]:
    """Move rows that fail a check of their own into quarantine; gives what became of the checks, and how many moved."""
    checks, _ = are_put_aside(request.checks, is_on=request.quarantine.is_on)
    if not checks:
        return (), 0
    leaves = outcome(session, method, staged, target, columns, mode)
    return put_aside(session, checks, Scene(staged, target, columns, rows, leaves), quarantine, stop=stop)


def refuse_bad(results: Sequence[CheckResult]) -> None:
    """Raise Held if a person has to look at what these say."""
    bad = [result for result in results if result.holds]
    if bad:
        more = f" ({_checks(len(bad) - 1)} more did not pass.)" if len(bad) > 1 else ""
        raise Held(f"Check {bad[0].name}: {bad[0].message}{more}", hint=HINT, code="check_failed", field="checks")


def _checks(count: int) -> str:
    return "1 check" if count == 1 else f"{count} checks"
