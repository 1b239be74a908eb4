"""Faults at random moments: each is one `strike`, which says whether there was anything to hit."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

import psutil
from django.db.models import Q
from django.db.models.functions import Now

from pipelines.models import Schedule
from runs import services
from runs.models import PartLoad, Run, Trigger
from runs.states import ACTIVE, RunStatus, Step
from tests.chaos.stack import Stack, insist
from tests.connectors.postgres.proxy import COMMIT

MOSTLY = 0.8
COMMIT_MOST_S = 3.0
SOON_S = 1.0


@dataclass(frozen=True)
class Struck:
    """What was struck of a run: its attempt, or a part of it."""

    run: UUID
    attempt: int
    part: int | None = None


@dataclass(frozen=True)
class Hit:
    """What a strike met: the attempts of runs that it struck, or with `any_run` all that was under way."""

    fault: str
    at: float
    runs: tuple[Struck, ...] = field(default_factory=tuple)
    any_run: bool = False


class Fault(ABC):
    """Strikes `stack`; what it takes away comes back by itself, at once."""

    name: ClassVar[str]
    weight: ClassVar[int]
    # It takes away what all runs need: others strike when a run has ended since.
    is_heavy: ClassVar[bool] = False

    def __init__(self, stack: Stack, chance: random.Random) -> None:
        self.stack = stack
        self.chance = chance

    @abstractmethod
    def strike(self) -> Hit | None:
        """None when there was nothing to hit."""

    def hit(self, at: float, runs: Sequence[Struck] = (), *, any_run: bool = False) -> Hit | None:
        return Hit(self.name, at, tuple(runs), any_run) if runs or any_run else None


def under_way(*statuses: RunStatus) -> list[Run]:
    return insist(lambda: list(Run.objects.filter(status__in=statuses or ACTIVE)))


def owned() -> list[tuple[str, str, Struck]]:
    """What has an owner now: the process's id, the phase, and the run or part."""

    def look() -> list[tuple[str, str, Struck]]:
        runs = Run.objects.filter(lease_until__isnull=False, status__in=ACTIVE)
        parts = PartLoad.objects.filter(lease_until__isnull=False).select_related("run")
        return [
            *((run.worker, run.phase, Struck(run.pk, run.attempt)) for run in runs),
            *((part.worker, "loading", Struck(part.run_id, part.run.attempt, part.number)) for part in parts),
        ]

    return [(worker.rpartition(":")[2], phase, struck) for worker, phase, struck in insist(look)]


def owned_by(pids: Sequence[int]) -> list[Struck]:
    """The runs and parts that these processes own."""
    mine = {str(pid) for pid in pids}
    return [struck for pid, _, struck in owned() if pid in mine]


def in_phase(*phases: str) -> list[Struck]:
    return [struck for _, phase, struck in owned() if phase in phases]


def somebody_waits() -> bool:
    """Whether anything needs a bell, or the ticker, soon: a run that nobody has, one in parts, a tick that is due."""

    def look() -> bool:
        runs = Run.objects.filter(
            Q(status__in=(RunStatus.QUEUED, RunStatus.RETRYING)) | Q(status=RunStatus.RUNNING, step=Step.PARTS)
        )
        soon = Now() + timedelta(seconds=SOON_S)
        return runs.exists() or Schedule.objects.filter(next_due__lt=soon).exists()

    return bool(insist(look))


class _OfWorker(Fault):
    def a_worker(self) -> str:
        return self.chance.choice(sorted(self.stack.workers))

    def children(self, worker: str) -> list[psutil.Process]:
        with suppress(psutil.Error, KeyError):
            return self.stack.crew.children(worker)
        return []


class KillChild(_OfWorker):
    name, weight = "SIGKILL worker child", 60

    def strike(self) -> Hit | None:
        children = self.children(self.a_worker())
        # Mostly one that works: most strikes would meet nothing otherwise.
        busy = {pid for pid, _, _ in owned()} if self.chance.random() < MOSTLY else set()
        chosen = [child for child in children if str(child.pid) in busy] or children
        if not chosen:
            return None
        child = self.chance.choice(chosen)
        runs = owned_by([child.pid])
        at = time.time()
        try:
            child.kill()
        except psutil.NoSuchProcess:
            return None
        return self.hit(at, runs)


