"""Beat with our ticker: one round after another, whatever is away."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.utils import timezone
from django_celery_results.models import TaskResult

from datamantri import celery_beat
from datamantri.celery import app
from datamantri.celery_beat import Ticker
from datamantri.embedded import ports
from datamantri.embedded.valkey import binary
from pipelines.models import Schedule
from pipelines.specs import ScheduleSpec
from runs import doorbell, services, ticker
from runs.models import Process, Run
from runs.services import Claim
from runs.states import RunStatus
from tests.waiting import until

pytestmark = pytest.mark.django_db


@pytest.fixture
def beat(monkeypatch: pytest.MonkeyPatch) -> Ticker:
    """A scheduler that closes no connection of this test's own: it is in a transaction."""
    monkeypatch.setattr(connection, "close", lambda: None)
    return Ticker(app=app, lazy=True)


@pytest.fixture
def every_minute(make_pipeline: Callable[..., Any]) -> Schedule:
    schedule = make_pipeline(schedules=[ScheduleSpec("interval", every_s=60)]).schedules.get()
    Schedule.objects.update(next_due=Now() + timedelta(hours=1))
    return schedule


def test_a_round_ticks_sweeps_and_says_that_beat_lives(beat: Ticker, owned: Claim, every_minute: Schedule) -> None:
    Run.objects.update(lease_until=Now() - timedelta(seconds=1))
    long_ago = every_minute.ticked_through - timedelta(seconds=70)
    Schedule.objects.update(ticked_through=long_ago, next_due=long_ago)
    every_minute.pipeline.__class__.objects.update(active_from=long_ago)
    beat.tick()
    assert Run.objects.get(pk=owned.run).status == RunStatus.RESOLVING
    assert Run.objects.filter(schedule=every_minute).exists()
    assert Process.objects.get().kind == Process.Kind.BEAT


@pytest.mark.parametrize("duty", ["tick", "settle", "advance_backfills"])
def test_a_defect_in_one_duty_keeps_no_other_from_being_done(
    beat: Ticker, owned: Claim, monkeypatch: pytest.MonkeyPatch, duty: str
) -> None:
    def fail() -> int:
        raise OverflowError("date value out of range")

    monkeypatch.setattr(ticker if duty == "tick" else services, duty, fail)
    Run.objects.update(lease_until=Now() - timedelta(seconds=1))
    beat.tick()
    assert not beat._failures  # it takes it for no outage, which it would wait out
    assert Run.objects.get(pk=owned.run).status == RunStatus.RESOLVING
    assert Process.objects.get().kind == Process.Kind.BEAT


def test_answers_of_look_ups_that_nobody_read_do_not_stay(beat: Ticker) -> None:
    """They hold rows of a source; the page stopped waiting, or its process died."""
    for name in ("old", "new"):
        TaskResult.objects.create(task_id=name, status="SUCCESS", result='{"ok": "rows"}')
    TaskResult.objects.filter(task_id="old").update(date_done=timezone.now() - timedelta(hours=2))
    beat.tick()
    assert TaskResult.objects.get(task_id__in=["old", "new"]).task_id == "new"


