"""Checks of rows that are about to be published, as SQL: every row-level check shares one scan where it can."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from connectors.base import Reporter, StopSignal
from connectors.checks import CheckKind, CheckResult, Status
from connectors.checksums import AskSource
from connectors.column import Column
from connectors.errors import Held
from connectors.modes import WriteMode
from connectors.postgres.auditing.diverting import are_put_aside, put_aside
from connectors.postgres.auditing.judging import Scene, judge
from connectors.postgres.auditing.one_look import OF_EACH_ROW, Looked, take
from connectors.postgres.auditing.outcome import outcome
from connectors.postgres.client import Session
from connectors.postgres.publish import by_key
from connectors.postgres.publish.marks import Seen
from connectors.postgres.quarantine import Quarantine
from connectors.proofs import mark
from connectors.target_options import TargetOptions
from connectors.writing import Target

if TYPE_CHECKING:
    from connectors.request import TransferRequest

__all__ = ["CHECK_FAILED", "Looked", "audit", "divert", "look_through", "refuse_bad"]

CHECK_FAILED = "check_failed"
HINT = "Look at the bad rows on the run's page. Approve the run to publish its rows as they are, or discard it."


def look_through(
    session: Session,
    request: TransferRequest,
    method: str,
    staged: Target,
    columns: Sequence[Column],
    options: TargetOptions,
    proven: frozenset[str],
    *,
    stop: StopSignal,
) -> Looked:
    """Count rows that an earlier transaction staged, and look at them for checks in the same scan.

    Checks whose marks are `proven` need none. An index that is yet to be made for the new table tells whether values
    are unique, and of a key only one row comes.
    """
    indexed = set()
    if method in ("create", "rename"):
        indexed = {_named(index.columns) for index in options.indexes if index.unique} | {_named(options.primary_key)}
    asked = [
        check
        for check in request.checks
        if (check.kind in OF_EACH_ROW and mark(check) not in proven)
        or (check.kind is CheckKind.UNIQUE and method not in by_key.METHODS and _named(check.columns) not in indexed)
    ]
    return take(session, staged, columns, asked, stop=stop)


def _named(columns: Sequence[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in columns)


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
    looked: Looked | None = None,
    proven: frozenset[str] = frozenset(),
    reporter: Reporter,
    stop: StopSignal,
) -> tuple[CheckResult, ...]:
    """Judge all checks of the staged rows that `method` is about to bring into the target, and say what came of it.

    `judged` are those that have been already, as their bad rows were put aside; `looked` is what `look_through` found,
    `proven` the marks of checks that each row passed when it was sent.
    """
    if not request.checks:
        return ()
    began = time.monotonic() - (looked.seconds if looked else 0.0)
    leaves = outcome(session, method, staged, target, columns, mode, seen)
    scene = Scene(staged, target, columns, rows, leaves, request.former_rows, ask_source, looked, proven)
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
    looked: Looked | None = None,
    proven: frozenset[str] = frozenset(),
    stop: StopSignal,
) -> tuple[tuple[CheckResult, ...], int]:
    """Move rows that fail a check of their own into quarantine; gives what became of the checks, and how many moved."""
    checks, _ = are_put_aside(request.checks, is_on=request.quarantine.is_on)
    if not checks:
        return (), 0
    leaves = outcome(session, method, staged, target, columns, mode)
    scene = Scene(staged, target, columns, rows, leaves, looked=looked, proven=proven)
    return put_aside(session, checks, scene, quarantine, stop=stop)


def refuse_bad(results: Sequence[CheckResult]) -> None:
    """Raise Held if a person has to look at what these say."""
    bad = [result for result in results if result.holds]
    if bad:
        more = f" ({_checks(len(bad) - 1)} more did not pass.)" if len(bad) > 1 else ""
        raise Held(f"Check {bad[0].name}: {bad[0].message}{more}", hint=HINT, code="check_failed", field="checks")


def _checks(count: int) -> str:
    return "1 check" if count == 1 else f"{count} checks"
