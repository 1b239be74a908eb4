"""Undo in the middle of it all: the target is exactly one generation, of those that were published and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from uuid import UUID

from pipelines import services as definitions
from pipelines.models import Pipeline, PipelineState
from runs import services
from runs.models import Run, RunAction, Trigger
from runs.states import RunStatus
from tests.chaos.features.watched import Watched
from tests.chaos.feeds import Replace, Rows
from tests.chaos.lanes import Outcome
from tests.chaos.oracle import Seen
from tests.chaos.stack import insist

DEPTH = 2
LATE = 0.2
KEPT = "_datamantri_kept_"


class Kept(Replace):
    options = {"write_disposition": "replace", "undo_depth": DEPTH}
    ROWS = 800

    def may_be_there(self, table: str) -> bool:
        return table.startswith(KEPT)

    def faults(self, seen: Seen) -> Iterable[str]:
        """What is kept is there, once and as it was; nothing else is."""
        seen.cursor.execute(
            "SELECT run::text, oid::bigint, to_regclass(format('%%I.%%I', schema_name, table_name))::oid::bigint"
            " FROM _datamantri.kept WHERE target = %s",
            (seen.place.key,),
        )
        kept = seen.cursor.fetchall()
        if len(kept) > DEPTH:
            yield f"{len(kept)} former states are kept, of {DEPTH}"
        gone = [run for run, oid, is_there in kept if is_there != oid]
        if gone:
            yield f"former states are recorded of which there is no table: {gone}"
        seen.cursor.execute(
            "SELECT c.oid::bigint, c.relname FROM pg_class c WHERE c.relkind = 'r' AND c.relname LIKE %s"
            " AND c.relnamespace = to_regnamespace(%s)",
            (f"{KEPT}%".replace("_", r"\_"), f'"{seen.place.schema}"'),
        )
        unknown = [name for oid, name in seen.cursor.fetchall() if oid not in {oid for _, oid, _ in kept}]
        if unknown:
            yield f"tables are kept that nobody knows of: {unknown}"


class KeptInPlace(Kept):
    """A view depends on the target: rows are changed in place, and a copy of them is kept."""


class UndoLane(Watched):
    """Two loads, an undo, perhaps another one; some come too late, and must then do nothing."""

    FEEDS = {"undo": Kept, "undo_in_place": KeptInPlace}
    keeps_watermark = False
    may_be_cancelled = False
    # Whether some undos are asked for by what was published last long ago.
    is_punctual = False

    def _begin(self) -> None:
        super()._begin()
        self._turns = 0
        # What each published run left; and what an undo is to bring back now.
        self._left: dict[str, Rows] = {}
        self._back: Rows | None = None

    def warm_up(self) -> Iterator[Outcome]:
        self.is_punctual = True
        while self.prepare() and not self._undoes(self._turns + 1):
            yield self.turn()

    def begin_round(self) -> None:
        self._turns += 1
        self._back = None
        if not self._undoes(self._turns):
            super().begin_round()

    @staticmethod
    def _undoes(turn: int) -> bool:
        return turn % 4 in (3, 0)

    def _turn(self, meanwhile: Callable[[Run], None] | None) -> Outcome:
        outcome = self._undo() if self._undoes(self._turns) else super()._turn(meanwhile)
        if outcome.verdict.is_right and outcome.run.status == RunStatus.SUCCEEDED:
            self._left[str(outcome.run.pk)] = self.rows
            if self.kind == "undo_in_place":
                insist(self._look_at_it)
        return outcome

    def _look_at_it(self) -> None:
        """Make a view of the target."""
        with self.at_warehouse() as cursor:
            cursor.execute(f'CREATE SCHEMA IF NOT EXISTS "{self.place.beside}"')
            view = f'"{self.place.beside}".seen'
            cursor.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT seq FROM {self.place.key}")

    def _undo(self) -> Outcome:
        """Ask for a former state; now and then by what was published last long ago."""
        kept = insist(self._kept)
        if not kept:
            return self._without_kept()
        run_kept, made_by, last = self.chance.choice(kept)
        self._back = self._left.get(made_by, None) if made_by else Rows()
        if self._back is None:
            raise AssertionError(f"{run_kept} keeps what run {made_by} left, which never was right")
        is_late = self.chance.random() < LATE and not self.is_punctual
        expected = self.chance.choice([None, UUID(int=self.chance.getrandbits(128))]) if is_late else last
        known = insist(lambda: list(self.pipeline.runs.values_list("pk", flat=True)))

        def ask() -> Run:
            run: Run | None = self.pipeline.runs.filter(action=RunAction.UNDO).exclude(pk__in=known).first()
            return run or self._request(run_kept, expected)

        run: Run = insist(ask)
        self.wait_for_end(run)
        outcome = self.judge(run)
        if is_late and run.error_code != "undo_overtaken":
            outcome.verdict.told.append(f"an undo that came too late is {run.status}: {run.error_code}")
        if not is_late and run.status != RunStatus.SUCCEEDED:
            outcome.verdict.told.append(f"the undo is {run.status}: {run.error_message}")
        insist(self.pipeline.refresh_from_db)
        if self.pipeline.state != PipelineState.PAUSED:
            outcome.verdict.told.append(f"after an undo the pipeline is {self.pipeline.state}")
        insist(lambda: definitions.resume(Pipeline.objects.filter(pk=self.pipeline.pk), by=None))
        insist(self.pipeline.refresh_from_db)
        return outcome

    def _without_kept(self) -> Outcome:
        super().begin_round()
        return super()._turn(None)

    def _request(self, kept: UUID, expected: UUID | None) -> Run:
        target = {"schema": self.place.schema, "table": self.place.table}
        return services.request_undo(
            self.pipeline, trigger=Trigger.MANUAL, by=None, kept=kept, expected=expected, target=target
        )[0]

    def _kept(self) -> list[tuple[UUID, str, UUID | None]]:
        """What is kept: by which run, as which run left it, and what was published last."""
        with self.at_warehouse() as cursor:
            cursor.execute(
                "SELECT k.run::text, k.made_by::text, h.last_run::text FROM _datamantri.kept k"
                " JOIN _datamantri.head h USING (target) WHERE target = %s ORDER BY k.kept_at",
                (self.place.key,),
            )
            return [(UUID(run), made or "", UUID(last) if last else None) for run, made, last in cursor.fetchall()]

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        return [self._back] if self._back is not None else super().outcomes(before)


LANES = (UndoLane,)
