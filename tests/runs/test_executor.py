"""One claimed run, from its start to what is written down: real destination, rows from memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.utils import timezone

from connectors.errors import ConnectorError, OutcomeUnknown, StaleToken, Stopped, TransientError, Unreachable
from pipelines.models import Pipeline, Revision
from runs import actions, ends, executor, services
from runs import lease as leases
from runs.endings import backoff_s
from runs.models import Attempt, LogLine, Run, Trigger
from runs.reporter import Reporter
from runs.services import Claim
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


def test_progress_and_estimate_are_kept(moving: Moving, work: Work, script: Script) -> None:
    script.rows = 5000
    run = start(moving())

    def read_on_once_it_is_written(stop: Any) -> None:
        deadline = time.monotonic() + 30
        while Run.objects.get(pk=run.pk).estimated_rows is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        connection.close()  # this thread's

    script.on_read = [read_on_once_it_is_written]
    work()
    run.refresh_from_db()
    assert run.estimated_rows == run.rows == 5000
    assert run.bytes > 0


def test_the_source_is_told_who_asks(moving: Moving, work: Work, script: Script) -> None:
    run = start(moving())
    work()
    (request,) = script.requests
    assert (request.table, request.query) == ("d.t", "")
    assert request.job_key == f"{run.pk.hex}-1"
    assert request.labels["datamantri_run"] == run.pk.hex


def test_one_bell_works_off_all_that_waits(moving: Moving, work: Work) -> None:
    runs = [start(moving()) for _ in range(3)]
    assert work() == 3
    assert {Run.objects.get(pk=run.pk).status for run in runs} == {RunStatus.SUCCEEDED}
    assert work() == 0, "a doubled bell finds nothing"


def test_a_pipelines_second_run_comes_after_its_first(moving: Moving, work: Work, rows_of: RowsOf) -> None:
    pipeline = moving()
    first, second = start(pipeline), start(pipeline)
    assert work() == 2
    first.refresh_from_db()
    second.refresh_from_db()
    assert first.finished_at <= second.started_at
    assert rows_of(pipeline) == 6


# Failures


def test_a_passing_failure_is_tried_again_later(moving: Moving, work: Work, script: Script, rows_of: RowsOf) -> None:
    script.on_read = [raising(TransientError("The stream broke.", code="unavailable")), nothing]
    pipeline = moving()
    run = start(pipeline)
    assert work() == 1
    run.refresh_from_db()
    assert (run.status, run.failures, run.error_code) == (RunStatus.RETRYING, 1, "unavailable")
    assert rows_of(pipeline) is None
    assert "The stream broke. Trying again in " in log_of(run)
    assert work() == 1
    run.refresh_from_db()
    assert (run.status, run.attempt, run.error_code) == (RunStatus.SUCCEEDED, 2, "")
    assert rows_of(pipeline) == 3
    assert outcomes(run) == ["retrying", "succeeded"]


def test_failures_that_do_not_pass_use_up_the_retries(moving: Moving, work: Work, script: Script) -> None:
    script.on_read = [raising(TransientError("The stream broke."))]
    run = start(moving(retries=2))
    assert [work() for _ in range(4)] == [1, 1, 1, 0]
    run.refresh_from_db()
    assert (run.status, run.attempt, run.failures) == (RunStatus.FAILED, 3, 2)
    assert run.finished_at is not None


def test_what_a_person_must_mend_fails_at_once(moving: Moving, work: Work, script: Script, rows_of: RowsOf) -> None:
    script.on_plan = [raising(ConnectorError("There is no table d.t.", code="table_missing", hint="Look again."))]
    pipeline = moving()
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert (run.status, run.attempt) == (RunStatus.FAILED, 1)
    assert (run.error_code, run.error_message, run.error_hint) == (
        "table_missing",
        "There is no table d.t.",
        "Look again.",
    )
    assert log_of(run).endswith("There is no table d.t. [table_missing] Look again.")
    assert rows_of(pipeline) is None


def test_a_longer_wait_is_granted_when_it_is_asked_for(moving: Moving, work: Work, script: Script) -> None:
    script.on_plan = [raising(TransientError("Quota used up.", retry_after_s=1800.0))]
    run = start(moving())
    work()
    run.refresh_from_db()
    assert (run.due - timezone.now()).total_seconds() > 1700


@pytest.mark.parametrize(("failures", "least", "most"), [(0, 3.7, 6.3), (1, 7.5, 12.5), (3, 30, 50), (20, 450, 750)])
def test_waits_grow_with_jitter_up_to_a_limit(failures: int, least: float, most: float) -> None:
    waits = {backoff_s(failures) for _ in range(50)}
    assert len(waits) > 1
    assert min(waits) >= least
    assert max(waits) <= most
    assert backoff_s(failures, asked=9999.0) == 9999.0


def test_a_connection_that_is_gone_is_named(moving: Moving, work: Work) -> None:
    pipeline = moving()
    run = start(pipeline)
    Revision.objects.filter(pk=run.revision_id).update(
        definition={**run.revision.definition, "source": {"connection": str(uuid4()), "table": "d.t", "query": ""}}
    )
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "connection_missing")
    assert "source" in run.error_message


def test_a_lost_encryption_key_is_named(moving: Moving, work: Work, settings: Any) -> None:
    run = start(moving())
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "encryption_key_lost")
    assert "Warehouse" in run.error_message


def test_an_error_nobody_foresaw_fails_with_plain_words(
    moving: Moving, work: Work, script: Script, rows_of: RowsOf
) -> None:
    script.on_read = [raising(ZeroDivisionError("secret detail"))]
    pipeline = moving()
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "internal_error")
    assert "ZeroDivisionError" in run.error_message
    assert "secret" not in log_of(run) + run.error_message
    assert rows_of(pipeline) is None


def test_an_error_nobody_foresaw_before_anything_was_loaded_ends_the_run_too(
    moving: Moving, work: Work, script: Script
) -> None:
    """The destination itself is broken: there is nobody to ask, and nothing to ask for."""
    script.on_fence = [raising(AttributeError("a bug"))]
    run = start(moving())
    assert [work(), work()] == [1, 0]
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "internal_error")


# Outcomes that are not known


def test_a_commit_whose_answer_was_lost_counts(moving: Moving, work: Work, script: Script, rows_of: RowsOf) -> None:
    script.after_commit = [raising(OutcomeUnknown("The connection broke.")), nothing]
    pipeline = moving()
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert (run.status, run.attempt, run.rows) == (RunStatus.SUCCEEDED, 1, 3)
    assert run.receipt["revision"] == 1
    assert rows_of(pipeline) == 3


def test_a_commit_that_did_not_happen_is_tried_again(
    moving: Moving, work: Work, script: Script, rows_of: RowsOf
) -> None:
    script.before_commit = [raising(OutcomeUnknown("The connection broke.")), nothing]
    pipeline = moving()
    run = start(pipeline)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.RETRYING, "outcome_unknown")
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert rows_of(pipeline) == 3


@pytest.mark.parametrize("error", [OutcomeUnknown("The connection broke."), KeyError("a bug")])
def test_while_the_destination_does_not_say_nothing_final_is_written(
    moving: Moving, work: Work, script: Script, rows_of: RowsOf, error: Exception
) -> None:
    script.after_commit = [raising(error), nothing]
    away = raising(Unreachable("Nobody answers."))
    script.on_fence = [nothing, away, away, nothing]
    pipeline = moving()
    run = start(pipeline)
    for attempt in (1, 2):
        work()
        run.refresh_from_db()
        assert (run.status, run.attempt, run.finished_at, run.lease_until) == (
            RunStatus.RESOLVING,
            attempt,
            None,
            None,
        )
    work()
    run.refresh_from_db()
    assert (run.status, run.rows, script.reads) == (RunStatus.SUCCEEDED, 3, 1)
    assert rows_of(pipeline) == 3
    assert outcomes(run) == ["unresolved", "unresolved", "succeeded"]
    assert "A former attempt had published this run already" in log_of(run)


def test_asking_again_and_again_gets_less_frequent(
    moving: Moving, work: Work, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.on_fence = [nothing, raising(Unreachable("Nobody answers."))]
    script.after_commit = [raising(OutcomeUnknown("The connection broke."))]
    run = start(moving())
    waits, resolve_later = [], services.resolve_later

    def note(*args: Any, delay: timedelta, **values: Any) -> None:
        waits.append(delay.total_seconds())
        resolve_later(*args, delay=delay, **values)

    monkeypatch.setattr(services, "resolve_later", note)
    for _ in range(8):
        work()
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    run.refresh_from_db()
    assert run.due - run.attempts.get(number=8).ended_at == timedelta(minutes=1)


# Workers that are lost


def lost_while_running(run: Run, claim: Any, lose: Any) -> Claim:
    claimed = claim()
    assert claimed is not None
    lose(claimed)
    run.refresh_from_db()
    assert run.status == RunStatus.RESOLVING
    return claimed


@contextmanager
def dying_before_its_last_word(lose: Any, then: Callable[[], Any] = nothing) -> Iterator[None]:
    """The first attempt's worker is lost after the destination's commit; the next ones live."""
    write_down = executor._write_down
    first = [True]

    def die(write: Callable[[], None], claimed: Claim) -> None:
        if first:
            first.pop()
            lose(claimed)
            then()
        else:
            write_down(write, claimed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "_write_down", die)
        yield


def test_a_run_lost_before_it_was_published_starts_over(
    moving: Moving, work: Work, rows_of: RowsOf, claim: Any, lose: Any
) -> None:
    pipeline = moving()
    run = start(pipeline)
    lost_while_running(run, claim, lose)
    work()
    run.refresh_from_db()
    assert (run.status, run.attempt, run.losses) == (RunStatus.SUCCEEDED, 2, 1)
    assert rows_of(pipeline) == 3
    assert "nothing was published: starting over" in log_of(run)


def test_a_run_lost_after_it_was_published_is_not_published_again(
    moving: Moving, work: Work, script: Script, rows_of: RowsOf, lose: Any
) -> None:
    """The worker dies between the destination's commit and its own last word."""
    pipeline = moving()
    run = start(pipeline)
    with dying_before_its_last_word(lose):
        assert work() == 2
    run.refresh_from_db()
    assert (run.status, run.rows, script.reads) == (RunStatus.SUCCEEDED, 3, 1)
    assert run.receipt["rows"] == 3
    assert run.receipt["revision"] == 1
    assert rows_of(pipeline) == 3


