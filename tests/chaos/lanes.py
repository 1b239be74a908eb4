"""A lane: one pipeline, run after run, each judged when it has ended."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

from django.db.models.functions import Now

from pipelines import services as definitions
from pipelines.models import Connection, Pipeline
from runs import services
from runs.models import Decision, PartLoad, Run, Trigger
from runs.states import TERMINAL, RunStatus
from tests.chaos import history, oracle
from tests.chaos.feeds import KINDS, Feed, Rows, Verdict, compare
from tests.chaos.oracle import Place
from tests.chaos.points import DIRECT
from tests.chaos.stack import Stack, insist
from tests.emulator_tables import EmulatorTables

PROJECT = "demo-project"
RUN_LIMIT_S = 180.0
_numbers = itertools.count(1)


class Stuck(Exception):
    """A run did not end in time."""

    def __init__(self, run: Run, told: str) -> None:
        super().__init__(told)
        self.run = run


@dataclass
class Outcome:
    """A run that has ended, and what the oracle says of it."""

    run: Run
    verdict: Verdict

    @property
    def is_wrong_success(self) -> bool:
        return self.run.status == "succeeded" and not self.verdict.is_right

    @property
    def is_failed_with_rows(self) -> bool:
        return self.run.status != "succeeded" and not self.verdict.is_right


class Lane:
    """`kind` of feed, `way` of loading; the pipeline is made anew every `rounds_each` rounds."""

    FEEDS: ClassVar[Mapping[str, type[Feed]]] = KINDS
    # Whether the oracle goes on after a run that somebody cancelled.
    may_be_cancelled: ClassVar[bool] = True

    def __init__(
        self,
        stack: Stack,
        kind: str,
        way: str = DIRECT,
        *,
        destination: Connection,
        source: Connection,
        rounds_each: int = 8,
    ) -> None:
        self.name = f"{kind} {way}"
        # How long the source stands still before a run is asked for.
        self.settles_s = 0.0
        # Waits before another attempt are cut to this: where much fails, runs would hardly run.
        self.waits_most_s: float | None = None
        # While more is struck all the time a run may take as long as it likes.
        self.is_in_peace: Callable[[], bool] = lambda: True
        self.kind = kind
        self.way = way
        self._stack = stack
        self._source, self._destination = source, destination
        self._rounds_each = rounds_each
        self._tables = EmulatorTables(stack.bigquery.addresses["rest"], PROJECT)
        self.feed: Feed
        self.place: Place
        self.pipeline: Pipeline
        self.rows = Rows()
        self._begin()

    def _begin(self) -> None:
        """Make another feed and a pipeline for it, into a schema of its own."""
        number = next(_numbers)
        name = f"{self.kind}_{number}_{secrets.token_hex(2)}"
        self.feed = self.FEEDS[self.kind](name, self._tables)
        self.place = Place(f"lane_{name}", "rows")
        self.rows = Rows()
        with self._stack.at_warehouse() as cursor:
            cursor.execute(f'CREATE SCHEMA "{self.place.schema}" AUTHORIZATION warehouse')
            self.feed.furnish(cursor, self.place)
        options = {
            "load_method": self.way,
            "retries": 20,
            "guard_zero_rows": False,
            "guard_shrink_percent": None,
            **self.feed.options,
            **self.feed.settings(self.place),
        }
        self.pipeline = Pipeline(
            name=name,
            source=self._source,
            source_table=self.feed.table,
            destination=self._destination,
            target_schema=self.place.schema,
            target_table=self.place.table,
            **options,
        )
        insist(self.save)
        if not self.may_be_cancelled:
            self._stack.spared.add(self.pipeline.pk)

    def save(self) -> None:
        definitions.save_pipeline(self.pipeline, schedules=[], checks=self.feed.checks(), by=None)

    def turn(self, meanwhile: Callable[[Run], None] | None = None) -> Outcome:
        """One round: change the source, run, change it again meanwhile, wait for the end, and judge."""
        self.prepare()
        self.feed.begin(self.rows)
        self.feed_insists(self.feed.make)
        return self._load(meanwhile)

    def _load(self, meanwhile: Callable[[Run], None] | None = None) -> Outcome:
        time.sleep(self.settles_s)
        run = self.ask()
        if meanwhile is not None:
            meanwhile(run)
        self._wait_for_begin(run)
        if self.feed.MORE:
            self.feed_insists(self.feed.grow, times=1)
        self.wait_for_end(run)
        return self.judge(run)

    def ask(self, **how: Any) -> Run:
        """Ask for a run, once, also where the answer to that is lost."""
        known = insist(lambda: list(self.pipeline.runs.values_list("pk", flat=True)))

        def once() -> Run:
            run: Run | None = self.pipeline.runs.exclude(pk__in=known).first()
            return run or services.request_run(self.pipeline, trigger=Trigger.MANUAL, by=None, **how)[0]

        asked: Run = insist(once)
        return asked

    def warm_up(self) -> Iterator[Outcome]:
        """The turns that must come before one in which something is to be struck."""
        if self.kind == "held":
            # Something must be there that could be emptied.
            yield self.turn()

    def prepare(self) -> UUID:
        """The pipeline that the next turn is of."""
        if self.feed.round >= self._rounds_each:
            insist(self._begin)
        return self.pipeline.pk

    def outcomes(self, before: Rows) -> Iterable[Rows]:
        """What the target may be after a run that was published now."""
        return self.feed.outcomes(before)

    def judge(self, run: Run) -> Outcome:
        def look() -> tuple[Verdict, Rows]:
            run.refresh_from_db()
            with self._stack.at_warehouse() as cursor:
                return oracle.judge(cursor, self.place, self.feed, run, self.rows, self.outcomes(self.rows))

        verdict, found = insist(look)
        if verdict.is_right:
            self.rows = found
        else:
            # What is wrong once is not told again of every later run.
            insist(self._begin)
        return Outcome(run, verdict)

    def judge_again(self, run: Run) -> Outcome:
        """The run ended right before: it must still be so, and the target as it was."""
        run.refresh_from_db()
        with self._stack.at_warehouse() as cursor:
            found, strange = oracle.rows_of(cursor, self.place, self.feed)
        verdict = compare(found, [self.rows])
        verdict.wrong += strange
        verdict.told += history.faults(run)
        return Outcome(run, verdict)

    def feed_insists(self, change: Callable[[], None], *, times: int = 400) -> None:
        """Change the source; while BigQuery is away `begin` is tried again, `grow` may fail."""
        for left in reversed(range(times)):
            try:
                change()
            except Exception:  # whatever Google's client makes of a server that was killed
                if times > 1 and not left:
                    raise
                time.sleep(0.3)
            else:
                return

    def _wait_for_begin(self, run: Run) -> None:
        """Until rows are on their way, a few seconds at most."""
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            insist(run.refresh_from_db)
            if run.phase == "loading" or run.status in TERMINAL:
                return
            time.sleep(0.05)

    def wait_for_end(self, run: Run, limit_s: float = RUN_LIMIT_S) -> None:
        deadline = time.monotonic() + limit_s
        while True:
            insist(run.refresh_from_db)
            if run.status in TERMINAL:
                return
            if self.waits_most_s is not None:
                insist(lambda: self._hurry(run))
            if run.status == RunStatus.HELD:
                insist(lambda: self._approve(run))
            if not self.is_in_peace():
                deadline = time.monotonic() + limit_s
            if time.monotonic() > deadline:
                raise Stuck(
                    run,
                    f"run {run.pk} of {self.pipeline.name} is {run.status} after {limit_s:.0f} s: {run.error_message}",
                )
            time.sleep(0.1)

    def _hurry(self, run: Run) -> None:
        """Let what waits for another attempt have it soon."""
        soon = Now() + timedelta(seconds=self.waits_most_s or 0)
        Run.objects.filter(pk=run.pk, lease_until__isnull=True, due__gt=soon).update(due=soon)
        PartLoad.objects.filter(run=run, lease_until__isnull=True, due__gt=soon).update(due=soon)

    def _approve(self, run: Run) -> None:
        """What is held is published as it was staged; until then readers see the table as it was."""
        with self._stack.at_warehouse() as cursor:
            if oracle.rows_of(cursor, self.place, self.feed)[0] != self.rows:
                raise AssertionError(f"the target of {run.pk} changed although the run is held")
        with suppress(services.RunRefused):
            services.decide(run, Decision.PUBLISH, by=None)


def connections(stack: Stack, options: dict[str, Any] | None = None) -> dict[str, Connection]:
    """The two ends, as a pipeline names them; `options` change the destination's."""
    source, _ = Connection.objects.get_or_create(
        name="BigQuery", defaults={"kind": "bigquery", "options": {"project": PROJECT, "location": "US"}}
    )
    warehouse = {**stack.warehouse_options(), **(options or {})}
    hidden = {name: warehouse.pop(name) for name in ("password", "mask_key") if name in warehouse}
    name = "Warehouse" if not options else f"Warehouse {secrets.token_hex(3)}"
    destination, _ = Connection.objects.get_or_create(
        name=name, defaults={"kind": "postgres", "options": warehouse, "secrets": hidden}
    )
    return {"source": source, "destination": destination}
