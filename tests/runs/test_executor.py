"""One claimed run, from its start to what is written down: real destination, rows from memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from connectors.errors import ConnectorError, OutcomeUnknown, TransientError
from pipelines.models import Pipeline
from runs import services
from runs.models import Attempt, LogLine, Run, Trigger
from runs.states import RunStatus
from tests.runs.memory import Script, nothing, raising

Moving = Callable[..., Pipeline]
Work = Callable[..., int]
RowsOf = Callable[[Pipeline], "int | None"]


def start(pipeline: Pipeline) -> Run:
    run, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=None)
    return run


def log_of(run: Run) -> str:
    return "\n".join(LogLine.objects.filter(run=run).order_by("seq").values_list("message", flat=True))


def outcomes(run: Run) -> list[str]:
    return list(Attempt.objects.filter(run=run).order_by("number").values_list("outcome", flat=True))


def test_a_run_moves_its_rows_and_says_so(moving: Moving, work: Work, rows_of: RowsOf) -> None:
    pipeline = moving()
    run = start(pipeline)
    assert work() == 1
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert rows_of(pipeline) == run.rows == run.receipt["rows"] == 3
    assert run.receipt["revision"] == 1
    assert (run.error_code, run.phase, run.task_id) == ("", "", "")
    assert run.lease_until is None
    assert run.finished_at >= run.started_at
    assert outcomes(run) == ["succeeded"]
    assert log_of(run).startswith("Attempt 1 of revision 1 started on ")
    assert log_of(run).endswith("Succeeded: 3 rows published to public.moved_1.")
