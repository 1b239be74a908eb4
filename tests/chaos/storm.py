"""Several pipelines run over and over while faults strike at random moments."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from runs.models import Attempt, Run
from tests.chaos import evidence, history
from tests.chaos.faults import Fault, Hit
from tests.chaos.lanes import Lane, Stuck
from tests.chaos.results import Results
from tests.chaos.stack import Stack, insist

CALM_MOST_S = 30.0
# Until a strike that is to hit finds something.
SURELY_S = 90.0
# What takes so long to be taken up again is worth a look, though it is not wrong.
SLOW_S = 40.0
# The share of strikes asked for that must have hit.
ENOUGH = 0.5


class Storm:
    """Turns `lanes` in threads of their own, and strikes until there were `kills` hits, or the time is up."""

    def __init__(
        self,
        stack: Stack,
        lanes: Sequence[Lane],
        faults: Sequence[Fault],
        results: Results,
        seed: int,
        weights: Sequence[int] = (),
        at_once: int = 0,
        certain: Sequence[Fault] = (),
    ) -> None:
        self._stack = stack
        self._lanes = lanes
        self._faults = faults
        self._results = results
        self._seed = seed
        self._weights = list(weights) or [fault.weight for fault in faults]
        self._chance = random.Random(seed)
        # Each of these is to hit as well, when those at random are over.
        self._certain = list(certain)
        # So many lanes are in their turn at once, all of them unless it says how many; whoever waits longest is next.
        self._at_once = at_once or len(lanes)
        self._waiting: queue.Queue[Lane] = queue.Queue()
        for lane in lanes:
            self._waiting.put(lane)
        self._over = threading.Event()
        self._hits: list[Hit] = []
        self._errors: list[BaseException] = []

    def rage(self, *, kills: int, limit_s: float, every_s: float, say: Any = None) -> None:
        threads = [threading.Thread(target=self._take_turns, daemon=True) for _ in range(self._at_once)]
        for thread in threads:
            thread.start()
        try:
            self._strike(kills, limit_s, every_s, say)
            self._tell_how_many(kills, limit_s, say)
            for fault in self._certain:
                self._strike_surely(fault)
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        for error in self._errors:
            self._results.failed(f"storm {self._seed}: {type(error).__name__}: {error}")
        for hit in self._hits:
            seconds = insist(lambda hit=hit: seconds_to_recover(hit))
            if seconds is not None:
                self._results.recovered(hit.fault, seconds)
            if seconds is not None and seconds > SLOW_S and hit.runs:
                runs = insist(lambda hit=hit: list(Run.objects.filter(pk__in=[struck.run for struck in hit.runs])))
                told = [line for run in runs for line in evidence.of_run(run)]
                evidence.keep(self._stack, f"slow {seconds:.0f} s {hit.fault}", [str(hit), *told])

    def _tell_how_many(self, kills: int, limit_s: float, say: Any) -> None:
        """Where the time was too short for all strikes it is said; where it was for most of them, nothing was shown."""
        hits = len(self._hits)
        if hits >= kills:
            return
        told = f"storm {self._seed}: {hits} of {kills} strikes hit in {limit_s / 60:g} minutes"
        if say is not None:
            say(told)
        if hits < kills * ENOUGH:
            self._results.failed(f"{told}, which are too few")

    def _strike(self, kills: int, limit_s: float, every_s: float, say: Any) -> None:
        began = told = time.monotonic()
        time.sleep(1.0)
        while len(self._hits) < kills and time.monotonic() < began + limit_s and not self._errors:
            time.sleep(self._chance.expovariate(1 / every_s))
            [fault] = self._chance.choices(self._faults, self._weights)
            self._strike_by(fault)
            if fault.is_heavy:
                self._let_a_run_end()
            if say is not None and time.monotonic() > told + 60:
                told = time.monotonic()
                runs, wrong = self._results.totals["runs"], len(self._results.failures)
                say(f"{told - began:.0f} s: {len(self._hits)} hits, {runs} runs judged, {wrong} wrong")

    def _strike_by(self, fault: Fault) -> bool:
        hit = fault.strike()
        self._results.tried(fault.name, hit=hit is not None)
        if hit is not None:
            self._hits.append(hit)
        return hit is not None

    def _strike_surely(self, fault: Fault) -> None:
        deadline = time.monotonic() + SURELY_S
        while not self._strike_by(fault) and time.monotonic() < deadline and not self._errors:
            time.sleep(1.0)

    def _let_a_run_end(self) -> None:
        """Where servers are away all the time nothing runs that could be struck."""
        judged, deadline = self._results.totals["runs"], time.monotonic() + CALM_MOST_S
        while self._results.totals["runs"] == judged and time.monotonic() < deadline:
            time.sleep(0.1)

    def _take_turns(self) -> None:
        try:
            while not self._over.is_set():
                try:
                    lane = self._waiting.get(timeout=0.5)
                except queue.Empty:
                    continue
                if self._turn(lane):
                    self._waiting.put(lane)
        finally:
            connection.close()

    def _turn(self, lane: Lane) -> bool:
        """One turn; says whether the lane may have another."""
        lane.is_in_peace = self._over.is_set
        try:
            began = time.time()
            outcome = lane.turn()
            struck = self._that_struck(outcome.run, began)
            how = f"storm {self._seed}, {lane.name}, struck by {', '.join(struck) or 'nothing'}"
            self._results.judged(outcome, struck, how)
            self._results.turned(lane.name)
            evidence.keep_if_wrong(self._stack, how, outcome)
            return True
        except Stuck as stuck:
            self._results.failed(f"storm {self._seed}, {lane.name}: {stuck}")
            evidence.keep(self._stack, f"storm {self._seed} {lane.name}", [str(stuck), *evidence.of_run(stuck.run)])
        except BaseException as error:
            self._errors.append(error)
            evidence.keep(self._stack, f"storm {self._seed} {lane.name}", [repr(error)])
            raise
        return False

    def _that_struck(self, run: Run, since: float) -> list[str]:
        """The faults that struck this run, or all runs, while it went on."""
        return [
            hit.fault
            for hit in list(self._hits)
            if hit.at >= since and (hit.any_run or run.pk in {struck.run for struck in hit.runs})
        ]


def seconds_to_recover(hit: Hit) -> float | None:
    """From the strike until all that it struck was going again, or had ended as it was."""
    since = datetime.fromtimestamp(hit.at, UTC)
    if hit.any_run:
        started = Attempt.objects.filter(started_at__gt=since).order_by("started_at").first()
        return (started.started_at - since).total_seconds() if started else None
    waits = []
    for struck in hit.runs:
        run = Run.objects.get(pk=struck.run)
        at = history.going_again(run, struck.attempt, struck.part, since) or run.finished_at
        if at is not None and at >= since:
            waits.append((at - since).total_seconds())
    return max(waits, default=None)
