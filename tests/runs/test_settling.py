"""A run that ended without its rows: tried again as the same run, or marked as done."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User

from connectors.errors import ConnectorError, TransientError
from pipelines import services as definitions
from pipelines.models import Pipeline, Pool
from runs import board_queries, services
from runs.models import Attempt, DoneMark, LogLine, Run, Trigger
from runs.services import RunRefused
from runs.states import RunStatus
from tests.runs.memory import Script, nothing, raising

pytestmark = pytest.mark.django_db(transaction=True)

BEGIN, END = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)


def log_of(run: Run) -> str:
    return "\n".join(LogLine.objects.filter(run=run).order_by("seq").values_list("message", flat=True))


@pytest.fixture
def failed(
    moving: Callable[..., Pipeline], queue: Callable[..., Run], work: Callable[..., int], script: Script
) -> tuple[Pipeline, Run]:
    """A scheduled run that failed for good."""
    pipeline = moving()
    script.on_read = [raising(ConnectorError("The table is gone.", code="table_not_found")), nothing]
    run = queue(pipeline, scheduled_for=END, data_interval_start=BEGIN, data_interval_end=END)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.FAILED
    return pipeline, run


def test_a_cleared_run_is_tried_again_as_the_same_run(failed: Any, work: Any, rows_of: Any, operator: User) -> None:
    pipeline, run = failed
    services.clear_run(run, by=operator, note="The table is back")
    assert (run.status, run.error_code, run.finished_at) == (RunStatus.QUEUED, "", None)
    assert work() == 1
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert rows_of(pipeline) == 3
    assert (run.scheduled_for, run.data_interval_start, run.data_interval_end) == (END, BEGIN, END)
    assert list(Attempt.objects.filter(run=run).values_list("number", "outcome")) == [(1, "failed"), (2, "succeeded")]
    assert "olga cleared this run: it is tried again, with revision 1. Because: The table is back" in log_of(run)
    assert Run.objects.count() == 1


def test_a_cleared_run_has_all_its_retries_again(
    moving: Any, queue: Any, work: Any, script: Script, operator: User
) -> None:
    pipeline = moving(retries=1)
    breaks = raising(TransientError("Gone for a moment.", code="connection_lost"))
    script.on_read = [breaks, breaks, breaks, nothing]
    run = queue(pipeline)
    work(), work()
    run.refresh_from_db()
    assert (run.status, run.failures) == (RunStatus.FAILED, 1)
    services.clear_run(run, by=operator)
    work(), work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert run.attempt == 4


def test_a_cleared_run_goes_by_the_definition_as_it_is_now(failed: Any, work: Any, operator: User) -> None:
    pipeline, run = failed
    pipeline.refresh_from_db()
    pipeline.retries = 7
    revision = definitions.save_pipeline(pipeline, schedules=None, by=operator)
    services.clear_run(run, by=operator)
    assert run.revision_id == revision.pk
    work()
    assert "Attempt 2 of revision 2" in log_of(run)


def test_a_cancelled_run_can_be_cleared_and_what_was_asked_of_it_is_forgotten(
    moving: Any, queue: Any, work: Any, rows_of: Any, operator: User
) -> None:
    pipeline = moving()
    run = queue(pipeline)
    services.cancel_run(run, by=operator)
    services.clear_run(run, by=operator)
    assert (run.cancel_requested, run.cancelled_by) == (False, None)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert rows_of(pipeline) == 3


def test_a_run_in_parts_that_failed_begins_again_with_its_plan(
    moving: Any, queue: Any, work: Any, rows_of: Any, script: Script, operator: User
) -> None:
    script.parts, script.rows = 3, 3000
    script.on_read = [raising(ConnectorError("This part is broken.", code="bad_answer")), nothing]
    pipeline = moving(load_method="staged", retries=0)
    run = queue(pipeline)
    for _ in range(6):
        work()
    run.refresh_from_db()
    assert run.status == RunStatus.FAILED
    services.clear_run(run, by=operator)
    assert not run.parts.exists()
    for _ in range(6):
        work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, run.error_message
    assert rows_of(pipeline) == 3000


def test_a_cleared_run_waits_its_turn(failed: Any, queue: Any, claim: Any, operator: User) -> None:
    pipeline, run = failed
    under_way = queue(pipeline)
    claimed = claim()
    assert claimed.run == under_way.pk
    services.clear_run(run, by=operator)
    assert claim() is None, "another run of the pipeline is active"
    services.finish(claimed, RunStatus.CANCELLED)
    assert claim().run == run.pk


def test_what_succeeded_or_goes_on_is_not_cleared(moving: Any, queue: Any, work: Any, operator: User) -> None:
    pipeline = moving()
    run = queue(pipeline)
    for settle in (services.clear_run, services.mark_done):
        with pytest.raises(RunRefused) as refused:
            settle(run, by=operator, note="why not")
        assert refused.value.code == "run_not_ended"
    work()
    for settle in (services.clear_run, services.mark_done):
        with pytest.raises(RunRefused) as refused:
            settle(run, by=operator, note="why not")
        assert refused.value.code == "run_succeeded"


def test_of_many_who_clear_at_once_one_does(failed: Any, operator: User, at_once: Any) -> None:
    _, run = failed
    results = at_once(lambda _: services.clear_run(Run.objects.get(pk=run.pk), by=operator), times=3)
    assert sum(isinstance(result, Run) for result in results) == 1
    assert {result.code for result in results if isinstance(result, RunRefused)} == {"run_not_ended"}


def test_an_archived_pipelines_run_is_not_cleared(failed: Any, operator: User) -> None:
    pipeline, run = failed
    definitions.archive([pipeline], by=operator)
    with pytest.raises(RunRefused, match="archived"):
        services.clear_run(run, by=operator)


def test_a_run_marked_as_done_stays_failed_with_who_when_and_why(failed: Any, operator: User) -> None:
    _, run = failed
    services.mark_done(run, by=operator, note=" Loaded by hand ")
    assert run.status == RunStatus.FAILED
    mark = DoneMark.objects.get(run=run)
    assert (mark.by, mark.note) == (operator, "Loaded by hand")
    assert mark.at is not None
    assert "olga marked this run as done: nothing of it was published. Because: Loaded by hand" in log_of(run)


def test_a_mark_needs_a_note(failed: Any, operator: User) -> None:
    with pytest.raises(RunRefused) as refused:
        services.mark_done(failed[1], by=operator, note="  ")
    assert refused.value.code == "note_missing"


def test_what_is_done_needs_no_attention_until_it_is_cleared(failed: Any, operator: User) -> None:
    _, run = failed

    def needing() -> list[Run]:
        return board_queries.attention(board_queries.workforce(), []).failed

    assert needing() == [run]
    services.mark_done(run, by=operator, note="Loaded by hand")
    assert needing() == []
    services.clear_run(run, by=operator)
    assert not DoneMark.objects.exists()


# Retries, by the pipeline's own rules


def test_waits_begin_with_the_pipelines_and_double(moving: Any, queue: Any, work: Any, script: Script) -> None:
    breaks = raising(TransientError("Gone for a moment.", code="connection_lost"))
    script.on_read = [breaks]
    run = queue(moving(retries=3, retry_delay_s=100))
    waits = []
    for _ in range(3):
        work()
        run.refresh_from_db()
        assert run.status == RunStatus.RETRYING
        waits.append((run.due - Attempt.objects.filter(run=run).latest("number").ended_at).total_seconds())
    for wait, usual in zip(waits, (100, 200, 400), strict=True):
        assert usual * 0.75 - 5 <= wait <= usual * 1.25 + 5  # two statements write the two times
        assert wait != usual, "with jitter"
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.FAILED


@pytest.mark.parametrize("method", ["direct", "staged"])
def test_a_run_gives_up_when_another_attempt_would_begin_too_late(
    moving: Any, queue: Any, work: Any, script: Script, method: str
) -> None:
    script.on_read = [raising(TransientError("Gone for a moment.", code="connection_lost"))]
    run = queue(moving(retries=20, retry_delay_s=60, give_up_after_s=30, load_method=method))
    for _ in range(4):
        work()
    run.refresh_from_db()
    assert run.status == RunStatus.FAILED
    assert run.error_code == "connection_lost"
    assert "gives up 30 seconds after its first attempt" in log_of(run)


def test_attempts_that_begin_in_time_are_made(moving: Any, queue: Any, work: Any, script: Script) -> None:
    script.on_read = [raising(TransientError("Gone for a moment.", code="connection_lost")), nothing]
    run = queue(moving(retries=1, retry_delay_s=5, give_up_after_s=3600))
    work(), work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert run.trigger == Trigger.MANUAL


def test_a_run_whose_values_its_pipeline_does_not_know_any_more_is_not_cleared(failed: Any, operator: User) -> None:
    _, run = failed
    Run.objects.filter(pk=run.pk).update(action_options={"parameters": {"country": "FR"}})
    run.refresh_from_db()
    with pytest.raises(RunRefused, match="country"):
        services.clear_run(run, by=operator)
    run.refresh_from_db()
    assert run.status == RunStatus.FAILED


def test_a_cleared_run_takes_the_slots_that_its_pipeline_takes_now(failed: Any, operator: User) -> None:
    pipeline, run = failed
    Pipeline.objects.filter(pk=pipeline.pk).update(pool=Pool.objects.create(name="Heavy"))
    services.clear_run(run, by=operator)
    run.refresh_from_db()
    assert run.lane is not None
    assert run.lane.pool.name == "Heavy"


@pytest.mark.parametrize("action", ["backfill", "set_watermark"])
def test_what_would_be_something_else_by_now_is_not_cleared(failed: Any, operator: User, action: str) -> None:
    _, run = failed
    Run.objects.filter(pk=run.pk).update(action=action)
    run.refresh_from_db()
    with pytest.raises(RunRefused, match="not cleared") as refused:
        services.clear_run(run, by=operator)
    assert refused.value.code == "run_not_cleared"
    if action == "backfill":
        with pytest.raises(RunRefused, match="not run again"):
            services.run_again(run, by=operator)
