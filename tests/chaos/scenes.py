"""Faults that need a stage of their own: each scene strikes some runs, and says what it found."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

from django.db import connection

from runs import doorbell
from runs.models import Run
from tests.chaos import cases, evidence, lanes
from tests.chaos.cases import Case, seconds_until_going
from tests.chaos.lanes import Lane, Outcome
from tests.chaos.points import DIRECT, STAGED, WAYS
from tests.chaos.results import Results
from tests.chaos.stack import Stack
from tests.connectors.postgres.proxy import COMMIT, Proxy

KINDS = ("append", "replace", "merge")
# Where a process stands still until another has long ended its run.
_LAST = ("publish.before_lock", "publish.after_lock", "publish.before_commit")
STILL_AT = {
    DIRECT: ("claim.after", "fence.after", "plan.after", "load.middle", *_LAST),
    STAGED: ("stage.before_commit", "take.after", "part.middle", "checkpoint.before_commit", "check.begin", *_LAST),
}
AWAKE_S = 2.0
AWAY_S, LONG_AWAY_S = 8.0, 60.0


class Skipped(Exception):
    """A scene cannot be played here; the text says why."""


class Stage:
    """What scenes share: the stack, lanes for each kind and way, and where results go."""

    def __init__(self, stack: Stack, results: Results, ways: tuple[str, ...] = WAYS) -> None:
        self.stack = stack
        self.results = results
        self.ways = ways
        self.ends = lanes.connections(stack)
        self._lanes: dict[tuple[str, str], Lane] = {}

    def lanes(self, kinds: tuple[str, ...] = KINDS) -> Iterator[Lane]:
        for way in self.ways:
            for kind in kinds:
                if (kind, way) not in self._lanes:
                    self._lanes[kind, way] = Lane(self.stack, kind, way, **self.ends)
                yield self._lanes[kind, way]

    def note(self, fault: str, outcome: Outcome, *, hit: bool, recovery_s: float | None = None) -> None:
        self.results.tried(fault, hit=hit, recovery_s=recovery_s)
        self.check(fault, outcome)

    def check(self, fault: str, outcome: Outcome) -> None:
        self.results.judged(outcome, [fault] if fault in self.results.lines else [], fault)
        evidence.keep_if_wrong(self.stack, fault, outcome)


def play(stage: Stage, chosen: dict[str, Callable[[Stage], None]]) -> None:
    for name, scene in chosen.items():
        try:
            scene(stage)
        except Skipped as why:
            stage.results.skipped[name] = str(why)
        except Exception as failed:  # noqa: BLE001 - it is told, and the next scene is played
            stage.results.failed(f"{name}: {type(failed).__name__}: {failed}")
            evidence.keep(stage.stack, name, [traceback.format_exc()])


def connection_cut_at_commit(stage: Stage) -> None:
    """Just before the COMMIT arrives, just after it was carried out, just after its answer was heard."""
    assert stage.stack.warehouse.postgres is not None
    with Proxy(stage.stack.warehouse.postgres.port) as proxy:
        ends = lanes.connections(stage.stack, {"port": proxy.port})
        for way in stage.ways:
            for kind in KINDS:
                lane = Lane(stage.stack, kind, way, **ends)
                stage.check(f"before the cuts, {lane.name}", lane.turn())
                for lost in ("request", "answer", "nothing"):
                    at = time.time()
                    proxy.cut(COMMIT, lost)  # type: ignore[arg-type]
                    outcome = lane.turn()
                    again = seconds_until_going(outcome.run, 1, at) if outcome.run.attempt > 1 else None
                    fault = f"connection cut at COMMIT, {lost} lost"
                    stage.note(fault, outcome, hit=bool(proxy.hits), recovery_s=again)


def paused_past_the_lease(stage: Stage) -> None:
    """A process that stands still at a point, and goes on when another has ended its run: it changes nothing."""

    def pause_at_all(lane: Lane) -> None:
        for point in STILL_AT[lane.way]:
            pause(stage, lane, Case(point, "stop"))
        connection.close()

    # Of four children two must be awake.
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(pause_at_all, lane) for lane in stage.lanes()]:
            done.result()


def pause(stage: Stage, lane: Lane, case: Case, *, still_s: float = 0.0) -> None:
    fault = f"SIGSTOP at {case.point}"
    whose = lane.prepare()
    stage.stack.armoury.arm(case.point, case.do, whose)
    began = time.monotonic()
    outcome = lane.turn()
    struck = None if stage.stack.armoury.disarm(case.point, whose) else stage.stack.armoury.struck(case.point, whose)
    stage.note(fault, outcome, hit=struck is not None, recovery_s=struck and cases.recovery(outcome.run, struck))
    if struck is None:
        return
    time.sleep(max(0.0, began + still_s - time.monotonic()))
    os.kill(struck.pid, signal.SIGCONT)
    time.sleep(AWAKE_S)
    # What it did then, if anything, is seen in the target.
    later = lane.judge_again(outcome.run)
    stage.check(f"{fault}, awake again", later)


def broker_down(stage: Stage) -> None:
    """No message passes for a while; all that was asked for meanwhile runs soon after."""
    for lane in stage.lanes():
        without_broker(stage, lane, "broker down", AWAY_S)


def broker_down_for_a_minute(stage: Stage) -> None:
    """The same, once, long enough for whatever waits longer from try to try."""
    without_broker(stage, next(stage.lanes()), "broker down for a minute", LONG_AWAY_S)


def without_broker(stage: Stage, lane: Lane, fault: str, away_s: float) -> None:
    valkey = stage.stack.main.valkey
    assert valkey is not None
    back: list[float] = []

    def fall_silent(run: Run) -> None:
        time.sleep(away_s)
        valkey.start()
        back.append(time.time())

    valkey.kill()
    outcome = lane.turn(fall_silent)
    stage.note(fault, outcome, hit=True, recovery_s=seconds_until_going(outcome.run, 0, back[0]))


def messages(stage: Stage) -> None:
    """Bells are doubled, lost, or come when all is over."""
    ring = doorbell.ring
    for lane in stage.lanes():

        def many(times: int = 1) -> None:
            ring(20)

        held: list[int] = []

        def keep(times: int = 1, held: list[int] = held) -> None:
            held.append(times)

        for fault, instead in {"message doubled": many, "message lost": keep, "message delayed": keep}.items():
            at = time.time()
            held.clear()
            with mock.patch.object(doorbell, "ring", instead):
                outcome = lane.turn()
            if fault == "message delayed":
                ring(len(held))
                time.sleep(0.5)
                stage.check("message delayed, come late", lane.judge_again(outcome.run))
            hit = fault == "message doubled" or bool(held)
            stage.note(fault, outcome, hit=hit, recovery_s=seconds_until_going(outcome.run, 0, at))


SCENES: dict[str, Callable[[Stage], None]] = {
    "cut": connection_cut_at_commit,
    "paused": paused_past_the_lease,
    "broker": broker_down,
    "minute": broker_down_for_a_minute,
    "messages": messages,
}