def test_beat_sleeps_until_the_next_tick_but_a_second_at_most(
    beat: Ticker, every_minute: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert celery_beat.LONGEST_SLEEP_S == 1
    assert beat.tick() == 1
    Schedule.objects.update(next_due=Now() + timedelta(minutes=30))
    assert 1700 < ticker.seconds_to_next(3600) < 1800
    with monkeypatch.context() as patch:
        patch.setattr(celery_beat, "LONGEST_SLEEP_S", 3600.0)
        assert 1700 < beat.tick() < 1800
    Schedule.objects.update(next_due=None)
    assert ticker.seconds_to_next(1) == 1


def test_beats_own_clock_does_not_count(beat: Ticker, every_minute: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat whose clock is an hour fast must not spin until the database's clock is there."""
    now = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: now() + timedelta(hours=2))
    assert beat.tick() == celery_beat.LONGEST_SLEEP_S


def test_a_tick_that_another_beat_is_taking_is_not_asked_for_without_a_pause(
    beat: Ticker, every_minute: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    Schedule.objects.update(next_due=Now() - timedelta(seconds=1))
    monkeypatch.setattr(ticker, "tick", lambda: 0)
    assert beat.tick() == celery_beat.SHORTEST_SLEEP_S


def test_waits_grow_while_the_database_is_away_and_end_when_it_is_back(
    beat: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> int:
        raise OperationalError("connection refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ticker, "tick", away)
        waits = [beat.tick() for _ in range(2000)]  # a night
    assert waits[:5] == [1, 2, 4, 8, 15]
    assert set(waits[5:]) == {celery_beat.LONGEST_BACKOFF_S}
    assert beat.tick() == celery_beat.LONGEST_SLEEP_S
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ticker, "tick", away)
        assert beat.tick() == 1


def test_an_error_nobody_foresaw_does_not_end_beat(
    beat: Ticker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> int:
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ticker, "tick", broken)
        assert beat.tick() == 1
    assert "ZeroDivisionError" in caplog.text
    assert beat.tick() == celery_beat.LONGEST_SLEEP_S


def test_housekeeping_goes_on_until_all_that_is_old_is_gone(beat: Ticker, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [500, 500, 0, 500]
    monkeypatch.setattr(services, "trim", lambda: left.pop(0))
    for _ in range(6):
        beat.tick()
    assert left == [500], "and then rests"


def test_housekeeping_waits_for_a_moment_without_ticks_but_not_for_ever(
    beat: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed: list[int] = []
    monkeypatch.setattr(services, "trim", lambda: trimmed.append(1) or 0)
    monkeypatch.setattr(ticker, "seconds_to_next", lambda longest: 0.0)
    for _ in range(3):
        assert beat.tick() == celery_beat.SHORTEST_SLEEP_S
    assert not trimmed
    monkeypatch.setattr(celery_beat, "HOUSEKEEPING_WAITS_S", 0.0)
    beat.tick()
    assert trimmed


def test_a_beat_that_ends_signs_off(beat: Ticker) -> None:
    beat.tick()
    assert Process.objects.exists()
    beat.close()
    assert not Process.objects.exists()


def test_a_signal_in_the_middle_of_a_round_signs_off_after_it(beat: Ticker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beat's signal handler closes its scheduler, between any two lines of a query that is under way."""
    beat.tick()

    def interrupted() -> int:
        with connection.execute_wrapper(refuse):
            beat.close()
        raise SystemExit

    def refuse(*_: Any) -> Any:
        raise AssertionError("a query inside a query never ends")

    monkeypatch.setattr(ticker, "tick", interrupted)
    with pytest.raises(SystemExit):
        beat.tick()
    assert Process.objects.exists()
    beat.close()
    assert not Process.objects.exists()


def test_bells_are_rung_beside_the_ticks(
    beat: Ticker, monkeypatch: pytest.MonkeyPatch, queue: Callable[..., Run], worker_alive: Callable[..., Process]
) -> None:
    """A broker that hangs holds up no tick, a ringer that breaks is not the last one."""
    rung: list[int] = []
    has_ticked, ended = threading.Event(), []

    def ring_now(times: int) -> None:
        rung.append(times)
        if len(rung) == 1:
            raise ZeroDivisionError
        ended.append(has_ticked.wait(30))

    monkeypatch.setattr(doorbell, "ring_now", ring_now)
    monkeypatch.setattr(doorbell, "_ringer", None)
    worker_alive(slots=2)
    for _ in range(3):
        queue(due=Now() - timedelta(seconds=5))
    beat.tick()
    until(lambda: len(rung) == 1)
    beat.tick()
    assert not ended, "the bell is still on its way"
    has_ticked.set()
    until(lambda: ended)
    assert (rung, ended) == ([2, 2], [True])


def test_bells_that_are_asked_for_meanwhile_are_rung_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rung: list[int] = []
    gate = threading.Event()

    def ring_now(times: int) -> None:
        rung.append(times)
        gate.wait(30)

    monkeypatch.setattr(doorbell, "ring_now", ring_now)
    monkeypatch.setattr(doorbell, "_ringer", None)
    doorbell.ring()
    until(lambda: rung == [1])
    for _ in range(5):
        doorbell.ring(2)
    gate.set()
    until(lambda: rung == [1, 10])


# The bell itself, with a broker that goes and comes back


class Broker:
    """A Valkey of a test's own, which it may stop."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        self._process = subprocess.Popen([str(binary()), *options], stdout=subprocess.DEVNULL)
        until(self.answers)

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def bells(self) -> int:
        with redis.Redis(port=self.port) as client:
            return int(client.llen(doorbell.QUEUE))  # type: ignore[arg-type]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Broker]:
    chosen = ports.Ports(tmp_path / "ports.json")
    broker = Broker(chosen.choose("broker"))
    own = Celery("bells", broker=broker.url, set_as_current=False)
    try:
        broker.start()
        own.conf.broker_transport_options = app.conf.broker_transport_options
        monkeypatch.setattr(doorbell, "current_app", own)
        yield broker
    finally:
        own.pool.force_close_all()
        own.close()
        broker.stop()
        chosen.give_back()


def test_a_bell_does_not_wait_for_a_broker_that_is_away_and_finds_it_when_it_is_back(broker: Broker) -> None:
    assert doorbell.ring_now(2)
    assert broker.bells() == 2
    broker.stop()
    for _ in range(3):
        began = time.monotonic()
        assert not doorbell.ring_now(3)
        assert time.monotonic() - began < 8
    broker.start()
    assert doorbell.ring_now() or doorbell.ring_now()
    assert broker.bells() >= 1
