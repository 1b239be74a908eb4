"""Leases that nobody renews, and children that died."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.db.models.functions import Now

from pipelines.models import Pipeline
from runs import doorbell, services
from runs.models import Attempt, LogLine, Run
from runs.services import Claim
from runs.states import RunStatus

Claimer = Callable[..., "Claim | None"]
Queue = Callable[..., Run]


def run_out(*claims: Claim) -> None:
    Run.objects.filter(pk__in=[claimed.run for claimed in claims]).update(lease_until=Now() - timedelta(seconds=1))


@pytest.mark.django_db
def test_a_lease_that_still_runs_is_left_alone(owned: Claim) -> None:
    assert services.sweep() == 0
    assert Run.objects.get(pk=owned.run).status == RunStatus.RUNNING


@pytest.mark.django_db
def test_a_run_without_an_owner_that_answers_is_asked_for_at_the_destination(owned: Claim) -> None:
    run_out(owned)
    assert services.sweep() == 1
    run = Run.objects.get(pk=owned.run)
    assert (run.status, run.losses, run.lease_until, run.task_id) == ("resolving", 1, None, "")
    assert run.token == owned.token, "only a claim raises the token"
    assert run.finished_at is None
    attempt = Attempt.objects.get(run=run)
    assert (attempt.outcome, attempt.error_code) == ("lost", "worker_lost")
    assert attempt.ended_at is not None
    line = LogLine.objects.get(run=run)
    assert (line.level, line.attempt) == ("warning", 1)
    assert run.worker in line.message


@pytest.mark.django_db
def test_sweeping_twice_loses_a_run_once(owned: Claim) -> None:
    run_out(owned)
    assert [services.sweep(), services.sweep()] == [1, 0]
    assert Run.objects.get(pk=owned.run).losses == 1


@pytest.mark.django_db(transaction=True)
def test_two_sweepers_at_once_lose_each_run_once(
    queue: Queue, claim: Claimer, at_once: Callable[..., list[Any]]
) -> None:
    for _ in range(5):
        queue()
    claims = [claim() for _ in range(5)]
    run_out(*claims)  # type: ignore[arg-type]
    assert sum(at_once(lambda _: services.sweep(), times=3)) == 5
    assert set(Run.objects.values_list("losses", flat=True)) == {1}
    assert LogLine.objects.count() == 5


@pytest.mark.django_db(transaction=True)
def test_a_renewal_that_is_on_its_way_wins(owned: Claim, at_once: Callable[..., list[Any]]) -> None:
    """The sweeper passes by a row that its owner is writing."""
    run_out(owned)
    with transaction.atomic():
        assert services.renew(owned.run, owned.token, process="").owned
        assert at_once(lambda _: services.sweep(), times=1) == [0]
    assert services.sweep() == 0


@pytest.mark.django_db
def test_a_late_renewal_of_a_lease_that_nobody_took_keeps_the_run(owned: Claim) -> None:
    run_out(owned)
    assert services.renew(owned.run, owned.token, process="").owned
    assert services.sweep() == 0


@pytest.mark.django_db
def test_a_swept_run_keeps_its_pipeline_to_itself(
    make_pipeline: Callable[..., Pipeline], queue: Queue, claim: Claimer
) -> None:
    """Nothing else may write to the target before the destination was asked."""
    pipeline = make_pipeline()
    first = queue(pipeline, due=Now() - timedelta(minutes=1))
    queue(pipeline, priority=0, due=Now() - timedelta(minutes=2))
    Run.objects.exclude(pk=first.pk).update(due=Now() + timedelta(hours=1))
    claimed = claim()
    assert claimed is not None
    Run.objects.exclude(pk=first.pk).update(due=Now() - timedelta(minutes=2))
    run_out(claimed)
    services.sweep()
    again = claim()
    assert again is not None
    assert again.run == first.pk
    assert claim() is None


@pytest.mark.django_db
def test_the_run_of_a_child_that_died_is_given_back_at_once(queue: Queue, claim: Claimer) -> None:
    queue()
    queue()
    died, lives = claim(task_id="t-1"), claim(task_id="t-2")
    assert died is not None
    assert lives is not None
    assert services.give_back_lease("t-1") == 1
    assert Run.objects.get(pk=died.run).status == RunStatus.RESOLVING
    assert Run.objects.get(pk=lives.run).status == RunStatus.RUNNING
    assert services.give_back_lease("t-1") == 0


@pytest.mark.django_db
def test_a_doubled_message_does_not_give_back_what_another_worker_holds(queue: Queue, claim: Claimer) -> None:
    queue()
    queue()
    died = claim(process="worker@a:1", task_id="t-1")
    lives = claim(process="worker@a:12", task_id="t-1")
    assert died is not None
    assert lives is not None
    assert services.give_back_lease("t-1", process="worker@a:1") == 1
    assert Run.objects.get(pk=lives.run).status == RunStatus.RUNNING


@pytest.mark.django_db
def test_runs_that_no_task_holds_are_nobodys_to_give_back(owned: Claim) -> None:
    Run.objects.update(task_id="")
    assert services.give_back_lease("") == 0


@pytest.mark.django_db
def test_whoever_gives_back_rings(
    owned: Claim, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    rung: list[int] = []
    monkeypatch.setattr(doorbell, "ring", lambda times=1: rung.append(times))
    run_out(owned)
    with django_capture_on_commit_callbacks(execute=True):
        services.sweep()
    assert rung == [1]
