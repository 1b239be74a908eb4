"""A pipeline that waits for another: it runs once for each success of that one, however often anybody is killed."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines import services as definitions
from pipelines.dependencies import DependencySpec
from pipelines.models import DependencyRule, Overlap
from runs.models import Run
from runs.states import RunStatus
from tests.chaos.features.watched import Watched
from tests.chaos.feeds import Append, AppendAll
from tests.chaos.lanes import RUN_LIMIT_S, Lane, Outcome, Stuck
from tests.chaos.points import DIRECT
from tests.chaos.stack import insist

QUIET_S = 1.5


class Upstream(Append):
    ROWS, MORE = 300, 100


class Small(AppendAll):
    ROWS, MORE = 20, 0


class Downstream(Lane):
    FEEDS = {"downstream": Small}


class DependencyLane(Watched):
    """A turn is a run of the upstream, and the one that it starts."""

    FEEDS = {"dependency": Upstream}

    def _begin(self) -> None:
        super()._begin()
        ends = {"destination": self._destination, "source": self._source}
        self._below = Downstream(self._stack, "downstream", DIRECT, **ends, rounds_each=1 << 30)
        self._below.waits_most_s, self._below.is_in_peace = self.waits_most_s, self.is_in_peace
        self._below.feed.begin(self._below.rows)
        self._below.feed_insists(self._below.feed.make)
        pipeline = self._below.pipeline
        # Every success counts.
        pipeline.overlap = Overlap.QUEUE
        waits_for = [DependencySpec(self.pipeline.pk, DependencyRule.NEW_DATA)]
        insist(lambda: definitions.save_pipeline(pipeline, schedules=[], dependencies=waits_for, by=None))
        self._runs = self._judged = 0

    def _turn(self, meanwhile: Callable[[Run], None] | None) -> Outcome:
        self._below.waits_most_s, self._below.is_in_peace = self.waits_most_s, self.is_in_peace
        below, pipeline = self._below, self._below.pipeline
        outcome = super()._turn(meanwhile)
        if below is not self._below:
            return outcome
        self._runs += outcome.run.status == RunStatus.SUCCEEDED
        self._wait_for(self._runs, outcome.run)
        time.sleep(QUIET_S)
        runs: list[Run] = insist(lambda: list(pipeline.runs.order_by("created_at")))
        if len(runs) != self._runs:
            outcome.verdict.told.append(f"{self._runs} successes started {len(runs)} runs")
        for run in runs[self._judged :]:
            self._below.wait_for_end(run)
            verdict = self._below.judge(run).verdict
            outcome.verdict.told += [] if verdict.is_right else [f"downstream, run {run.pk}: {verdict}"]
        self._judged = len(runs)
        return outcome

    def _wait_for(self, count: int, run: Run) -> None:
        deadline = time.monotonic() + RUN_LIMIT_S
        while insist(self._below.pipeline.runs.count) < count:
            if not self.is_in_peace():
                deadline = time.monotonic() + RUN_LIMIT_S
            if time.monotonic() > deadline:
                raise Stuck(run, f"what waits for {self.pipeline.name} was not started")
            time.sleep(0.1)


LANES = (DependencyLane,)