def test_a_run_that_is_lost_again_and_again_fails(
    moving: Moving, work: Work, rows_of: RowsOf, claim: Any, lose: Any
) -> None:
    pipeline = moving()
    run = start(pipeline)
    lost_while_running(run, claim, lose)
    Run.objects.filter(pk=run.pk).update(losses=actions.LOSSES_LIMIT + 1)
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "worker_lost")
    assert rows_of(pipeline) is None


def test_a_run_that_fails_after_it_was_resumed_is_not_left_without_an_owner(
    moving: Moving, work: Work, script: Script, claim: Any, lose: Any
) -> None:
    """Resolving → running → its fence was raised by somebody else → resolving again."""
    run = start(moving())
    lost_while_running(run, claim, lose)
    script.before_commit = [raising(StaleToken("A newer owner.")), nothing]
    work()
    run.refresh_from_db()
    assert (run.status, run.lease_until) == (RunStatus.RESOLVING, None)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED


def test_a_run_that_starts_over_fails_like_any_other(
    moving: Moving, work: Work, script: Script, claim: Any, lose: Any
) -> None:
    """The destination has said that nothing was published: from then on the outcome is known."""
    run = start(moving())
    lost_while_running(run, claim, lose)
    script.on_plan = [raising(ConnectorError("There is no table d.t.", code="table_missing"))]
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "table_missing")


