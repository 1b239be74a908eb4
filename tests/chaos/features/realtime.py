"""Near real time: a table that grows while pollers are killed, and a target that follows by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from pipelines import services as definitions
from pipelines.models import Mode, Pipeline
from runs.models import Run
from runs.states import TERMINAL
from tests.chaos.features.watched import Watched
from tests.chaos.feeds import Append, Feed, Merge, Rows
from tests.chaos.lanes import RUN_LIMIT_S, Outcome, Stuck
from tests.chaos.stack import insist

GROWS = 3
EVERY_S = 1.0
_LIVE: dict[str, Any] = {"poll_every_s": 1, "stream_every_s": 1, "force_read_every": None}


class LiveMerge(Merge):
    options = {**Merge.options, **_LIVE, "lookback": 100}
    MORE = 120


class LiveAppend(Append):
    options = {**Append.options, **_LIVE, "settle": 0}
    MORE = 120


class RealtimeLane(Watched):
    """Nobody asks for a run. A turn grows the table a few times, and waits until the target has all of it."""

    FEEDS = {"realtime_append": LiveAppend, "realtime_merge": LiveMerge}
    may_be_cancelled = False

    def _begin(self) -> None:
        if hasattr(self, "pipeline"):
            insist(lambda: definitions.pause(Pipeline.objects.filter(pk=self.pipeline.pk), by=None))
        super()._begin()
        self.feed.begin(self.rows)
        self.feed_insists(self.feed.make)
        # Not before there is a table: one that is missing is asked for ever less often.
        self.pipeline.mode = Mode.REALTIME
        insist(self.save)
        self._is_new = True
        self._judged: set[UUID] = set()

    def begin_round(self) -> None:
        if self._is_new:
            self._is_new = False
            return
        self.feed.round += 1
        self.feed.held = self.feed.held[-1:]

    def _turn(self, meanwhile: Callable[[Run], None] | None) -> Outcome:
        for _ in range(GROWS):
            time.sleep(self.chance.uniform(0, EVERY_S))
            self.feed_insists(lambda: grow(self.feed))
        runs = self._wait_for_all()
        self._judged |= {run.pk for run in runs}
        return self.judge_all(runs, [list(self.feed.outcomes(self.rows))[-1]])

    def _wait_for_all(self) -> list[Run]:
        """Until the target has every row, and no run is under way; the runs that nobody has judged yet."""
        deadline = time.monotonic() + RUN_LIMIT_S
        while True:
            runs: list[Run] = insist(
                lambda: list(self.pipeline.runs.exclude(pk__in=self._judged).order_by("created_at"))
            )
            for run in runs:
                insist(lambda run=run: self._hurry(run))
            if runs and all(run.status in TERMINAL for run in runs) and insist(self._has_all):
                return runs
            if not self.is_in_peace():
                deadline = time.monotonic() + RUN_LIMIT_S
            if time.monotonic() > deadline:
                last = runs[-1] if runs else self.pipeline.runs.first()
                assert last is not None, f"{self.pipeline.name} was never polled"
                raise Stuck(last, f"{self.pipeline.name} has not followed its source for {RUN_LIMIT_S:.0f} s")
            time.sleep(0.2)

    def _has_all(self) -> bool:
        with self.at_warehouse() as cursor:
            found = self.feed.rows_in(cursor, self.place)[0] if self._is_there(cursor) else Rows()
        return found == list(self.feed.outcomes(self.rows))[-1]


def grow(feed: Feed) -> None:
    """Append rows, for certain: where nobody knows whether they came, the table is made anew."""
    try:
        feed.grow()
    except Exception:  # noqa: BLE001 - whatever Google's client makes of a server that was killed
        while True:
            try:
                feed.make()
            except Exception:  # noqa: BLE001 - as above
                time.sleep(0.3)
            else:
                return


LANES = (RealtimeLane,)