class KillParent(_OfWorker):
    """The process that hears the bells; its children end with it, unless they are quicker."""

    name, weight = "SIGKILL worker parent", 8
    with_children = False

    def strike(self) -> Hit | None:
        worker = self.a_worker()
        if not self.stack.crew.is_running(worker):
            return None
        runs = owned_by([child.pid for child in self.children(worker)])
        at = time.time()
        self.stack.crew.kill(worker, with_children=self.with_children)
        return self.hit(at, runs)


class KillHost(KillParent):
    """A worker with all its children, as when its machine goes."""

    name, weight = "SIGKILL worker, whole", 8
    with_children = True


class KillNursery(_OfWorker):
    """The process that a worker's children are copies of: they end, and the worker makes another."""

    name, weight = "SIGKILL what children come from", 4

    def strike(self) -> Hit | None:
        children = self.children(self.a_worker())
        with suppress(psutil.Error):
            for child in children:
                runs = owned_by([child.pid for child in children])
                at = time.time()
                os.kill(child.ppid(), signal.SIGKILL)
                return self.hit(at, runs)
        return None


class KillBeat(Fault):
    name, weight = "SIGKILL beat", 8

    def strike(self) -> Hit | None:
        if not self.stack.crew.is_running("beat-0"):
            return None
        is_needed = somebody_waits()
        at = time.time()
        self.stack.crew.kill("beat-0", with_children=True)
        return self.hit(at, any_run=is_needed)


class KillPoller(Fault):
    """One of those that ask sources whether they changed."""

    name, weight = "SIGKILL poller", 12

    def strike(self) -> Hit | None:
        pollers = [name for name in self.stack.crew.names if name.startswith("poller")]
        running = [name for name in pollers if self.stack.crew.is_running(name)]
        if not running:
            return None
        live = Run.objects.filter(status__in=(RunStatus.QUEUED, *ACTIVE), trigger=Trigger.REALTIME)
        is_needed = bool(insist(live.exists))
        at = time.time()
        self.stack.crew.kill(self.chance.choice(running), with_children=True)
        return self.hit(at, any_run=is_needed)


class KillBroker(Fault):
    name, weight = "SIGKILL Valkey", 8

    def strike(self) -> Hit | None:
        assert self.stack.main.valkey is not None
        is_needed = somebody_waits()
        at = time.time()
        self.stack.main.valkey.kill()
        self.stack.main.valkey.start()
        return self.hit(at, any_run=is_needed)


class KillBackend(Fault):
    """One session's process of the warehouse: PostgreSQL ends all others and recovers."""

    name, weight = "SIGKILL PostgreSQL backend", 6
    is_heavy = True

    def strike(self) -> Hit | None:
        found = a_backend(self.stack, self.chance)
        if found is None:
            return None
        runs = in_phase("loading", "publishing")
        at = time.time()
        try:
            self.end(found)
        except ProcessLookupError:
            return None
        return self.hit(at, runs)

    def end(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)


class EndBackend(KillBackend):
    """One session, as an administrator would end it."""

    name, weight = "PostgreSQL session ended", 8
    is_heavy = False

    def end(self, pid: int) -> None:
        with self.stack.at_warehouse() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", (pid,))
            if not cursor.fetchone()[0]:
                raise ProcessLookupError


class KillWarehouse(Fault):
    name, weight = "SIGKILL destination PostgreSQL", 4
    is_heavy = True

    def strike(self) -> Hit | None:
        runs = in_phase("loading", "publishing")
        at = time.time()
        restart_postgres(self.stack.warehouse)
        return self.hit(at, runs)


class KillControl(Fault):
    name, weight = "SIGKILL control PostgreSQL", 4
    is_heavy = True

    def strike(self) -> Hit | None:
        runs = [struck for _, _, struck in owned()]
        at = time.time()
        restart_postgres(self.stack.main)
        return self.hit(at, runs)


