"""Workers say that they live, end in peace, and give back what their dead children held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from celery.app.trace import ExceptionInfo
from celery.worker.request import Request
from django.db import OperationalError
from django.db.models.functions import Now

from datamantri.celery import app
from runs import doorbell, presence, services
from runs.models import Process, Run
from runs.presence import Presence
from runs.services import Claim
from runs.states import RunStatus
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

NAME = "worker@a:1"


def until_it_has_said_so_again(times: int = 2) -> None:
    """Until signs of life that begin after this have been given."""
    for _ in range(times):
        before = Process.objects.get().seen_at
        until(lambda before=before: Process.objects.get().seen_at > before)


@pytest.fixture
def bells(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    rung: list[int] = []
    monkeypatch.setattr(doorbell, "ring", lambda times=1: rung.append(times))
    return rung


@pytest.fixture
def worker(bells: list[int], settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Presence]:
    """The presence of a worker with two children, in this process."""
    settings.HEARTBEAT = timedelta(seconds=0.2)
    monkeypatch.setattr(presence, "RETRY_S", 0.05)
    worker = Presence(NAME, 2)
    monkeypatch.setattr(presence, "_presence", worker)
    monkeypatch.setenv(presence.NAME, NAME)
    worker.start()
    until(lambda: Process.objects.filter(pk=NAME).exists())
    yield worker
    worker.leave()


def test_a_worker_that_starts_rings_for_what_waited(worker: Presence, bells: list[int]) -> None:
    until(lambda: bells == [2])
    assert Process.objects.get().slots == 2


def test_a_worker_goes_on_saying_that_it_lives(worker: Presence, bells: list[int]) -> None:
    first = Process.objects.get().seen_at
    until(lambda: Process.objects.get().seen_at > first)
    assert bells == [2]


def test_a_flag_that_an_earlier_worker_left_behind_does_not_count(
    bells: list[int], worker_alive: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_alive(NAME, draining=True)
    worker = Presence(NAME, 2)
    worker.start()
    try:
        until(lambda: Process.objects.filter(draining=False).exists())  # the old row goes, then the new one comes
    finally:
        worker.leave()


def test_a_worker_that_ends_asks_its_children_to_hand_back(worker: Presence, monkeypatch: pytest.MonkeyPatch) -> None:
    presence._drain()
    until(lambda: Process.objects.get().draining)
    monkeypatch.setattr(services, "drain_process", lambda _: None)
    until_it_has_said_so_again()
    assert Process.objects.get().draining, "a heartbeat does not take it back"


def test_a_worker_that_has_ended_is_gone(worker: Presence) -> None:
    presence._drain()
    presence._leave()
    worker._thread.join(30)
    assert not worker._thread.is_alive()
    assert not Process.objects.exists()


def test_signs_of_life_and_the_wish_to_end_survive_an_outage(worker: Presence, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock stands for the outage: the session's server must go on for the other tests."""
    drain, failures = services.drain_process, [1, 1, 1]

    def failing(name: str) -> None:
        if failures:
            failures.pop()
            raise OperationalError("server closed the connection")
        drain(name)

    monkeypatch.setattr(services, "drain_process", failing)
    presence._drain()
    until(lambda: Process.objects.get().draining)


def test_a_worker_outlives_a_defect_in_what_it_says(worker: Presence, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, defects = services.seen, [RuntimeError("can't start new thread")]

    def failing(*args: Any, **values: Any) -> None:
        if defects:
            raise defects.pop()
        seen(*args, **values)

    monkeypatch.setattr(services, "seen", failing)
    until(lambda: not defects)
    before = Process.objects.get().seen_at
    until(lambda: Process.objects.get().seen_at > before)


def lost(task_id: str) -> None:
    """What Celery's parent process does when the pool tells it that a child is gone."""
    import runs.tasks  # noqa: F401 - registers the task

    message = SimpleNamespace(
        headers={"id": task_id, "task": doorbell.RING, "ignore_result": True},
        properties={},
        body=((), {}, {}),
        content_type="application/json",
        content_encoding="utf-8",
        payload=((), {}, {}),
        delivery_info={},
        acknowledged=True,
    )
    request = Request(message, app=app, task=app.tasks[doorbell.RING], decoded=True, headers=message.headers)
    try:
        raise WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL)")
    except WorkerLostError:
        request.on_failure(ExceptionInfo())


def test_celery_tells_of_a_dead_child_though_its_message_was_acknowledged_early(
    worker: Presence, queue: Callable[..., Run], claim: Callable[..., Claim | None]
) -> None:
    queue()
    claimed = claim(process=NAME, task_id="task-9")
    assert claimed is not None
    lost("another task")
    lost("task-9")
    until(lambda: Run.objects.get(pk=claimed.run).status == RunStatus.RESOLVING)
    assert Run.objects.get(pk=claimed.run).losses == 1


