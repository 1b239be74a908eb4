"""A look at datasets: pipelines for the tables that appeared, a note of those that vanished. Done by a worker only."""

from __future__ import annotations

import itertools
import logging
import threading
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import Error as DatabaseError
from django.db import OperationalError, connection, transaction
from django.db.models.functions import Now

from connectors import registry
from connectors.errors import ConnectorError
from pipelines import dataset_rules, queries
from pipelines.fields import KeyLost
from pipelines.models import DatasetRule, Pipeline
from pipelines.objections import PipelineRefused
from pipelines.schedules import RuleError
from runs.models import DatasetLook, SeenTable, TableEvent

log = logging.getLogger(__name__)

LIST_LIMIT_S = 20.0
# Whoever takes a rule looks for no longer; if its worker dies, the rule is due again then.
LEASE_S = 300
# What failed is tried again so soon, and each time after twice as long.
SOON_S = 300
LONGEST_WAIT_S = 3600
MOST_DOUBLED = 12
MOST_TABLES = 20_000
RULES_AT_ONCE = 20
PLAIN = "TABLE"
Kind = TableEvent.Kind
# One thread of a worker looks: datasets that hang must not hold up what pages wait for, alerts or source tables.
_one = threading.Lock()


def look_around() -> int:
    """Look for each rule that is due, one after another; says how many."""
    if not _one.acquire(blocking=False):
        return 0
    looked = 0
    try:
        while looked < RULES_AT_ONCE and (rule := _take()) is not None:
            look(rule)
            looked += 1
    except DatabaseError as error:
        # Beat rings again for whatever is left.
        log.warning("The control database does not answer: %s", error)
        connection.close()
    finally:
        _one.release()
    return looked


def _take() -> DatasetRule | None:
    """The next rule that is due, for this worker alone: it is leased in the same statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE pipelines_datasetrule r
            SET next_look = clock_timestamp() + %s * interval '1 second', taken_at = clock_timestamp()
            FROM (
                SELECT id, taken_at FROM pipelines_datasetrule
                WHERE (enabled OR asked) AND next_look <= clock_timestamp()
                ORDER BY next_look LIMIT 1 FOR UPDATE SKIP LOCKED) AS due
            WHERE r.id = due.id
            RETURNING r.id, due.taken_at IS NOT NULL
            """,
            [LEASE_S],
        )
        row = cursor.fetchone()
    if row is None:
        return None
    rule = DatasetRule.objects.select_related("source", "template").get(pk=row[0])
    if row[1]:
        lost = "The worker died that looked last, or fell silent."
        _write_failure(rule, "worker_lost", lost, "The dataset is looked at once more.")
    return rule


def look(rule: DatasetRule) -> DatasetLook:
    """List a rule's dataset and do what it says; what goes wrong is written down, and tried again soon."""
    try:
        found = _list(rule)
        with transaction.atomic():
            # A rule that was changed in the meantime looks again at once.
            rules = DatasetRule.objects.select_for_update(of=("self",)).select_related("source", "template")
            still = rules.get(pk=rule.pk)
            if (still.source_id, still.dataset) != (rule.source_id, rule.dataset):
                return DatasetLook(rule=rule)
            done = _Look(still, found).done()
            # What was left goes on soon, also where a person asked for the look.
            _end(rule, 60 if done.left else rule.every_s, asked=still.asked and done.left > 0)
            return done
    except (ConnectorError, KeyLost) as error:
        code, hint = getattr(error, "code", "key_lost"), getattr(error, "hint", "")
        failed = _write_failure(rule, code, getattr(error, "message", str(error)), hint)
    except Exception as error:  # a defect must not keep the other rules from being looked at
        log.exception("Dataset %s could not be looked at", rule.dataset)
        told = f"Something unexpected happened ({type(error).__name__})."
        failed = _write_failure(rule, "internal_error", told, "The log of the process lookups has more.")
    _end(rule, _wait_after_failure(rule))
    return failed


def _end(rule: DatasetRule, wait_s: float, *, asked: bool = False) -> None:
    """Say when the next look is, unless somebody saved the rule or asked for another look in the meantime."""
    taken = DatasetRule.objects.filter(pk=rule.pk, taken_at=rule.taken_at)
    taken.update(next_look=Now() + timedelta(seconds=wait_s), asked=asked, taken_at=None)


def _write_failure(rule: DatasetRule, code: str, message: str, hint: str) -> DatasetLook:
    return DatasetLook.objects.create(rule=rule, error_code=code, error_message=message, error_hint=hint)


def _wait_after_failure(rule: DatasetRule) -> float:
    """Soon, then twice as long each time, and no longer than the rule waits anyway, or an hour."""
    latest = DatasetLook.objects.filter(rule=rule).order_by("-pk").values_list("error_code", flat=True)
    failures = list(itertools.takewhile(bool, latest[:MOST_DOUBLED]))
    return min(min(rule.every_s, SOON_S) * 2.0 ** (len(failures) - 1), max(rule.every_s, LONGEST_WAIT_S))