class KillBigQuery(Fault):
    name, weight = "SIGKILL BigQuery emulator", 3
    is_heavy = True

    def strike(self) -> Hit | None:
        runs = in_phase("loading")
        at = time.time()
        self.stack.restart_bigquery()
        return self.hit(at, runs)


class Freeze(_OfWorker):
    """A child stands still past its lease, and then goes on as if nothing had been."""

    name, weight = "SIGSTOP past the lease", 6

    def strike(self) -> Hit | None:
        for child in self.chance.sample(found := self.children(self.a_worker()), len(found)):
            runs = owned_by([child.pid])
            at = time.time()
            with suppress(psutil.NoSuchProcess):
                if not runs:
                    continue
                child.suspend()
                threading.Timer(self.stack.lease_s * 2, self._go_on, (child,)).start()
                return self.hit(at, runs)
        return None

    def _go_on(self, child: psutil.Process) -> None:
        with suppress(psutil.NoSuchProcess):
            child.resume()


class CutCommit(Fault):
    """The connection of a worker to the destination ends at its next COMMIT: before it arrives, or just after."""

    name, weight = "connection cut at COMMIT", 12

    def strike(self) -> Hit | None:
        proxy = self.stack.between
        if proxy is None:
            return None
        proxy.cut(COMMIT, self.chance.choice(["request", "answer", "nothing"]))
        deadline = time.monotonic() + COMMIT_MOST_S
        runs: list[Struck] = []
        while not proxy.hits and time.monotonic() < deadline:
            runs, at = in_phase("loading", "publishing"), time.time()
            time.sleep(0.05)
        hit = proxy.hits
        proxy.cut(b"", "request")
        return self.hit(at, runs) if hit else None


class Drain(_OfWorker):
    """A worker is asked to stop: it hands back what it holds, as in a rolling restart."""

    name, weight = "SIGTERM worker", 6

    def strike(self) -> Hit | None:
        worker = self.a_worker()
        if not self.stack.crew.is_running(worker):
            return None
        runs = owned_by([child.pid for child in self.children(worker)])
        at = time.time()
        with suppress(psutil.NoSuchProcess):
            self.stack.crew.process(worker).terminate()
        return self.hit(at, runs)


class Cancel(Fault):
    """A person cancels a run that is under way, of a lane that has nothing against it."""

    name, weight = "cancelled by a person", 6

    def strike(self) -> Hit | None:
        runs = [run for run in under_way(RunStatus.QUEUED, *ACTIVE) if run.pipeline_id not in self.stack.spared]
        if not runs:
            return None
        run = self.chance.choice(runs)
        at = time.time()
        insist(lambda: services.cancel_run(run, by=None))
        return self.hit(at, [Struck(run.pk, run.attempt)])


RANDOM: tuple[type[Fault], ...] = (
    *(KillChild, KillParent, KillHost, KillNursery, KillBeat, KillBroker, KillBackend, EndBackend),
    *(KillWarehouse, KillControl, KillBigQuery, Freeze, Drain, Cancel),
)


# Where pollers run, and connections to the destination can be cut.
LIVE: tuple[type[Fault], ...] = (*RANDOM, KillPoller, CutCommit)

# Those after which all is well again within a second or two.
QUICK: tuple[type[Fault], ...] = (KillChild, KillHost, KillBeat, KillBroker, EndBackend)


def a_backend(stack: Stack, chance: random.Random) -> int | None:
    """A session of a worker in the warehouse, one in a transaction if there is any."""

    def look() -> list[Any]:
        with stack.at_warehouse() as cursor:
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE usename = 'warehouse' AND xact_start IS NOT NULL ORDER BY pid"
            )
            return cursor.fetchall()

    found = insist(look)
    return chance.choice(found)[0] if found else None


def restart_postgres(stack: Any) -> None:
    stack.postgres.kill()
    stack.postgres.start()
