"""Faults that need a stage of their own: each scene strikes some runs, and says what it found."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from django.db import connection

from tests.chaos import cases, evidence, lanes
from tests.chaos.cases import Case
from tests.chaos.lanes import Lane, Outcome
from tests.chaos.points import DIRECT, STAGED, WAYS
from tests.chaos.results import Results
from tests.chaos.stack import Stack

KINDS = ("append", "replace", "merge")
# Where a process stands still until another has long ended its run.
_LAST = ("publish.before_lock", "publish.after_lock", "publish.before_commit")
STILL_AT = {
    DIRECT: ("claim.after", "fence.after", "plan.after", "load.middle", *_LAST),
    STAGED: ("stage.before_commit", "take.after", "part.middle", "checkpoint.before_commit", "check.begin", *_LAST),
}
AWAKE_S = 2.0


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


def play(stage: Stage, chosen: dict[str, Callable[[Stage], None]], say: Callable[[str], None]) -> None:
    for name, scene in chosen.items():
        began = time.monotonic()
        try:
            scene(stage)
        except Skipped as why:
            stage.results.skipped[name] = str(why)
        except Exception as failed:  # noqa: BLE001 - it is told, and the next scene is played
            stage.results.failed(f"{name}: {type(failed).__name__}: {failed}")
            evidence.keep(stage.stack, name, [traceback.format_exc()])
        say(f"{name}: {time.monotonic() - began:.0f} s, {len(stage.results.failures)} wrong by now")


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


def pause(stage: Stage, lane: Lane, case: Case) -> None:
    fault = f"SIGSTOP at {case.point}"
    whose = lane.prepare()
    stage.stack.armoury.arm(case.point, case.do, whose)
    outcome = lane.turn()
    struck = stage.stack.armoury.taken(case.point, whose)
    stage.note(fault, outcome, hit=struck is not None, recovery_s=struck and cases.recovery(outcome.run, struck))
    if struck is None:
        return
    with suppress(ProcessLookupError):
        os.kill(struck.pid, signal.SIGCONT)
    time.sleep(AWAKE_S)
    # What it did then, if anything, is seen in the target.
    later = lane.judge_again(outcome.run)
    stage.check(f"{fault}, awake again", later)


SCENES: dict[str, Callable[[Stage], None]] = {
    "paused": paused_past_the_lease,
}
