"""An append in whose course people ask for full refreshes, undos and replays: rows, quarantine and watermark agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from runs.models import Run, RunAction
from runs.states import RunStatus
from tests.chaos.features.quarantines import DivertingAppend, QuarantineLane
from tests.chaos.features.undo import DEPTH, KEPT, UndoLane
from tests.chaos.features.watched import Watched
from tests.chaos.feeds import Row, Rows
from tests.chaos.lanes import Outcome

LOAD, REFRESH, UNDO, REPLAY = "load", "refresh", "undo", "replay"
_OFTEN = (LOAD, LOAD, LOAD, REFRESH, REFRESH, UNDO, UNDO, REPLAY)


class Everything(DivertingAppend):
    """The source keeps all rows: what a full refresh reads, or a load behind a watermark that was put back."""

    options = {**DivertingAppend.options, "undo_depth": DEPTH}
    ROWS, MORE = 300, 60
    refreshes = False

    def first_rows(self, target: Rows) -> list[Row]:
        there = list((self.held[-1] if self.held else Rows()).elements())
        first = max((row[0] for row in there), default=0) + 1
        return there + self._changed(range(first, first + self.ROWS), 0)

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        last = max((change for _, _, change in before), default=0)
        for held in self.held:
            if self.refreshes:
                yield self.diverted(held)
            else:
                yield before + self.diverted(row for row in held if row[2] > last)

    def may_be_there(self, table: str) -> bool:
        return table.startswith(KEPT)


class RestartLane(UndoLane, QuarantineLane):
    FEEDS = {"restarts": Everything}

    def warm_up(self) -> Iterator[Outcome]:
        self.is_punctual = True
        return iter(())

    def begin_round(self) -> None:
        self._action = self.chance.choice(_OFTEN)
        if self._action == REPLAY and not any(row[1] < 0 for row in self.rows):
            self._action = LOAD
        self._back = self._replayed = None
        self.feed.refreshes = self._action == REFRESH
        if self._action in (LOAD, REFRESH):
            Watched.begin_round(self)

    def _turn(self, meanwhile: Callable[[Run], None] | None) -> Outcome:
        if self._action == UNDO:
            outcome = self._undo()
        elif self._action == REPLAY:
            outcome = self._replay()
        else:
            outcome = Watched._turn(self, meanwhile)
        if outcome.verdict.is_right and outcome.run.status == RunStatus.SUCCEEDED:
            self._left[str(outcome.run.pk)] = self.rows
        return outcome

    def ask(self, **how: object) -> Run:
        return super().ask(**({"action": RunAction.FULL_REFRESH} if self._action == REFRESH else {}), **how)

    def _without_kept(self) -> Outcome:
        self._action = LOAD
        Watched.begin_round(self)
        return Watched._turn(self, None)

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        if self._back is not None:
            return [self._back]
        return [self._replayed] if self._replayed is not None else self.feed.outcomes(before)


LANES = (RestartLane,)