def _list(rule: DatasetRule) -> dict[str, str]:
    """The kinds of all that is there, by name; raises ConnectorError or KeyLost."""
    source_type = registry.source_type(rule.source.kind)
    with closing(source_type(rule.source.typed_options(), timeout_s=LIST_LIMIT_S)) as source:
        found = source.tables(rule.dataset)
    if len(found) > MOST_TABLES:
        raise ConnectorError(
            f"{rule.dataset} has {len(found):,} tables, more than {MOST_TABLES:,}.",
            code="too_many_tables",
            hint="Divide the dataset, or make its pipelines another way.",
        )
    return {table.name: table.kind for table in found}


@dataclass
class _Look:
    """One look, inside its caller's transaction."""

    rule: DatasetRule
    found: dict[str, str]
    # Those of what was found that the rule is about.
    tables: list[str] = field(init=False)
    row: DatasetLook = field(init=False)
    events: list[TableEvent] = field(default_factory=list)

    def done(self) -> DatasetLook:
        wanted = self.rule.views
        self.tables = [n for n, kind in self.found.items() if (wanted or kind == PLAIN) and self.rule.takes(n)]
        self.row = DatasetLook.objects.create(rule=self.rule, tables=len(self.tables))
        is_first = self.rule.first_looked_at is None
        if is_first:
            # Also of another dataset than before: what was known of that one is history.
            SeenTable.objects.filter(rule=self.rule).delete()
        seen = {each.name: each for each in SeenTable.objects.filter(rule=self.rule)}
        self._note_gone([each for name, each in seen.items() if name not in self.found])
        self._note_back([seen[name] for name in self.tables if name in seen and seen[name].vanished_at])
        new = [name for name in self.tables if name not in seen]
        if is_first and not self.rule.take_existing:
            SeenTable.objects.bulk_create([SeenTable(rule=self.rule, name=name) for name in new])
        else:
            self._meet(new)
        if is_first:
            DatasetRule.objects.filter(pk=self.rule.pk).update(first_looked_at=queries.database_now())
        TableEvent.objects.bulk_create(self.events)
        self.row.save()
        return self.row

    def _note_gone(self, gone: list[SeenTable]) -> None:
        # What a rule is not about any more has not vanished.
        vanished = [each for each in gone if each.vanished_at is None and self.rule.takes(each.name)]
        SeenTable.objects.filter(pk__in=[each.pk for each in vanished]).update(vanished_at=queries.database_now())
        self.row.vanished = len(vanished)
        for each in vanished:
            self._tell(Kind.VANISHED, each.name, each.pipeline_id)

    def _note_back(self, back: list[SeenTable]) -> None:
        SeenTable.objects.filter(pk__in=[each.pk for each in back]).update(vanished_at=None)
        for each in back:
            self._tell(Kind.BACK, each.name, each.pipeline_id)

    def _meet(self, new: list[str]) -> None:
        """Tables that appeared: those without a pipeline get one, as many as may at once; the rest waits."""
        taken = dataset_rules.known_pipelines(self.rule)
        tries = 0
        for name in new:
            if pipeline := taken.get(name):
                self.row.appeared += 1
                self._saw(name, pipeline)
                self._tell(Kind.APPEARED, name, pipeline.pk, pipeline.name)
                continue
            if tries == self.rule.most_at_once:
                self.row.left += 1
                continue
            tries += 1
            self.row.appeared += 1
            self._make(name)

    def _make(self, name: str) -> None:
        try:
            with transaction.atomic():
                made = dataset_rules.pipeline_for(self.rule, name)
        except (PipelineRefused, RuleError) as refused:
            self.row.refused += 1
            self._saw(name, None)
            self._tell(Kind.REFUSED, name, None, f"{refused.message} {refused.hint}".strip())
            return
        except OperationalError:
            raise  # the control database; the look is tried again as a whole
        except Exception as error:  # a defect at one table must not keep the others from their pipelines
            log.exception("No pipeline could be made for %s", name)
            self.row.refused += 1
            self._saw(name, None)
            told = f"Something unexpected happened ({type(error).__name__}). The log of the process lookups has more."
            self._tell(Kind.REFUSED, name, None, told)
            return
        self.row.made += 1
        self._saw(name, made)
        self._tell(Kind.MADE, name, made.pk, f"{made.name}, {made.get_state_display().lower()}")

    def _saw(self, name: str, pipeline: Pipeline | None) -> None:
        SeenTable.objects.create(rule=self.rule, name=name, pipeline=pipeline)

    def _tell(self, kind: str, table: str, pipeline: Any, message: str = "") -> None:
        event = TableEvent(look=self.row, rule=self.rule, kind=kind, table=table, pipeline_id=pipeline, message=message)
        self.events.append(event)