def test_a_paused_worker_that_wakes_up_writes_nothing_and_outlaws_nobody(
    moving: Moving, script: Script, rows_of: RowsOf, claim: Any, lose: Any, work: Work
) -> None:
    """It slept since its claim; somebody else has finished the run meanwhile."""
    pipeline = moving()
    run = start(pipeline)
    asleep = lost_while_running(run, claim, lose)
    work()
    before = Run.objects.filter(pk=run.pk).values().get()
    lines = log_of(run)
    fences = []
    script.on_fence = [lambda: fences.append(True)]
    long_ago = time.monotonic() - 60
    executor.execute(asleep, granted=long_ago, process="")
    assert Run.objects.filter(pk=run.pk).values().get() == before
    assert log_of(run) == lines
    assert rows_of(pipeline) == 3
    assert not fences, "raising the fence would have outlawed the owner"


def test_a_former_owner_that_does_not_know_cannot_commit(
    moving: Moving, script: Script, rows_of: RowsOf, claim: Any, lose: Any, work: Work
) -> None:
    """Lost in the middle of its load: another worker publishes first, its own commit must not count."""
    pipeline = moving()
    run = start(pipeline)
    first = claim()
    assert first is not None

    def overtaken(*_: Any) -> None:
        lose(first)
        second = threading.Thread(target=lambda: (work(), connection.close()))
        second.start()
        second.join(60)

    script.on_read = [overtaken, nothing]
    executor.execute(first, granted=time.monotonic(), process="")
    run.refresh_from_db()
    assert (run.status, run.attempt) == (RunStatus.SUCCEEDED, 2)
    assert rows_of(pipeline) == 3
    assert outcomes(run) == ["lost", "succeeded"]


