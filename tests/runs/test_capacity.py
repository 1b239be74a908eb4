"""Bells, slots and the processes that live."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from runs import actions, capacity, services, ticker
from runs.models import Process, Run
from runs.services import Claim
from runs.states import RunStatus

pytestmark = pytest.mark.django_db

Queue = Callable[..., Run]
Alive = Callable[..., Process]
AGO = timedelta(seconds=5)


@pytest.fixture
def waiting(queue: Queue) -> Callable[[int], None]:
    """Queues runs that have waited for some seconds."""

    def waiting(count: int) -> None:
        for _ in range(count):
            queue(due=Now() - AGO)

    return waiting


def test_nothing_waits_nobody_is_rung_for(worker_alive: Alive) -> None:
    worker_alive(slots=4)
    assert ticker.bells_due(0) == 0


def test_what_was_just_queued_rings_at_once(worker_alive: Alive, queue: Queue) -> None:
    worker_alive(slots=4)
    for _ in range(3):
        queue()

    def just_now() -> int:
        Run.objects.update(due=Now())
        return ticker.bells_due(0)

    # On a machine that stops for half a second in between they have waited.
    assert any(just_now() == 0 for _ in range(50)), "the one who asked has just rung"
    assert ticker.bells_due(3) == 3


def test_no_more_bells_than_free_slots(
    worker_alive: Alive, waiting: Callable[[int], None], claim: Callable[..., Claim | None]
) -> None:
    worker_alive("worker@a:1", slots=2)
    worker_alive("worker@b:1", slots=3)
    waiting(9)
    assert ticker.bells_due(9) == 5
    for expected in (4, 3, 3):
        claim(process="worker@a:1")
        assert ticker.bells_due(9) == expected, "a worker has no less than no slot"


def test_bells_do_not_pile_up_while_no_worker_lives(waiting: Callable[[int], None], worker_alive: Alive) -> None:
    waiting(3)
    assert ticker.bells_due(3) == 0
    worker = worker_alive()
    assert ticker.bells_due(0) == 2
    Process.objects.update(seen_at=Now() - capacity.PROCESS_SEEN_WITHIN - timedelta(seconds=1))
    assert ticker.bells_due(0) == 0
    services.seen(worker.name, Process.Kind.WORKER, slots=2)
    assert ticker.bells_due(0) == 2


def test_what_a_dead_or_ending_worker_holds_takes_nobody_elses_slots(
    worker_alive: Alive, queue: Queue, claim: Callable[..., Claim | None]
) -> None:
    for process in ("worker@dead:1", "worker@ending:1"):
        worker_alive(process, slots=3)
        for _ in range(2):
            queue()
            assert claim(process=process) is not None
    worker_alive("worker@new:1", slots=2)
    Process.objects.filter(pk="worker@dead:1").update(seen_at=Now() - timedelta(hours=1))
    services.drain_process("worker@ending:1")
    assert capacity.free_slots() == 2
    assert capacity.total_slots() == 2


def test_workers_whose_names_begin_alike_are_told_apart(
    worker_alive: Alive, queue: Queue, claim: Callable[..., Claim | None]
) -> None:
    worker_alive("worker@a:1", slots=1)
    worker_alive("worker@a:12", slots=1)
    queue()
    claim(process="worker@a:12")
    queue()
    assert capacity.free_slots() == 1
    claim(process="worker@a:1")
    assert capacity.free_slots() == 0


def test_only_what_could_run_now_counts(
    queue: Queue, waiting: Callable[[int], None], make_pipeline: Callable[..., Any]
) -> None:
    waiting(2)
    queue(due=Now() + timedelta(minutes=1))
    queue(status=RunStatus.RETRYING, due=Now() + timedelta(minutes=1))
    queue(status=RunStatus.RETRYING, due=Now() - AGO)
    queue(status=RunStatus.HELD)
    busy = make_pipeline("Busy")
    queue(busy, status=RunStatus.RUNNING, lease_until=Now() + timedelta(minutes=1))
    queue(busy, due=Now() - AGO)
    assert capacity.claimable_count() == 3
    assert capacity.claimable_count(waited=AGO / 2) == 3
    assert capacity.claimable_count(most=2) == 2


def test_beats_and_workers_are_told_apart(worker_alive: Alive) -> None:
    services.seen("beat@a:1", Process.Kind.BEAT)
    worker_alive()
    assert capacity.beats_alive().get().name == "beat@a:1"
    assert capacity.workers_alive().get().name == "worker@a:1"


@pytest.mark.parametrize(("slots", "parts"), [((), 8), ((1, 1), 8), ((4, 8), 36), ((90,), 200)])
def test_a_read_is_divided_into_more_parts_than_there_are_workers(
    worker_alive: Alive, slots: tuple[int, ...], parts: int
) -> None:
    for number, free in enumerate(slots):
        worker_alive(f"worker@a:{number}", slots=free)
    assert actions._parts() == parts
