"""Archiving a pipeline: what waits does not run any more, what may be published is found out first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from connectors.errors import OutcomeUnknown, TransientError
from pipelines import services as definitions
from pipelines.models import Pipeline
from runs import services
from runs.models import LogLine, Run, Trigger
from runs.states import RunStatus
from tests.runs.memory import Script, nothing, raising

Moving = Callable[..., Pipeline]
Work = Callable[..., int]
RowsOf = Callable[[Pipeline], "int | None"]


def start(pipeline: Pipeline) -> Run:
    return services.request_run(pipeline, trigger=Trigger.MANUAL, by=None)[0]


def assert_cancelled(run: Run) -> None:
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.CANCELLED, "pipeline_archived")
    assert "was archived" in LogLine.objects.filter(run=run).last().message


def test_runs_that_wait_when_their_pipeline_is_archived_are_cancelled_at_their_turn(
    moving: Moving, work: Work, rows_of: RowsOf, script: Script
) -> None:
    pipeline = moving()
    runs = [start(pipeline), start(pipeline)]
    definitions.archive([pipeline], by=None)
    assert work() == 2
    for run in runs:
        assert_cancelled(run)
    assert (script.reads, rows_of(pipeline)) == (0, None)


def test_a_run_between_two_attempts_is_cancelled_too(
    moving: Moving, work: Work, rows_of: RowsOf, script: Script
) -> None:
    script.on_read = [raising(TransientError("The stream broke.")), nothing]
    pipeline = moving()
    run = start(pipeline)
    work()
    definitions.archive([pipeline], by=None)
    work()
    assert_cancelled(run)
    assert rows_of(pipeline) is None


@pytest.mark.parametrize("was_published", [True, False])
def test_a_run_of_unknown_outcome_ends_as_the_destination_says(
    moving: Moving, work: Work, rows_of: RowsOf, script: Script, was_published: bool
) -> None:
    unknown = raising(OutcomeUnknown("The connection broke."))
    script.on_fence = [nothing, raising(TransientError("Away.")), nothing]
    (script.after_commit if was_published else script.before_commit).append(unknown)
    pipeline = moving()
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.RESOLVING
    definitions.archive([pipeline], by=None)
    work()
    if was_published:
        run.refresh_from_db()
        assert run.status == RunStatus.SUCCEEDED
    else:
        assert_cancelled(run)
    assert rows_of(pipeline) == (3 if was_published else None)
