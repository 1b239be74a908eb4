"""What is kept of a case that went wrong, for whoever looks into it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from runs.models import LogLine, Process, Run
from runs.states import ACTIVE
from tests.chaos import history
from tests.chaos.stack import Stack, insist

if TYPE_CHECKING:
    from tests.chaos.lanes import Outcome

KEPT = Path(__file__).resolve().parents[2] / "test-results" / "chaos"


def keep_if_wrong(stack: Stack, how: str, outcome: Outcome) -> None:
    if not outcome.verdict.is_right:
        keep(stack, how, [str(outcome.verdict), *of_run(outcome.run)])


def keep(stack: Stack, how: str, told: Iterable[str]) -> Path:
    """Write down what is known, beside the logs of all processes; returns the folder."""
    folder = KEPT / f"{stack.folder.name}-{re.sub(r'[^a-z0-9]+', '-', how.lower())[:80]}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "told.txt").write_text("\n".join([how, *told, *stack.crew.endings]) + "\n")
    for logs in (stack.folder / "logs", stack.folder / "main" / "logs", stack.folder / "warehouse" / "logs"):
        if logs.exists():
            shutil.copytree(logs, folder / logs.parent.name, dirs_exist_ok=True)
    return folder


def of_run(run: Run) -> list[str]:
    """All that the control database knows of it, and who lives there."""
    return insist(lambda: _look(run))


def _look(run: Run) -> list[str]:
    run.refresh_from_db()
    attempts = run.attempts.order_by("number").values_list("number", "token", "worker", "started_at", "outcome")
    lines = LogLine.objects.filter(run=run).order_by("seq").values_list("seq", "at", "attempt", "message")
    active = Run.objects.filter(status__in=ACTIVE)
    facts = {field.name: getattr(run, field.attname) for field in Run._meta.concrete_fields}
    return [
        " ".join(f"{name}={value}" for name, value in facts.items() if value not in (None, "", 0, False)),
        "states: " + ", ".join(f"{status} ({token})" for status, token in history.read(run)),
        *(f"attempt {' '.join(map(str, attempt))}" for attempt in attempts),
        *(f"part {part}" for part in run.parts.values()),
        *(" ".join(map(str, line)) for line in lines),
        *(f"process {process}" for process in Process.objects.values()),
        *(f"active {other}" for other in active.values("id", "status", "step", "worker")),
    ]
