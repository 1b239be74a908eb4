"""A look at datasets: pipelines for the tables that appeared, a note of those that vanished. Done by a worker only."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import connection, transaction

from connectors import registry
from connectors.errors import ConnectorError
from pipelines import dataset_rules, queries
from pipelines.fields import KeyLost
from pipelines.models import DatasetRule, Pipeline
from pipelines.objections import PipelineRefused
from pipelines.schedules import RuleError
from runs.models import DatasetLook, SeenTable, TableEvent

log = logging.getLogger(__name__)

LIST_LIMIT_S = 60.0
MOST_TABLES = 20_000
RULES_AT_ONCE = 20
PLAIN = "TABLE"
Kind = TableEvent.Kind


def look_around() -> int:
    """Look for each rule that is due, one after another; says how many."""
    for looked in range(RULES_AT_ONCE):
        rule = _take()
        if rule is None:
            return looked
        look(rule)
    return RULES_AT_ONCE


def _take() -> DatasetRule | None:
    """The next rule that is due, for this worker alone: its next look is moved in the same statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE pipelines_datasetrule
            SET next_look = clock_timestamp() + every_s * interval '1 second', asked = false
            WHERE id = (
                SELECT id FROM pipelines_datasetrule WHERE (enabled OR asked) AND next_look <= clock_timestamp()
                ORDER BY next_look LIMIT 1 FOR UPDATE SKIP LOCKED)
            RETURNING id
            """
        )
        row = cursor.fetchone()
    return DatasetRule.objects.select_related("source", "template").get(pk=row[0]) if row else None


def look(rule: DatasetRule) -> DatasetLook:
    """List a rule's dataset and do what it says; what could not be listed is written down, too."""
    try:
        tables = _list(rule)
    except (ConnectorError, KeyLost) as error:
        told = {
            "error_code": getattr(error, "code", "key_lost"),
            "error_message": getattr(error, "message", str(error)),
            "error_hint": getattr(error, "hint", ""),
        }
        return DatasetLook.objects.create(rule=rule, **told)
    with transaction.atomic():
        # A rule that was changed in the meantime looks again at once.
        still = DatasetRule.objects.select_for_update(of=("self",)).select_related("source", "template").get(pk=rule.pk)
        if (still.source_id, still.dataset) != (rule.source_id, rule.dataset):
            return DatasetLook(rule=rule)
        return _Look(still, tables).done()


def _list(rule: DatasetRule) -> list[str]:
    """The names that the rule is about; raises ConnectorError or KeyLost."""
    source_type = registry.source_type(rule.source.kind)
    with closing(source_type(rule.source.typed_options(), timeout_s=LIST_LIMIT_S)) as source:
        found = source.tables(rule.dataset)
    if len(found) > MOST_TABLES:
        raise ConnectorError(
            f"{rule.dataset} has {len(found):,} tables, more than {MOST_TABLES:,}.",
            code="too_many_tables",
            hint="Divide the dataset, or make its pipelines another way.",
        )
    return [table.name for table in found if (rule.views or table.kind == PLAIN) and rule.takes(table.name)]


@dataclass
class _Look:
    """One look, inside its caller's transaction."""

    rule: DatasetRule
    tables: list[str]
    row: DatasetLook = field(init=False)
    events: list[TableEvent] = field(default_factory=list)

    def done(self) -> DatasetLook:
        self.row = DatasetLook.objects.create(rule=self.rule, tables=len(self.tables))
        is_first = self.rule.first_looked_at is None
        if is_first:
            # Also of another dataset than before: what was known of that one is history.
            SeenTable.objects.filter(rule=self.rule).delete()
        seen = {each.name: each for each in SeenTable.objects.filter(rule=self.rule)}
        self._note_gone([each for name, each in seen.items() if name not in set(self.tables)])
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
                self._saw(name, pipeline)
                continue
            if tries == self.rule.most_at_once:
                self.row.left += 1
                continue
            tries += 1
            self.row.appeared += 1
            self._make(name)
        if self.row.left:
            # The next look goes on where this one stopped.
            DatasetRule.objects.filter(pk=self.rule.pk).update(next_look=queries.database_now() + timedelta(minutes=1))

    def _make(self, name: str) -> None:
        try:
            with transaction.atomic():
                made = dataset_rules.pipeline_for(self.rule, name)
        except (PipelineRefused, RuleError) as refused:
            self.row.refused += 1
            self._saw(name, None)
            self._tell(Kind.REFUSED, name, None, f"{refused.message} {refused.hint}".strip())
            return
        self.row.made += 1
        self._saw(name, made)
        self._tell(Kind.MADE, name, made.pk, f"{made.name}, {made.get_state_display().lower()}")

    def _saw(self, name: str, pipeline: Pipeline | None) -> None:
        SeenTable.objects.create(rule=self.rule, name=name, pipeline=pipeline)

    def _tell(self, kind: str, table: str, pipeline: Any, message: str = "") -> None:
        event = TableEvent(look=self.row, rule=self.rule, kind=kind, table=table, pipeline_id=pipeline, message=message)
        self.events.append(event)
