"""Checks that hold runs, and two people who decide about them at the same moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import pyarrow as pa
from django.db import connection
from google.cloud.bigquery import SchemaField

from connectors.checks import Check, CheckKind
from runs import services
from runs.models import Decision, Run
from runs.states import RunStatus
from tests.chaos.features.watched import Watched
from tests.chaos.feeds import Append, Merge, Replace, Row
from tests.chaos.lanes import Outcome
from tests.chaos.oracle import Seen, rows_of
from tests.chaos.stack import insist

WAITS_MOST_S = 1.5
ANOTHER = 0.3


def is_bad(row: Row) -> bool:
    """Some rounds have bad rows, some have none."""
    return (row[2] // 2000) % 2 == 1 and row[2] % 97 == 0


class Checked:
    """Goes before a feed: an amount may not be below zero."""

    more_fields = [SchemaField("amount", "INT64")]
    more_columns = [("amount", "bigint")]

    def more_of(self, rows: Sequence[Row]) -> dict[str, pa.Array]:
        return {"amount": pa.array([-1 if is_bad(row) else row[2] for row in rows], pa.int64())}

    def checks(self) -> list[Check]:
        return [Check(CheckKind.RANGE, "amounts", ("amount",), minimum="0")]

    def faults(self, seen: Seen) -> Iterable[str]:
        run = seen.run
        if run.status == RunStatus.SUCCEEDED and not run.decision:
            bad = [row for row in seen.found - seen.before if is_bad(row)]
            if bad and not _approved_since(run):
                yield f"{len(bad)} bad rows were published, which nobody approved"
        if run.decision == Decision.DISCARD and run.status != RunStatus.CANCELLED:
            yield f"the run was discarded, and is {run.status}"
        may_fail = run.cancel_requested or run.error_code == "overtaken"
        if run.decision == Decision.PUBLISH and run.status != RunStatus.SUCCEEDED and not may_fail:
            yield f"the run was approved, and is {run.status}: {run.error_message}"


def _approved_since(run: Run) -> bool:
    """Whether another run's rows were approved while this one was there."""
    others = Run.objects.filter(pipeline=run.pipeline_id, decision=Decision.PUBLISH, status=RunStatus.SUCCEEDED)
    return others.filter(finished_at__gte=run.created_at).exists()


class CheckedAppend(Checked, Append):
    pass


class CheckedMerge(Checked, Merge):
    pass


class CheckedReplace(Checked, Replace):
    pass


class ApprovalLane(Watched):
    FEEDS = {"checked_append": CheckedAppend, "checked_merge": CheckedMerge, "checked_replace": CheckedReplace}

    _has_another = False

    def _load(self, meanwhile: Callable[[Run], None] | None = None) -> Outcome:
        """Now and then another run waits behind the one that is held, and puts it out of date."""
        self._has_another = self.chance.random() < ANOTHER
        if not self._has_another:
            return super()._load(meanwhile)
        runs = [self.ask(), self.ask()]
        self.feed_insists(self.feed.grow, times=1)
        for run in runs:
            self.wait_for_end(run)
        is_published = any(run.status == RunStatus.SUCCEEDED for run in runs)
        return self.judge_all(runs, self.feed.outcomes(self.rows) if is_published else [self.rows])

    def _approve(self, run: Run) -> None:
        """Two people decide at once, after a while; the first one counts."""
        with self.at_warehouse() as cursor:
            if not self._has_another and rows_of(cursor, self.place, self.feed)[0] != self.rows:
                raise AssertionError(f"the target of {run.pk} changed although the run is held")
        time.sleep(self.chance.uniform(0, WAITS_MOST_S))
        decisions = [Decision.PUBLISH, self.chance.choice([Decision.PUBLISH, Decision.DISCARD])]
        self.chance.shuffle(decisions)
        people = [threading.Thread(target=_decide, args=(run, decision)) for decision in decisions]
        for person in people:
            person.start()
        for person in people:
            person.join()


def _decide(run: Run, decision: Decision) -> None:
    try:
        with suppress(services.RunRefused):
            insist(lambda: services.decide(Run.objects.get(pk=run.pk), decision, by=None))
    finally:
        connection.close()


LANES = (ApprovalLane,)
