"""What the bars of a chart say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from runs import charts
from runs.models import Run
from runs.states import RunStatus

START = datetime(2026, 3, 6, 18, tzinfo=UTC)
WEEKEND = 2 * 86400.0


def run(seconds: float, *, status: RunStatus = RunStatus.SUCCEEDED, decision: str = "") -> Run:
    return Run(status=status, decision=decision, started_at=START, finished_at=START + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "waited", [run(WEEKEND, decision="publish"), run(WEEKEND, status=RunStatus.HELD)], ids=["decided", "held"]
)
def test_a_run_that_a_person_had_waiting_leaves_the_others_their_height(waited: Run) -> None:
    runs = [run(30), waited, run(60)]
    assert charts.longest(runs) == 60
    chart = charts.draw(runs, charts.seconds_taken, places=5, width=100, height=40)
    assert [bar.height for bar in chart.bars] == [20, 40, 40]
    assert charts.longest([waited]) == WEEKEND
