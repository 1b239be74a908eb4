"""Who owns a run keeps it, hears what it is asked to do, and stops when its time is up."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError
from django.db.models.functions import Now

from connectors.errors import Stopped
from runs import lease as leases
from runs import services
from runs.lease import Keeper, Lease
from runs.models import Process, Run
from runs.services import Claim, ownership
from tests.waiting import until

HOUR = timedelta(hours=1)
FLAGS_EVERY_S = leases.FLAGS_EVERY_S


NOBODY = SimpleNamespace(run="a run", token=1)


def make_lease(claimed: Any, *, limit: timedelta = HOUR, granted: float | None = None, process: str = "") -> Lease:
    return Lease(claimed, granted=time.monotonic() if granted is None else granted, time_limit=limit, process=process)


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "FLAGS_EVERY_S", 0.05)


class Clock:
    """Stands for the monotonic clock of leases: it can be put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leases, "time", clock)
    return clock


@pytest.fixture
def held(owned: Claim) -> Iterator[Callable[..., Lease]]:
    """Makes a lease that a keeper of its own keeps."""
    kept = []

    def held(claimed: Claim = owned, **values: Any) -> Lease:
        keeper, lease = Keeper(), make_lease(claimed, **values)
        keeper.hold(lease)
        kept.append((keeper, lease))
        return lease

    yield held
    for keeper, lease in kept:
        keeper.release(lease)


# A lease by itself: no database


def test_a_lease_that_holds_lets_the_engine_go_on() -> None:
    make_lease(NOBODY).check()


def test_a_process_that_was_paused_finds_out_before_it_writes(settings: Any) -> None:
    """Its keeper was paused too: only the clock tells."""
    lease = make_lease(NOBODY, granted=time.monotonic() - settings.LEASE_TTL.total_seconds() - 0.01)
    with pytest.raises(Stopped) as stopped:
        lease.check()
    assert stopped.value.code == "lease_lost"


def test_a_lease_counts_from_before_the_renewal_was_sent(settings: Any) -> None:
    lease = make_lease(NOBODY, granted=time.monotonic() - settings.LEASE_TTL.total_seconds() + 5)
    lease.renewed(time.monotonic() - settings.LEASE_TTL.total_seconds() - 0.01)
    with pytest.raises(Stopped):
        lease.check()


def test_the_first_reason_stays_but_a_lost_lease_outranks_it() -> None:
    lease = make_lease(NOBODY)
    for reason, told in (("cancelled", "cancelled"), ("drain", "cancelled"), ("lease_lost", "lease_lost")):
        lease.stop(reason)
        with pytest.raises(Stopped) as stopped:
            lease.check()
        assert stopped.value.code == told


def test_stopping_breaks_what_blocks_whenever_it_was_registered() -> None:
    lease, broken = make_lease(NOBODY), []
    take_back = lease.on_stop(lambda: broken.append("taken back"))
    lease.on_stop(lambda: broken.append("before"))
    take_back()
    lease.stop("cancelled")
    until(lambda: broken == ["before"])
    lease.on_stop(lambda: broken.append("after"))
    assert broken == ["before", "after"]


def test_one_wait_that_cannot_be_broken_does_not_save_the_others() -> None:
    lease, broken = make_lease(NOBODY), []

    def fail() -> None:
        raise OSError

    lease.on_stop(fail)
    lease.on_stop(lambda: broken.append(True))
    lease.stop("cancelled")
    until(lambda: broken)


def test_a_callback_that_hangs_does_not_hold_up_the_keeper() -> None:
    lease, gate, returned = make_lease(NOBODY), threading.Event(), []
    lease.on_stop(lambda: returned.append(gate.wait(20)))
    lease.stop("cancelled")
    assert not returned
    gate.set()
    until(lambda: returned == [True])


def test_asking_how_a_run_stands_is_not_stopped_by_a_wish() -> None:
    lease = make_lease(NOBODY)
    lease.stop("cancelled")
    lease.check_ownership()
    lease.stop("lease_lost")
    with pytest.raises(Stopped):
        lease.check_ownership()


