"""What pages are told: why a run waits, how far it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.utils import timezone

from pipelines.models import Pipeline
from runs import queries, services
from runs.models import Attempt, Process, Run
from runs.services import Claim
from runs.states import RunStatus
from runs.waiting import reasons_to_wait

pytestmark = pytest.mark.django_db

Queue = Callable[..., Run]
Alive = Callable[..., Process]


@pytest.fixture
def beat(db: None) -> None:
    services.seen("beat@a:1", Process.Kind.BEAT)


# Why a run waits


@pytest.mark.parametrize("status", [RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED])
def test_what_has_ended_waits_for_nothing(queue: Queue, status: RunStatus) -> None:
    assert queries.why_waiting(queue(status=status)) == ""


def test_what_runs_waits_for_nothing(owned: Claim) -> None:
    assert queries.why_waiting(Run.objects.get()) == ""


def test_a_held_run_waits_for_a_person(queue: Queue) -> None:
    assert queries.why_waiting(queue(status=RunStatus.HELD)) == "Waiting for a person's decision."


def test_a_run_waits_for_its_pipelines_active_run(
    make_pipeline: Callable[..., Pipeline], queue: Queue, worker_alive: Alive
) -> None:
    worker_alive()
    pipeline = make_pipeline()
    queue(pipeline, status=RunStatus.RETRYING)
    assert queries.why_waiting(queue(pipeline)) == "Waiting for this pipeline's run that is retrying now."


def test_a_run_waits_for_its_pipelines_earlier_run(
    make_pipeline: Callable[..., Pipeline], queue: Queue, worker_alive: Alive
) -> None:
    worker_alive()
    pipeline = make_pipeline()
    first = queue(pipeline, due=Now() - timedelta(seconds=1))
    second = queue(pipeline)
    assert queries.why_waiting(first).startswith("Waiting for a worker")
    assert queries.why_waiting(second) == "Waiting for this pipeline's run that came before it."


def test_a_run_waits_for_a_worker_to_start(queue: Queue) -> None:
    assert queries.why_waiting(queue()) == "Waiting because no worker is running."


def test_a_worker_that_ends_is_none(queue: Queue, worker_alive: Alive) -> None:
    worker_alive(draining=True)
    assert queries.why_waiting(queue()) == "Waiting because no worker is running."


def test_a_run_waits_for_a_slot_behind_others(
    queue: Queue, worker_alive: Alive, claim: Callable[..., Claim | None]
) -> None:
    worker_alive(slots=1)
    queue()
    claim()
    first, second = queue(), queue()
    person = queue(priority=15)
    assert queries.why_waiting(person) == "Waiting because all 1 worker slots are busy."
    assert (
        queries.why_waiting(first) == "Waiting because all 1 worker slots are busy, 1 before it (1 of higher priority)."
    )
    assert (
        queries.why_waiting(second)
        == "Waiting because all 1 worker slots are busy, 2 before it (1 of higher priority)."
    )


def test_a_run_that_was_just_queued_waits_for_a_worker_to_come(queue: Queue, worker_alive: Alive) -> None:
    worker_alive()
    assert queries.why_waiting(queue()) == "Waiting for a worker to take it."


def test_a_run_that_nobody_takes_says_what_to_look_at(queue: Queue, worker_alive: Alive) -> None:
    worker_alive()
    run = queue(due=Now() - timedelta(minutes=1))
    assert "no scheduler is running" in queries.why_waiting(run)
    services.seen("beat@a:1", Process.Kind.BEAT)
    assert "the broker does not answer" in queries.why_waiting(run)


def test_a_run_between_two_attempts_says_how_long_and_after_what(owned: Claim, worker_alive: Alive, beat: None) -> None:
    worker_alive()
    services.retry_later(owned, services.Failure("unreachable", "Nobody answers."), delay=timedelta(seconds=150))
    told = queries.why_waiting(Run.objects.get())
    assert told.startswith("Waiting 2 min ")
    assert told.endswith(" before the next attempt, after: Nobody answers.")
    Run.objects.update(due=Now())
    assert queries.why_waiting(Run.objects.get()) == "Waiting for a worker to take it."


def test_a_run_whose_destination_is_asked_later_says_so(
    owned: Claim, lose: Callable[[Claim], None], claim: Callable[..., Claim | None], worker_alive: Alive
) -> None:
    worker_alive()
    lose(owned)
    second = claim()
    assert second is not None
    services.resolve_later(second, services.Failure("unreachable", "Away."), delay=timedelta(seconds=30))
    told = queries.why_waiting(Run.objects.get())
    assert told.endswith("before the destination is asked again what was published.")


def test_a_running_run_whose_worker_is_silent_does_not_look_well(owned: Claim) -> None:
    Run.objects.update(lease_until=Now() - timedelta(seconds=10))
    assert "worker@a:1:2 stopped answering" in queries.why_waiting(Run.objects.get())


def test_a_hundred_runs_are_explained_in_as_many_queries_as_one(
    queue: Queue, worker_alive: Alive, django_assert_max_num_queries: Any
) -> None:
    worker_alive()
    runs = [queue() for _ in range(20)]
    with django_assert_max_num_queries(6) as one:
        reasons_to_wait(runs[:1])
    with django_assert_max_num_queries(6) as all_of_them:
        assert len(reasons_to_wait(runs)) == 20
    assert len(one) == len(all_of_them)


# How far it is


def test_a_run_that_has_not_begun_has_no_progress(queue: Queue) -> None:
    assert queries.progress_of(queue()) == {
        "rows": 0,
        "bytes": 0,
        "rows_per_s": None,
        "percent": None,
        "seconds_left": None,
        "elapsed_s": None,
        "estimated_rows": None,
        "phase": "",
    }


def test_progress_says_speed_percent_and_time_left(queue: Queue) -> None:
    run = queue(
        status=RunStatus.RUNNING,
        started_at=timezone.now() - timedelta(seconds=1000),
        rows=25_000,
        estimated_rows=100_000,
        phase="loading",
        attempt=1,
    )
    progress = queries.progress_of(run)
    assert progress["rows_per_s"] == pytest.approx(25, rel=0.05)
    assert progress["percent"] == 25
    assert progress["seconds_left"] == pytest.approx(3000, rel=0.05)
    assert progress["elapsed_s"] == pytest.approx(1000, rel=0.05)


def test_speed_is_that_of_the_attempt_which_moves_the_rows(queue: Queue) -> None:
    """Two days of waiting for a destination do not make a run slow."""
    run = queue(status=RunStatus.RUNNING, started_at=timezone.now() - timedelta(days=2), rows=500_000, attempt=2)
    Attempt.objects.create(run=run, number=2, token=2, worker="w", started_at=timezone.now() - timedelta(seconds=5000))
    assert queries.progress_of(run)["rows_per_s"] == pytest.approx(100, rel=0.05)


def test_an_estimate_that_was_too_low_is_not_passed(queue: Queue) -> None:
    run = queue(status=RunStatus.RUNNING, started_at=timezone.now() - timedelta(seconds=1), rows=9, estimated_rows=3)
    progress = queries.progress_of(run)
    assert (progress["percent"], progress["seconds_left"]) == (100, 0)


def test_what_has_succeeded_is_complete(queue: Queue) -> None:
    assert queries.progress_of(queue(status=RunStatus.SUCCEEDED))["percent"] == 100


# What the page of a run is told


def test_the_state_says_what_can_be_done(owned: Claim, operator: User) -> None:
    state = queries.run_state(Run.objects.get())
    assert (state["status"], state["attempt"], state["attempts_allowed"]) == ("running", 1, 4)
    assert (state["can_cancel"], state["can_run_again"], state["error"]) == (True, False, None)
    services.cancel_run(Run.objects.get(), by=operator)
    state = queries.run_state(Run.objects.get())
    assert (state["can_cancel"], state["cancel_requested"]) == (False, True)


def test_the_state_of_a_failed_run_has_its_error(owned: Claim) -> None:
    services.finish(owned, RunStatus.FAILED, failure=services.Failure("c", "m", "h"))
    state = queries.run_state(Run.objects.get())
    assert state["error"] == {"code": "c", "message": "m", "hint": "h"}
    assert (state["can_cancel"], state["can_run_again"]) == (False, True)
