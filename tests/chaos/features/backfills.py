"""Backfills of a past that has changed, with live runs between the slices: each range is as it was, or as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import pairwise

from runs import services, steps
from runs.backfill_plans import Plan
from runs.models import Run
from runs.models.backfills import Backfill, BackfillKind, BackfillState, SliceStatus
from tests.chaos.features.watched import Watched
from tests.chaos.feeds import Append, Merge, Row, Rows
from tests.chaos.lanes import RUN_LIMIT_S, Outcome, Stuck
from tests.chaos.stack import insist

SLICES = 3


class Past:
    """Goes before a feed: all rows of the source stay there, and a third of them changes without a higher cursor."""

    ROWS, MORE = 300, 60

    def first_rows(self, target: Rows) -> list[Row]:
        last = max((change for _, _, change in target), default=0)
        left = [row for row in (self.held[-1] if self.held else Rows()).elements() if row[2] > last]
        past = [(row[0], row[1] + (row[0] % 3 == self.round % 3), row[2]) for row in target.elements()]
        first = max((row[0] for row in [*left, *past]), default=0) + 1
        return [*past, *left, *self._changed(range(first, first + self.ROWS), 0)]

    def more_rows(self) -> list[Row]:
        first = max(row[0] for row in self.held[-1]) + 1
        return self._changed(range(first, first + self.MORE), 0)

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        return iter(self.held)


class PastAppend(Past, Append):
    pass


class PastMerge(Past, Merge):
    pass


class BackfillLane(Watched):
    FEEDS = {"backfill_append": PastAppend, "backfill_merge": PastMerge}
    may_be_cancelled = False

    def _turn(self, meanwhile: Callable[[Run], None] | None) -> Outcome:
        if not self.rows:
            return super()._turn(meanwhile)
        self.feed_insists(self.feed.make)
        known = insist(lambda: list(self.pipeline.runs.values_list("pk", flat=True)))
        backfill = insist(self._start)
        self.ask()
        time.sleep(self.chance.uniform(0, 1))
        self.feed_insists(self.feed.grow, times=1)
        self._wait(backfill, known)
        runs: list[Run] = insist(lambda: list(self.pipeline.runs.exclude(pk__in=known).order_by("created_at")))
        outcome = self.judge_all(runs, self.feed.held)
        outcome.verdict.told += insist(lambda: list(_faults(backfill, runs)))
        return outcome

    def _start(self) -> Backfill:
        backfill = Backfill.objects.filter(pipeline=self.pipeline, state=BackfillState.RUNNING).first()
        if backfill is not None:
            return backfill
        slices = [(str(low), str(high)) for low, high in self._ranges(self.rows)]
        step = steps.Step(int(slices[0][1]) - int(slices[0][0]))
        return services.start_backfill(
            self.pipeline, Plan(BackfillKind.CURSOR, "INT64", step, "UTC", slices, {}), by=None
        )

    @staticmethod
    def _ranges(before: Rows) -> list[tuple[int, int]]:
        last = max(change for _, _, change in before) + 1
        return list(pairwise([1 + (last - 1) * number // SLICES for number in range(SLICES)] + [last]))

    def _wait(self, backfill: Backfill, known: list[object]) -> None:
        deadline = time.monotonic() + RUN_LIMIT_S
        while True:
            insist(backfill.refresh_from_db)
            runs: list[Run] = insist(lambda: list(self.pipeline.runs.exclude(pk__in=known)))
            for run in runs:
                insist(lambda run=run: self._hurry(run))
            if backfill.state == BackfillState.ENDED and all(run.is_terminal for run in runs):
                return
            if not self.is_in_peace():
                deadline = time.monotonic() + RUN_LIMIT_S
            if time.monotonic() > deadline:
                told = insist(lambda: list(backfill.slices.values_list("status", "error_code")))
                raise Stuck(runs[-1], f"the backfill is {backfill.state}, {backfill.reason or told}")
            time.sleep(0.2)

    def may_be_seen(self, found: Rows, before: Rows) -> bool:
        """Each range is as it was or as it is, and what is new is there up to some moment."""
        if not before:
            return super().may_be_seen(found, before)
        ranges = self._ranges(before)
        now = self.feed.held[0]
        for low, high in ranges:
            if _part(found, low, high) not in (_part(before, low, high), _part(now, low, high)):
                return False
        new = _part(found, ranges[-1][1], 1 << 62)
        return not new or any(new == _part(held, ranges[-1][1], 1 << 62) for held in list(self.feed.held))


def _part(rows: Rows, low: int, high: int) -> Rows:
    return Rows({row: count for row, count in rows.items() if low <= row[2] < high})


def _faults(backfill: Backfill, runs: list[Run]) -> Iterable[str]:
    slices = list(backfill.slices.order_by("number").values_list("status", "run", "tries"))
    if {status for status, _, _ in slices} != {SliceStatus.SUCCEEDED} or {tries for _, _, tries in slices} != {1}:
        yield f"the slices are {slices}"
    of_slices = {run.pk for run in runs if run.action == "backfill"}
    if of_slices != {run for _, run, _ in slices}:
        yield f"the backfill made the runs {of_slices}, and has {slices}"


LANES = (BackfillLane,)
