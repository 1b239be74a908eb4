"""What is kept of a case that went wrong, for whoever looks into it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from runs.models import LogLine, Run
from tests.chaos import history
from tests.chaos.stack import Stack, insist

if TYPE_CHECKING:
    from tests.chaos.lanes import Outcome

KEPT = Path(__file__).resolve().parents[2] / "test-results" / "chaos"


def keep_if_wrong(stack: Stack, how: str, outcome: Outcome) -> None:
    if not outcome.verdict.is_right:
        keep(stack, how, [str(outcome.verdict), *insist(lambda: _of_run(outcome.run))])


def keep(stack: Stack, how: str, told: Iterable[str]) -> Path:
    """Write down what is known, beside the logs of all processes; returns the folder."""
    folder = KEPT / f"{stack.folder.name}-{re.sub(r'[^a-z0-9]+', '-', how.lower())[:80]}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "told.txt").write_text("\n".join([how, *told, *stack.crew.endings]) + "\n")
    for logs in (stack.folder / "logs", stack.folder / "main" / "logs", stack.folder / "warehouse" / "logs"):
        if logs.exists():
            shutil.copytree(logs, folder / logs.parent.name, dirs_exist_ok=True)
    return folder


def _of_run(run: Run) -> list[str]:
    attempts = run.attempts.order_by("number").values_list("number", "token", "worker", "started_at", "outcome")
    lines = LogLine.objects.filter(run=run).order_by("seq").values_list("seq", "at", "attempt", "message")
    return [
        f"run {run.pk} of {run.pipeline_id}: {run.status} {run.error_code} {run.error_message}",
        f"receipt: {run.receipt}",
        "states: " + ", ".join(f"{status} ({token})" for status, token in history.read(run)),
        *(f"attempt {' '.join(map(str, attempt))}" for attempt in attempts),
        *(" ".join(map(str, line)) for line in lines),
    ]