def test_what_a_dead_child_held_is_given_back_after_an_outage_too(
    worker: Presence, queue: Callable[..., Run], claim: Callable[..., Claim | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue()
    claimed = claim(process=NAME, task_id="task-9")
    assert claimed is not None
    give_back, failures = services.give_back_lease, [1, 1]

    def failing(*args: Any, **values: Any) -> int:
        if failures:
            failures.pop()
            raise OperationalError("server closed the connection")
        return give_back(*args, **values)

    monkeypatch.setattr(services, "give_back_lease", failing)
    worker.lose_task("task-9")
    until(lambda: Run.objects.get(pk=claimed.run).status == RunStatus.RESOLVING)


def test_what_a_child_held_is_given_back_whichever_message_it_had(
    worker: Presence, queue: Callable[..., Run], claim: Callable[..., Claim | None]
) -> None:
    queue()
    queue()
    gone, lives = claim(process=NAME, worker=f"{NAME}:7"), claim(process=NAME, worker=f"{NAME}:70")
    assert gone is not None
    assert lives is not None
    presence.child_ended(7)
    until(lambda: Run.objects.get(pk=gone.run).status == RunStatus.RESOLVING)
    assert Run.objects.get(pk=lives.run).status == RunStatus.RUNNING


@pytest.mark.parametrize("told", ["before it leaves", "after it has left"])
def test_a_worker_that_breaks_down_gives_back_what_it_hears_of_last(
    worker: Presence, queue: Callable[..., Run], claim: Callable[..., Claim | None], told: str
) -> None:
    queue()
    claimed = claim(process=NAME, task_id="task-9")
    assert claimed is not None
    if told == "before it leaves":
        with worker._saying:  # its thread is in the middle of something
            lost("task-9")
            worker._has_left = True
        worker.leave()
    else:
        worker.leave()
        lost("task-9")
    assert Run.objects.get(pk=claimed.run).status == RunStatus.RESOLVING


def test_what_a_child_claimed_with_its_last_breath_is_given_back(
    worker: Presence, queue: Callable[..., Run], claim: Callable[..., Claim | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that was on its way when its process died is carried out all the same."""
    run, give_back, late = queue(), services.give_back_leases, list[Claim | None]()

    def just_before_the_claim(child: str) -> int:
        given = give_back(child)
        if not late:
            late.append(claim(process=NAME, worker=child))
        return given

    monkeypatch.setattr(services, "give_back_leases", just_before_the_claim)
    monkeypatch.setattr(presence, "LAST_CLAIM_S", 0.2)
    presence.child_ended(7)
    until(lambda: Run.objects.get(pk=run.pk).status == RunStatus.RESOLVING)


def test_a_worker_that_ends_gives_back_what_children_held_whose_end_it_never_heard_of(
    worker: Presence, queue: Callable[..., Run], claim: Callable[..., Claim | None]
) -> None:
    queue()
    queue()
    gone, others = claim(process=NAME, worker=f"{NAME}:7"), claim(process=f"{NAME}0", worker=f"{NAME}0:7")
    assert gone is not None
    assert others is not None
    worker.leave()
    assert Run.objects.get(pk=gone.run).status == RunStatus.RESOLVING
    assert Run.objects.get(pk=others.run).status == RunStatus.RUNNING


def test_an_error_inside_a_task_gives_nothing_back(worker: Presence, owned: Claim) -> None:
    presence._give_back(task_id="task-1", exception=ValueError())
    until_it_has_said_so_again()
    assert Run.objects.get(pk=owned.run).status == RunStatus.RUNNING


def test_only_a_worker_that_takes_transfers_has_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_presence", None)
    queues = [SimpleNamespace(name="lookups")]
    presence._announce(
        SimpleNamespace(
            task_consumer=SimpleNamespace(queues=queues), controller=SimpleNamespace(concurrency=4), hostname="l@a"
        )
    )
    assert presence._presence is None


def test_children_inherit_a_name_that_no_other_worker_has(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv(presence.NAME, "")
    monkeypatch.setattr(presence, "keep_connections", lambda: None)
    presence._name_process(SimpleNamespace(hostname="worker@a"))
    assert presence.process_name() == f"worker@a:{os.getpid()}"


def test_processes_that_were_silent_for_long_are_forgotten(worker_alive: Callable[..., Process]) -> None:
    worker_alive("worker@old:1", seen_at=Now() - timedelta(hours=2))
    worker_alive("worker@young:1", seen_at=Now() - timedelta(minutes=2))
    services.forget_processes()
    assert Process.objects.get().name == "worker@young:1"
