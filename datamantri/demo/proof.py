"""Does the destination hold what the source holds? What a comparison found, in one line."""

from __future__ import annotations

from runs.models import Run
from runs.states import RunStatus


def agrees(comparison: Run) -> bool:
    return comparison.status == RunStatus.SUCCEEDED and comparison.receipt["agrees"] is True


def in_words(comparison: Run) -> str:
    if comparison.status != RunStatus.SUCCEEDED:
        return f"NOT COMPARED: {comparison.error_message}"
    findings = {finding["code"]: finding["text"] for finding in comparison.receipt["findings"]}
    if not agrees(comparison):
        return f"DIFFERS: {' '.join(findings.values())}"
    counted = [column["name"] for column in comparison.receipt["columns"] if column["counted_only"]]
    return f"agrees (counted only: {', '.join(counted)})" if counted else "agrees"
