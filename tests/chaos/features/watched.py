"""A lane whose target somebody reads all the time while it is in its turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from pipelines.models import Connection
from runs.models import Run
from tests.chaos import oracle, readers
from tests.chaos.feeds import Rows, Verdict
from tests.chaos.lanes import Lane, Outcome
from tests.chaos.points import WAYS
from tests.chaos.stack import Stack, insist


class Watched(Lane):
    """`_turn` is what a turn does; `may_be_seen` says what readers may find meanwhile."""

    WAYS: ClassVar[tuple[str, ...]] = WAYS
    # Whether runs never move the watermark back.
    keeps_watermark: ClassVar[bool] = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.chance = random.Random(f"{arguments[1:]}")
        super().__init__(*arguments, **options)

    @classmethod
    def ends(cls, stack: Stack, ends: Mapping[str, Connection]) -> Mapping[str, Connection]:
        """The two ends, where the usual ones will not do."""
        return ends

    @contextmanager
    def at_warehouse(self) -> Iterator[Any]:
        with self._stack.at_warehouse() as cursor:
            yield cursor

    def turn(self, meanwhile: Callable[[Run], None] | None = None) -> Outcome:
        self.prepare()
        # Another round's rows are chosen before anybody looks.
        self.begin_round()
        with readers.reading(self) as reader:
            outcome = self._turn(meanwhile)
        outcome.verdict.told += reader.told
        if reader.told:
            self._begin()
        return outcome

    def begin_round(self) -> None:
        self.feed.begin(self.rows)

    def _turn(self, meanwhile: Callable[[Run], None] | None) -> Outcome:
        self.feed_insists(self.feed.make)
        return self._load(meanwhile)

    def may_be_seen(self, found: Rows, before: Rows) -> bool:
        """Whether a reader may find the target so now, which was `before` when the turn began."""
        return found == before or any(found == outcome for outcome in self.outcomes(before))

    def judge_all(self, runs: Sequence[Run], outcomes: Iterable[Rows]) -> Outcome:
        """The verdict on several runs that have ended, told of the last one."""
        # A look that a killed server cut off is taken again.
        outcomes = list(outcomes)

        def look() -> tuple[Verdict, Rows]:
            for run in runs:
                run.refresh_from_db()
            with self.at_warehouse() as cursor:
                return oracle.judge_all(cursor, self.place, self.feed, runs, self.rows, outcomes)

        verdict, found = insist(look)
        if verdict.is_right:
            self.rows = found
        else:
            insist(self._begin)
        return Outcome(runs[-1], verdict)

    def _is_there(self, cursor: Any) -> bool:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (self.place.key,))
        return bool(cursor.fetchone()[0])
