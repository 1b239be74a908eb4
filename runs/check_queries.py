"""Results of checks as pages show them: of one run, and over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from connectors.check_rules import named
from connectors.checks import Check, CheckKind, Severity, Status, checks_from_json
from pipelines.checks import in_words
from pipelines.models import Pipeline
from runs.models import CheckResult, Run
from runs.words import compact, span

SHOWN = 30
# The colours and shapes of runs stand for those of checks as well.
LOOKS = {
    Status.PASSED.value: "succeeded",
    Status.FAILED.value: "failed",
    Status.UNKNOWN.value: "retrying",
    Status.SKIPPED.value: "cancelled",
}
_LEAST_HEIGHT = 3.0


@dataclass(frozen=True)
class Bar:
    result: CheckResult
    look: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class History:
    """A check and its newest results, oldest first, as bars; a bad one without a number has the full height."""

    check: Check
    words: str
    newest: CheckResult | None
    look: str
    bars: Sequence[Bar]
    width: float
    height: float
    summary: str
    highest: str


def look_of(result: CheckResult) -> str:
    """A check that does not hold its run is a warning when it fails."""
    if result.status == Status.FAILED and result.severity != Severity.HOLD:
        return "held"
    return LOOKS[result.status]


def results_of(run: Run) -> list[CheckResult]:
    """What the checks of a run came to, in their order; a run whose definition has none costs no query."""
    if not run.revision.definition.get("checks"):
        return []
    found = list(run.check_results.all())
    for result in found:
        result.look = look_of(result)  # type: ignore[attr-defined]
    return found


def histories_of(pipeline: Pipeline) -> list[History]:
    """Each check of a pipeline with its newest results; nothing is asked for a pipeline without checks."""
    told = pipeline.revision.definition.get("checks") if pipeline.revision else None
    if not told:
        return []
    checks = named(checks_from_json(told))
    newest = CheckResult.objects.filter(pipeline=pipeline).defer("sample").order_by("-at", "-pk")
    found: dict[str, list[CheckResult]] = defaultdict(list)
    for result in newest[: SHOWN * len(checks)]:
        found[result.name].append(result)
    return [_history(check, found[check.name][:SHOWN][::-1]) for check in checks]


def _history(check: Check, results: Sequence[CheckResult], width: float = 240.0, height: float = 32.0) -> History:
    highest = max((result.value or 0 for result in results), default=0)
    step = width / SHOWN
    bars = []
    for place, result in enumerate(results):
        look = look_of(result)
        share = (result.value or 0) / highest if highest else 0.0
        if result.status in (Status.FAILED, Status.UNKNOWN) and not result.value:
            share = 1.0
        tall = max(_LEAST_HEIGHT, round(height * share, 2))
        bars.append(Bar(result, look, round(place * step + 1, 2), round(height - tall, 2), round(step - 2, 2), tall))
    newest = results[-1] if results else None
    counts = ((label, sum(result.status == status for result in results)) for status, label in _LABELS.items())
    said = ", ".join(f"{count} {label}" for label, count in counts if count)
    return History(
        check,
        in_words(check),
        newest,
        look_of(newest) if newest else "",
        bars,
        width,
        height,
        f"{_last(len(results))}: {said}" if results else "No results yet",
        _amount(check, highest) if highest else "",
    )


def _last(results: int) -> str:
    return "The last result" if results == 1 else f"Last {results} results"


_LABELS = {"passed": "passed", "failed": "failed", "unknown": "could not be made", "skipped": "left out"}


def _amount(check: Check, value: float) -> str:
    if check.kind is CheckKind.FRESHNESS:
        return f"oldest {span(value)}"
    what = {CheckKind.ROW_COUNT: "row", CheckKind.CHECKSUM: "column"}.get(check.kind, "bad row")
    return f"highest {compact(int(value))} {what}{'' if value == 1 else 's'}"