# Stops


@pytest.fixture
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run is asked to do is read more often than every second."""
    monkeypatch.setattr(leases, "FLAGS_EVERY_S", 0.05)


def asked_to(reason: Callable[[], None]) -> Callable[[Any], None]:
    """A read that waits until the wish arrives, as a blocked call that is broken."""

    def hook(stop: Any) -> None:
        broken = threading.Event()
        stop.on_stop(broken.set)
        reason()
        assert broken.wait(30)
        stop.check()

    return hook


@pytest.mark.usefixtures("asked_often")
def test_cancelling_a_running_run_ends_it_without_a_trace(
    moving: Moving, work: Work, script: Script, rows_of: RowsOf, operator: User
) -> None:
    pipeline = moving()
    run = start(pipeline)
    script.on_read = [asked_to(lambda: services.cancel_run(run, by=operator) and None)]
    work()
    run.refresh_from_db()
    assert (run.status, run.cancelled_by) == (RunStatus.CANCELLED, operator)
    assert rows_of(pipeline) is None
    assert outcomes(run) == ["cancelled"]
    assert log_of(run).endswith("Cancelled. Nothing was published.")


@pytest.mark.usefixtures("asked_often")
@pytest.mark.parametrize("kind", [TransientError, ConnectorError, ValueError])
def test_a_call_that_was_broken_by_cancelling_is_no_failure(
    moving: Moving, work: Work, script: Script, operator: User, kind: type[Exception]
) -> None:
    """A closed stream looks like any lost connection, or worse."""
    run = start(moving())

    def broken(stop: Any) -> None:
        try:
            asked_to(lambda: services.cancel_run(run, by=operator) and None)(stop)
        except Stopped as stopped:
            raise kind("The stream was closed.") from stopped

    script.on_read = [broken]
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED


def test_cancelling_while_it_is_published_ends_as_the_destination_says(
    moving: Moving, work: Work, script: Script, rows_of: RowsOf, operator: User
) -> None:
    pipeline = moving()
    run = start(pipeline)
    script.after_commit = [lambda: services.cancel_run(run, by=operator) and None]
    work()
    run.refresh_from_db()
    assert (run.status, run.cancel_requested) == (RunStatus.SUCCEEDED, True)
    assert rows_of(pipeline) == 3


@pytest.mark.parametrize("published", [False, True])
def test_cancelling_a_run_whose_worker_was_lost_ends_as_the_destination_says(
    moving: Moving,
    work: Work,
    rows_of: RowsOf,
    operator: User,
    claim: Any,
    lose: Any,
    published: bool,
) -> None:
    pipeline = moving()
    run = start(pipeline)
    if published:
        with dying_before_its_last_word(lose, then=lambda: services.cancel_run(run, by=operator)):
            work()
    else:
        lost_while_running(run, claim, lose)
        services.cancel_run(run, by=operator)
        work()
    run.refresh_from_db()
    assert run.status == (RunStatus.SUCCEEDED if published else RunStatus.CANCELLED)
    assert rows_of(pipeline) == (3 if published else None)


@pytest.mark.usefixtures("asked_often")
def test_a_slow_destination_does_not_keep_a_cancelled_run_resolving_for_ever(
    moving: Moving, work: Work, script: Script, operator: User, claim: Any, lose: Any
) -> None:
    """The wish arrives while the destination is being asked: it must be asked to the end."""
    run = start(moving())
    lost_while_running(run, claim, lose)

    def slow() -> None:
        services.cancel_run(run, by=operator)
        lease, deadline = leases.keeper()._held, time.monotonic() + 30
        while not lease.reason:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    script.on_fence = [slow]
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED


def test_the_time_limit_fails_a_run(moving: Moving, work: Work, script: Script, rows_of: RowsOf) -> None:
    pipeline = moving(time_limit_s=10, retries=3)
    run = start(pipeline)
    definition = {**run.revision.definition, "time_limit_s": 1}
    Revision.objects.filter(pk=run.revision_id).update(definition=definition)
    script.on_read = [asked_to(lambda: None)]
    work()
    run.refresh_from_db()
    assert (run.status, run.error_code, run.attempt) == (RunStatus.FAILED, "time_limit", 1)
    assert "1 seconds" in run.error_message
    assert rows_of(pipeline) is None


@pytest.mark.usefixtures("asked_often")
def test_a_worker_that_ends_hands_its_run_back(
    moving: Moving, work: Work, script: Script, rows_of: RowsOf, worker_alive: Any
) -> None:
    worker_alive("worker@a:1")
    pipeline = moving()
    run = start(pipeline)
    script.on_read = [asked_to(lambda: services.drain_process("worker@a:1")), nothing]
    assert work("worker@a:1") == 1, "and claims no other"
    run.refresh_from_db()
    assert (run.status, run.failures, run.losses) == (RunStatus.RETRYING, 0, 0)
    assert work("worker@b:1") == 1
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert rows_of(pipeline) == 3
    assert outcomes(run) == ["drained", "succeeded"]


# The control database is away


def test_a_control_database_that_is_away_at_the_start_costs_no_retry(moving: Moving, work: Work) -> None:
    """A mock stands for the outage: the session's server must go on for the other tests."""
    run = start(moving(retries=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ends, "connections", raising(OperationalError("server closed the connection")))
        work()
    run.refresh_from_db()
    assert (run.status, run.failures, run.error_code) == (RunStatus.RETRYING, 0, "control_database")
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED


def test_an_outcome_is_written_as_soon_as_the_control_database_is_back(
    moving: Moving, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(moving())
    finish, failures = services.finish, [1, 1]

    def failing(*args: Any, **values: Any) -> None:
        if failures:
            failures.pop()
            raise OperationalError("server closed the connection")
        finish(*args, **values)

    monkeypatch.setattr(services, "finish", failing)
    monkeypatch.setattr(Reporter, "write", raising(OperationalError("server closed the connection")))
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert log_of(run).startswith("Attempt 1"), "the lines of the outage are not lost"
    assert log_of(run).count("Succeeded") == 1


def test_an_outcome_whose_answer_was_lost_is_written_once(
    moving: Moving, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(moving())
    finish, failures = services.finish, [1]

    def failing(*args: Any, **values: Any) -> None:
        finish(*args, **values)
        if failures:
            failures.pop()
            raise OperationalError("server closed the connection")

    monkeypatch.setattr(services, "finish", failing)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert log_of(run).count("Succeeded") == 1


def test_an_outcome_that_cannot_be_written_is_asked_for_by_the_next_owner(
    moving: Moving, work: Work, script: Script, settings: Any, rows_of: RowsOf
) -> None:
    pipeline = moving()
    run = start(pipeline)
    # Only once there is an outcome: until then the machine may be slow.
    script.after_commit = [lambda: setattr(settings, "LEASE_TTL", timedelta(seconds=0.2)), nothing]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "finish", raising(OperationalError("server closed the connection")))
        assert work() == 1
    run.refresh_from_db()
    assert (run.status, run.attempt) == (RunStatus.RUNNING, 1)
    settings.LEASE_TTL = timedelta(seconds=30)
    Run.objects.filter(pk=run.pk).update(lease_until=Now() - timedelta(seconds=1))
    assert services.sweep() == 1
    work()
    run.refresh_from_db()
    assert (run.status, run.attempt) == (RunStatus.SUCCEEDED, 2)
    assert rows_of(pipeline) == 3


def test_a_claim_that_meets_no_database_is_no_crash(moving: Moving, work: Work) -> None:
    start(moving())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "claim", raising(OperationalError("server closed the connection")))
        assert work() == 0
    assert work() == 1


@pytest.mark.usefixtures("asked_often")
def test_a_stopped_run_may_take_its_time_to_write_down_its_end(
    moving: Moving, work: Work, script: Script, operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine let go in time: a control database that is slow now is no reason to end the process."""
    ended: list[int] = []
    monkeypatch.setattr(leases.os, "_exit", ended.append)
    monkeypatch.setattr(leases, "EXIT_AFTER_S", 60.0)
    run = start(moving())
    script.on_read = [asked_to(lambda: services.cancel_run(run, by=operator) and None)]
    finish, tries = services.finish, []

    def slow(*args: Any, **values: Any) -> None:
        tries.append(True)
        # The time that the engine had to let go in is over: whoever watches the clock looks several times meanwhile.
        leases.keeper()._held._exit_after_s = 0.0
        if len(tries) < 3:
            raise OperationalError("server closed the connection")
        finish(*args, **values)

    monkeypatch.setattr(services, "finish", slow)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED
    assert not ended