def test_an_engine_that_does_not_let_go_is_stuck(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EXIT_AFTER_S", 100.0)
    lease = make_lease(NOBODY)
    assert not lease.is_stuck
    lease.stop("cancelled")
    assert not lease.is_stuck
    clock.ahead_s += 101
    assert lease.is_stuck
    with lease.patience(1000):
        assert not lease.is_stuck, "connecting ends by itself"
        clock.ahead_s += 101
    assert not lease.is_stuck, "what comes after it has not had its time yet"
    clock.ahead_s += 101
    assert lease.is_stuck
    lease.rest()
    assert not lease.is_stuck, "what is left is to write down how it ended"


# The keeper


@pytest.mark.django_db(transaction=True)
def test_a_lease_is_renewed_while_it_is_held(
    held: Callable[..., Lease], owned: Claim, settings: Any, clock: Clock
) -> None:
    settings.HEARTBEAT, settings.LEASE_TTL = timedelta(seconds=0.1), timedelta(minutes=10)
    Run.objects.filter(pk=owned.run).update(lease_until=Now() - timedelta(seconds=1))
    lease = held(granted=time.monotonic() - 300)
    for _ in range(2):  # who sends the second renewal knows of the first
        before = Run.objects.get(pk=owned.run).heartbeat_at
        until(lambda before=before: Run.objects.get(pk=owned.run).heartbeat_at > before)
    clock.ahead_s = 400
    lease.check()
    assert services.sweep() == 0


@pytest.mark.django_db(transaction=True)
def test_a_lease_that_was_released_is_renewed_no_more(owned: Claim, settings: Any) -> None:
    settings.HEARTBEAT = timedelta(seconds=0.1)
    keeper, lease = Keeper(), make_lease(owned)
    keeper.hold(lease)
    first = Run.objects.get(pk=owned.run).heartbeat_at
    until(lambda: Run.objects.get(pk=owned.run).heartbeat_at > first)
    keeper.release(lease)
    seen = set()
    for _ in range(20):
        time.sleep(0.05)
        seen.add(Run.objects.get(pk=owned.run).heartbeat_at)
    assert len(seen) <= 2, "what was on its way may still arrive"


@pytest.mark.django_db(transaction=True)
def test_one_keeper_serves_run_after_run(
    owned: Claim, queue: Callable[..., Run], claim: Callable[..., Claim | None], operator: User
) -> None:
    queue()
    second = claim()
    assert second is not None
    keeper = Keeper()
    first_lease, second_lease = make_lease(owned), make_lease(second)
    keeper.hold(first_lease)
    time.sleep(0.2)  # it may have taken notice, or not
    keeper.release(first_lease)
    keeper.hold(second_lease)
    services.cancel_run(Run.objects.get(pk=second.run), by=operator)
    until(lambda: second_lease.reason)
    assert (first_lease.reason, second_lease.reason) == ("", "cancelled")
    keeper.release(second_lease)


@pytest.mark.django_db(transaction=True)
def test_a_wish_to_cancel_arrives_in_about_a_second(
    held: Callable[..., Lease], owned: Claim, operator: User, settings: Any
) -> None:
    """It is not only looked for when the lease is renewed."""
    settings.HEARTBEAT = HOUR
    lease = held()
    services.cancel_run(Run.objects.get(pk=owned.run), by=operator)
    assert FLAGS_EVERY_S <= 1
    until(lambda: lease.reason == "cancelled")


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_is_ending_takes_its_run_along(
    held: Callable[..., Lease], worker_alive: Callable[..., Process]
) -> None:
    worker_alive("worker@a:1")
    lease = held(process="worker@a:1")
    services.drain_process("worker@a:1")
    until(lambda: lease.reason == "drain")


@pytest.mark.django_db(transaction=True)
def test_the_time_limit_stops_a_run(held: Callable[..., Lease]) -> None:
    lease = held(limit=timedelta(seconds=0.2))
    broken: list[bool] = []
    lease.on_stop(lambda: broken.append(True))
    until(lambda: broken)
    assert lease.reason == "time_limit"


@pytest.mark.django_db(transaction=True)
def test_a_lease_that_was_given_to_another_is_noticed(
    held: Callable[..., Lease], owned: Claim, lose: Callable[[Claim], None], claim: Callable[..., Claim | None]
) -> None:
    lease = held()
    lose(owned)
    assert claim() is not None
    until(lambda: lease.reason == "lease_lost")


@pytest.mark.django_db(transaction=True)
def test_a_lease_ends_while_the_database_is_away_and_hangs(
    held: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """A mock stands for a host that swallows packets: the clock is looked at nevertheless."""
    settings.HEARTBEAT, settings.LEASE_TTL = timedelta(seconds=0.1), timedelta(seconds=0.5)
    gate = threading.Event()

    def hang(*args: Any, **values: Any) -> Any:
        gate.wait(30)
        raise OperationalError("timeout expired")

    monkeypatch.setattr(ownership, "renew", hang)
    monkeypatch.setattr(ownership, "read_flags", hang)
    lease = held()
    until(lambda: lease.reason == "lease_lost", within_s=20)
    gate.set()


@pytest.mark.django_db(transaction=True)
def test_a_short_outage_does_not_cost_the_lease(
    held: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch, settings: Any, owned: Claim
) -> None:
    settings.HEARTBEAT = timedelta(seconds=0.1)
    renew, failures = services.renew, [1, 1, 1]

    def failing(*args: Any, **values: Any) -> Any:
        if failures:
            failures.pop()
            raise OperationalError("away")
        return renew(*args, **values)

    monkeypatch.setattr(ownership, "renew", failing)
    lease = held()
    before = Run.objects.get(pk=owned.run).heartbeat_at
    until(lambda: Run.objects.get(pk=owned.run).heartbeat_at > before)
    lease.check()


@pytest.mark.django_db(transaction=True)
def test_the_keeper_outlives_what_nobody_foresaw(
    held: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch, owned: Claim, operator: User
) -> None:
    read, failures = services.read_flags, [True]

    def failing(*args: Any, **values: Any) -> Any:
        if failures:
            failures.pop()
            raise ValueError("a bug")
        return read(*args, **values)

    monkeypatch.setattr(ownership, "read_flags", failing)
    lease = held()
    services.cancel_run(Run.objects.get(pk=owned.run), by=operator)
    until(lambda: lease.reason == "cancelled")
    assert not failures


@pytest.mark.django_db(transaction=True)
def test_a_lease_that_ran_out_is_still_the_owners_until_somebody_takes_it(
    held: Callable[..., Lease], owned: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ticker was away: nobody else works on it, so going on is right."""
    read, answers = services.read_flags, []

    def noted(*args: Any, **values: Any) -> Any:
        answers.append(read(*args, **values))
        return answers[-1]

    monkeypatch.setattr(ownership, "read_flags", noted)
    Run.objects.filter(pk=owned.run).update(lease_until=Now() - timedelta(seconds=1))
    lease = held()
    until(lambda: len(answers) > 1)  # and the first was obeyed
    lease.check()


STUCK = """
import time
import django
django.setup()
from datetime import timedelta
from runs import lease as leases, services
leases.EXIT_AFTER_S = 60.0
class Claim: run, token = "a run", 1
{database}
keeper = leases.Keeper()
lease = leases.Lease(Claim, granted=time.monotonic(), time_limit=timedelta(hours=1), process="")
keeper.hold(lease)

def break_():
    print("broken", flush=True)
    lease._exit_after_s = 0.1

lease.on_stop(break_)
lease.stop("cancelled")
{then}
time.sleep(20)
print("survived")
"""
ANSWERS = "Claim.renew = Claim.read_flags = lambda *a, **k: services.Renewal(True)"
HANGS = "Claim.renew = Claim.read_flags = lambda *a, **k: time.sleep(60)"


@pytest.mark.parametrize("database", [ANSWERS, HANGS])
def test_a_process_whose_engine_does_not_let_go_ends_itself(database: str) -> None:
    """Also while the control database hangs."""
    ended = subprocess.run(
        [sys.executable, "-c", STUCK.format(database=database, then="")], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == leases.EXIT_CODE, ended.stderr
    assert ended.stdout == "broken\n"


def test_a_process_that_lets_go_lives() -> None:
    # The clock is looked at every quarter of a second.
    then = "lease.rest(); time.sleep(0.7); keeper.release(lease); time.sleep(0.5); raise SystemExit(0)"
    ended = subprocess.run(
        [sys.executable, "-c", STUCK.format(database=ANSWERS, then=then)], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
