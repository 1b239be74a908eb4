"""With leases as an installation has them: how long a lost worker keeps its run waiting."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from django.db import connection

from runs.models import PartLoad, Run
from runs.states import PartStatus
from tests.chaos import cases, evidence, lanes, points
from tests.chaos.faults import Fault, KillChild, KillHost, KillNursery, KillParent
from tests.chaos.lanes import Lane
from tests.chaos.points import DIRECT, STAGED, Strike
from tests.chaos.results import Results
from tests.chaos.stack import Stack, insist
from tests.chaos.storm import Storm

EVERY_S = 4.0
PAUSED_S = 120.0
STRUCK_WITHIN_S, TAKEN_WITHIN_S, TOLD_WITHIN_S, AWAKE_S = 60.0, 90.0, 20.0, 2.0
# A child's end is told by its parent, a host's by its lease alone.
LOST: tuple[type[Fault], ...] = (KillChild, KillHost, KillParent, KillNursery)
# Where processes stand still for minutes, all at the same time: what, how, and just before what.
STILL = (
    ("append", DIRECT, "load.middle"),
    ("append", DIRECT, "publish.before_commit"),
    ("merge", DIRECT, "publish.before_commit"),
    ("append", STAGED, "part.middle"),
    ("merge", STAGED, "checkpoint.before_commit"),
    ("replace", STAGED, "publish.before_commit"),
)

T = TypeVar("T")


def lose_workers(stack: Stack, results: Results, *, kills: int, seed: int, say: Callable[[str], None]) -> None:
    """Kill children and whole workers at random, several pipelines being under way."""
    ends = lanes.connections(stack)
    kinds = ("append", "replace", "merge")
    made = [lanes.Lane(stack, kind, way, **ends) for kind in kinds for way in points.WAYS]
    chance = random.Random(seed)
    faults = [fault(stack, chance) for fault in LOST]
    weights = [3, 3, 1, 1]
    Storm(stack, made, faults, results, seed, weights).rage(kills=kills, limit_s=600, every_s=EVERY_S, say=say)


def pause_for_minutes(stack: Stack, results: Results) -> None:
    """Processes stand still for two minutes, just before a COMMIT or among rows, and must then find it refused."""
    # Whoever stands still takes a child away: as many as before are awake.
    stack.workers["worker-c"] = len(STILL)
    stack.start_worker("worker-c")
    stack.crew.keep_running("worker-c")
    ends = lanes.connections(stack)
    made = {lanes.Lane(stack, kind, way, **ends): point for kind, way, point in STILL}

    def play(lane: Lane, point: str) -> None:
        fault = f"SIGSTOP for two minutes at {point}, {lane.name}"
        try:
            StandStill(stack, results, lane, point, fault).play()
        except Exception as failed:  # noqa: BLE001 - it is told, and the others go on
            results.failed(f"{fault}: {type(failed).__name__}: {failed}")
            evidence.keep(stack, fault, [traceback.format_exc()])
        finally:
            connection.close()

    with ThreadPoolExecutor(len(made)) as pool:
        for played in [pool.submit(play, *chosen) for chosen in made.items()]:
            played.result()


@dataclass(frozen=True)
class Tokens:
    """Who may write at the destination: to the target, and of the part that was struck."""

    head: int
    part: int = 0


class StandStill:
    """One process that stands still at `point` while others end its run, and what it is told when it goes on."""

    def __init__(self, stack: Stack, results: Results, lane: Lane, point: str, fault: str) -> None:
        self._stack, self._results, self._lane, self._point, self._fault = stack, results, lane, point, fault
        self._whose = lane.prepare()
        self._struck: Strike | None = None
        self._part: PartLoad | None = None
        self._former, self._newer = Tokens(0), Tokens(0)
        self._said: dict[str, int] = {}

    def play(self) -> None:
        self._stack.armoury.arm(self._point, "stop", self._whose)
        outcome = self._lane.turn(self._watch)
        struck = self._struck
        if struck is None:
            self._stack.armoury.disarm(self._point, self._whose)
        recovery_s = cases.recovery(outcome.run, struck) if struck else None
        self._results.tried(self._fault, hit=struck is not None, recovery_s=recovery_s)
        self._results.judged(outcome, [self._fault], self._fault)
        evidence.keep_if_wrong(self._stack, self._fault, outcome)
        if struck is None:
            return
        applied = self._applied(outcome.run)
        time.sleep(max(0.0, struck.at + PAUSED_S - time.time()))
        os.kill(struck.pid, signal.SIGCONT)
        told = within(TOLD_WITHIN_S, lambda: self._refusal(outcome.run))
        time.sleep(AWAKE_S)
        later = self._lane.judge_again(outcome.run)
        self._results.judged(later, [self._fault], f"{self._fault}, awake again")
        evidence.keep_if_wrong(self._stack, f"{self._fault}, awake again", later)
        wrong = [
            *(["whoever woke up was never told that it has lost its run"] if not told else []),
            *([f"nobody raised the fence: {applied} after {self._former}"] if applied[1] <= self._former.head else []),
            *(["`applied` changed"] if self._applied(outcome.run) != applied else []),
            *(["the part's checkpoint got no newer token"] if self._part and not self._newer.part else []),
        ]
        for what in wrong:
            self._results.failed(f"{self._fault}: {what}")
            evidence.keep(self._stack, self._fault, [what, *evidence.of_run(outcome.run)])

    def _watch(self, run: Run) -> None:
        """See who stands still, who may write then, and that somebody else may soon."""
        armoury = self._stack.armoury
        self._struck = struck = within(STRUCK_WITHIN_S, lambda: armoury.struck(self._point, self._whose))
        if struck is None:
            return
        self._said = {name: len(self._stack.crew.said(name)) for name in self._stack.workers}
        loading = PartLoad.objects.filter(run=run, status=PartStatus.RUNNING, worker__endswith=f":{struck.pid}")
        self._part = insist(loading.first)
        self._former = self._tokens(run)
        if self._part is not None:
            newer = within(TAKEN_WITHIN_S, lambda: self._taken(run))
            self._newer = newer or self._newer

    def _taken(self, run: Run) -> Tokens | None:
        found = self._tokens(run)
        return found if found.part > self._former.part else None

    def _tokens(self, run: Run) -> Tokens:
        """As the destination has them."""
        with self._stack.at_warehouse() as cursor:
            cursor.execute("SELECT token FROM _datamantri.head WHERE pipeline = %s", (str(run.pipeline_id),))
            (head,) = cursor.fetchone()
            if self._part is None:
                return Tokens(head)
            cursor.execute(
                "SELECT token FROM _datamantri.checkpoint WHERE run = %s AND part = %s",
                (str(run.pk), self._part.number),
            )
            found = cursor.fetchone()
            return Tokens(head, found[0] if found else 0)

    def _applied(self, run: Run) -> tuple[int, int]:
        """Rows and token."""
        with self._stack.at_warehouse() as cursor:
            cursor.execute("SELECT rows, token FROM _datamantri.applied WHERE run = %s", (str(run.pk),))
            rows, token = cursor.fetchone()
            return rows, token

    def _refusal(self, run: Run) -> str:
        """What a worker's log says since then of one that is not the owner any more."""
        words = ("is no longer this worker's", "went to another worker", "has a newer owner", "did not stop in time")
        for name, begin in self._said.items():
            for line in self._stack.crew.said(name)[begin:].splitlines():
                if str(run.pk) in line and any(some in line for some in words):
                    return line
        return ""


def within(limit_s: float, ask: Callable[[], T]) -> T | None:
    """The first answer that is not empty, or None after that time."""
    deadline = time.monotonic() + limit_s
    while not (answer := insist(ask)):
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)
    return answer
