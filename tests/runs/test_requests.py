"""Asking for a run, and asking it to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User

from pipelines import services as definitions
from pipelines.models import Pipeline, Priority
from runs import doorbell, live, services
from runs.models import LogLine, Run, Trigger
from runs.services import Claim
from runs.states import RunStatus

Queue = Callable[..., Run]
Claimer = Callable[..., "Claim | None"]


def ask(pipeline: Pipeline, by: Any, key: str | None = None, digest: str = "") -> tuple[Run, bool]:
    return services.request_run(pipeline, trigger=Trigger.API, by=by, idempotency_key=key, request_digest=digest)


@pytest.fixture
def bells(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts bells instead of sending them."""
    rung: list[int] = []
    monkeypatch.setattr(doorbell, "ring", lambda times=1: rung.append(times))
    return rung


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Remembers what the board is told instead of pushing it."""
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(live, "push_board", lambda run, pipeline, status: told.append((str(run), str(status))))
    return told


# Requests


@pytest.mark.django_db
def test_a_run_is_of_the_current_revision_and_comes_before_scheduled_ones(
    make_pipeline: Callable[..., Pipeline], operator: User
) -> None:
    pipeline = make_pipeline()
    run, created = ask(pipeline, operator)
    assert created
    assert run.revision_id == pipeline.revision_id
    assert run.status == RunStatus.QUEUED
    assert run.priority < Priority.NORMAL
    assert run.due <= run.created_at


@pytest.mark.django_db
def test_a_request_rings_once_it_is_committed(
    make_pipeline: Callable[..., Pipeline],
    operator: User,
    bells: list[int],
    pushes: list[tuple[str, str]],
    django_capture_on_commit_callbacks: Any,
) -> None:
    pipeline = make_pipeline()
    with django_capture_on_commit_callbacks(execute=True):
        run, _ = ask(pipeline, operator)
        assert bells == pushes == []
    assert bells == [1]
    assert pushes == [(str(run.pk), "queued")]


@pytest.mark.django_db
def test_an_archived_pipeline_does_not_run(make_pipeline: Callable[..., Pipeline], operator: User) -> None:
    pipeline = make_pipeline()
    definitions.archive([pipeline], by=operator)
    pipeline.refresh_from_db()
    with pytest.raises(services.RunRefused) as refused:
        ask(pipeline, operator)
    assert refused.value.code == "pipeline_archived"
    assert refused.value.hint


@pytest.mark.django_db
def test_a_paused_pipeline_runs_when_a_person_asks(make_pipeline: Callable[..., Pipeline], operator: User) -> None:
    pipeline = make_pipeline()
    definitions.pause([pipeline], by=operator)
    pipeline.refresh_from_db()
    assert ask(pipeline, operator)[1]


@pytest.mark.django_db
def test_a_repeated_key_gives_the_same_run(make_pipeline: Callable[..., Pipeline], operator: User) -> None:
    pipeline = make_pipeline()
    first, _ = ask(pipeline, operator, "k1", "d")
    again, created = ask(pipeline, operator, "k1", "d")
    assert (again, created) == (first, False)
    assert Run.objects.count() == 1


@pytest.mark.django_db
def test_a_repeated_key_gives_the_same_run_even_when_the_pipeline_was_archived_since(
    make_pipeline: Callable[..., Pipeline], operator: User
) -> None:
    pipeline = make_pipeline()
    first, _ = ask(pipeline, operator, "k1", "d")
    definitions.archive([pipeline], by=operator)
    pipeline.refresh_from_db()
    assert ask(pipeline, operator, "k1", "d") == (first, False)


@pytest.mark.django_db
def test_a_key_with_another_request_is_refused(make_pipeline: Callable[..., Pipeline], operator: User) -> None:
    pipeline = make_pipeline()
    ask(pipeline, operator, "k1", "d")
    with pytest.raises(services.KeyReused):
        ask(pipeline, operator, "k1", "another")


@pytest.mark.django_db
def test_keys_of_two_users_do_not_meet(make_pipeline: Callable[..., Pipeline], operator: User) -> None:
    pipeline = make_pipeline()
    other = User.objects.create_user("otto")
    assert ask(pipeline, operator, "k1", "d")[1]
    assert ask(pipeline, other, "k1", "another")[1]


@pytest.mark.django_db
def test_an_empty_key_is_no_key(make_pipeline: Callable[..., Pipeline], operator: User) -> None:
    pipeline = make_pipeline()
    assert ask(pipeline, operator, "")[1]
    assert ask(pipeline, operator, "")[1]


@pytest.mark.django_db(transaction=True)
def test_one_key_sent_many_times_at_once_makes_one_run(
    make_pipeline: Callable[..., Pipeline], operator: User, at_once: Callable[..., list[Any]]
) -> None:
    pipeline = make_pipeline()
    answers = at_once(lambda _: ask(pipeline, operator, "k1", "d"), times=6)
    assert sorted(created for _, created in answers) == [False] * 5 + [True]
    assert len({run.pk for run, _ in answers}) == Run.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_one_key_sent_at_once_with_two_requests_is_refused_once(
    make_pipeline: Callable[..., Pipeline], operator: User, at_once: Callable[..., list[Any]]
) -> None:
    pipeline = make_pipeline()
    answers = at_once(lambda number: ask(pipeline, operator, "k1", f"digest {number}"))
    refused = [answer for answer in answers if isinstance(answer, services.KeyReused)]
    assert len(refused) == Run.objects.count() == 1


@pytest.mark.django_db
def test_a_micro_batch_that_a_person_runs_again_is_none(queue: Queue, operator: User) -> None:
    run = queue(status=RunStatus.SUCCEEDED, action_options={"because": "changed"})
    assert services.run_again(run, by=operator).action_options == {}


@pytest.mark.django_db
def test_run_again_takes_the_definition_as_it_is_now(
    make_pipeline: Callable[..., Pipeline], queue: Queue, operator: User
) -> None:
    pipeline = make_pipeline()
    run = queue(pipeline)
    pipeline.retries = 7
    definitions.save_pipeline(pipeline, schedules=None, by=operator)
    run.refresh_from_db()
    again = services.run_again(run, by=operator)
    assert again.pk != run.pk
    assert again.revision.definition["retries"] == 7


# Cancelling


@pytest.mark.django_db
@pytest.mark.parametrize("status", [RunStatus.QUEUED, RunStatus.RETRYING])
def test_a_run_that_nobody_works_on_is_cancelled_at_once(queue: Queue, operator: User, status: RunStatus) -> None:
    run = queue(status=status)
    cancelled = services.cancel_run(run, by=operator)
    assert cancelled.status == RunStatus.CANCELLED
    assert cancelled.finished_at is not None
    assert cancelled.cancelled_by == operator
    assert "olga" in LogLine.objects.get(run=run).message


@pytest.mark.django_db
def test_cancelling_what_waits_frees_the_next_run_and_tells_the_board(
    queue: Queue,
    operator: User,
    bells: list[int],
    pushes: list[tuple[str, str]],
    django_capture_on_commit_callbacks: Any,
) -> None:
    run = queue(status=RunStatus.RETRYING)
    with django_capture_on_commit_callbacks(execute=True):
        services.cancel_run(run, by=operator)
    assert bells == [1]
    assert pushes == [(str(run.pk), "cancelled")]


@pytest.mark.django_db
def test_the_owner_of_a_running_run_is_asked_to_stop(owned: Claim, operator: User) -> None:
    run = services.cancel_run(Run.objects.get(pk=owned.run), by=operator)
    assert run.status == RunStatus.RUNNING
    assert run.cancel_requested
    assert run.lease_until is not None
    assert services.renew(owned.run, owned.token, process="").cancel_requested
    assert services.read_flags(owned.run, owned.token, process="").cancel_requested


@pytest.mark.django_db
def test_cancelling_twice_changes_nothing(owned: Claim, operator: User) -> None:
    run = Run.objects.get(pk=owned.run)
    services.cancel_run(run, by=operator)
    services.cancel_run(run, by=User.objects.create_user("otto"))
    assert run.cancelled_by == operator
    assert LogLine.objects.filter(run=run).count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("status", [RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED])
def test_what_has_ended_cannot_be_cancelled(queue: Queue, operator: User, status: RunStatus) -> None:
    run = services.cancel_run(queue(status=status), by=operator)
    assert run.status == status
    assert not run.cancel_requested
    assert not LogLine.objects.exists()


@pytest.mark.django_db
def test_what_is_resolving_is_asked_for_now_but_not_ended(
    owned: Claim, lose: Callable[[Claim], None], claim: Claimer, operator: User
) -> None:
    """The rows may have been published: only who has asked the destination may say cancelled."""
    lose(owned)
    second = claim()
    assert second is not None
    services.resolve_later(second, services.Failure("unreachable", "Away"), delay=settings.LEASE_TTL)
    assert claim() is None
    run = services.cancel_run(Run.objects.get(pk=owned.run), by=operator)
    assert run.status == RunStatus.RESOLVING
    third = claim()
    assert third is not None
    assert third.cancel_requested


@pytest.mark.django_db
def test_a_cancelled_run_is_not_tried_again(owned: Claim, operator: User, claim: Claimer) -> None:
    """Somebody cancels while the last batch fails: the owner sees the error, not the wish."""
    services.cancel_run(Run.objects.get(pk=owned.run), by=operator)
    services.retry_later(owned, services.Failure("transient", "Broke"), delay=settings.HEARTBEAT)
    run = Run.objects.get(pk=owned.run)
    assert run.status == RunStatus.CANCELLED
    assert run.finished_at is not None
    assert claim() is None


@pytest.mark.django_db
def test_a_cancelled_run_is_not_handed_to_another_worker(owned: Claim, operator: User) -> None:
    services.cancel_run(Run.objects.get(pk=owned.run), by=operator)
    services.hand_back(owned)
    assert Run.objects.get(pk=owned.run).status == RunStatus.CANCELLED


@pytest.mark.django_db(transaction=True)
def test_cancelling_meets_letting_go_in_any_order(
    queue: Queue, claim: Claimer, operator: User, at_once: Callable[..., list[Any]]
) -> None:
    """Whoever has the row first: the run ends cancelled, and never waits for a retry that nobody wants."""
    for _ in range(8):
        run = queue()
        claimed = claim()
        assert claimed is not None

        def act(number: int, claimed: Claim = claimed, run: Run = run) -> None:
            if number:
                services.cancel_run(run, by=operator)
            else:
                services.retry_later(claimed, services.Failure("transient", "Broke"), delay=settings.LEASE_TTL)

        assert at_once(act) == [None, None]
        run.refresh_from_db()
        assert run.status == RunStatus.CANCELLED
