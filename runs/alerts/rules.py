"""The rules that count now, and which pipelines each is about."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from django.db.models import Prefetch

from pipelines.models import AlertChannel, AlertKind, AlertRule
from runs.models import OVER_BUDGET

# What a run's failure can be besides a failure: by its code.
DRIFT = frozenset(
    {
        *("schema_frozen", "schema_incompatible", "column_type_changed", "cursor_column_missing"),
        *("target_column_missing", "target_column_mismatch", "target_extra_column"),
    }
)
# Of a run that succeeded, and took other columns than the one before.
FOLLOWED = "schema_followed"
BUDGET = frozenset({"bytes_billed_limit", OVER_BUDGET})


@dataclass(frozen=True)
class Watch:
    """A rule with its channels; `pipelines` None: all."""

    rule: AlertRule
    channels: tuple[AlertChannel, ...]
    pipelines: frozenset[UUID] | None = field(default=None)

    def concerns(self, pipeline: UUID) -> bool:
        return self.pipelines is None or pipeline in self.pipelines

    def tells(self, kind: str) -> bool:
        return kind in self.rule.kinds

    def watches(self, kind: str) -> bool:
        """Also what it does not tell: who only wants to know that it works again has to know that it failed."""
        only_recovery = set(self.rule.kinds) == {AlertKind.RECOVERED.value}
        return self.tells(kind) or (kind == AlertKind.FAILED and only_recovery)

    def held_kind(self, code: str) -> AlertKind | None:
        """What a run that waits for somebody is to this rule: the narrowest that it watches."""
        if code in BUDGET and self.tells(AlertKind.OVER_BUDGET):
            return AlertKind.OVER_BUDGET
        return AlertKind.HELD if self.watches(AlertKind.HELD) else None

    def failure_kind(self, code: str) -> AlertKind | None:
        """What a failure is to this rule: the narrowest that it watches."""
        if code in DRIFT and self.tells(AlertKind.SCHEMA_DRIFT):
            return AlertKind.SCHEMA_DRIFT
        if code in BUDGET and self.tells(AlertKind.OVER_BUDGET):
            return AlertKind.OVER_BUDGET
        return AlertKind.FAILED if self.watches(AlertKind.FAILED) else None


def watches(pipelines: Collection[UUID] | None = None) -> list[Watch]:
    """The rules that are on; of those for some pipelines only what concerns `pipelines` (None: any) is read."""
    through = AlertRule.pipelines.through.objects.filter(alertrule__enabled=True, alertrule__every_pipeline=False)
    if pipelines is not None:
        through = through.filter(pipeline__in=list(pipelines))
    members: dict[UUID, set[UUID]] = {}
    for rule, pipeline in through.values_list("alertrule_id", "pipeline_id"):
        members.setdefault(rule, set()).add(pipeline)
    return list(_watches(members))


def _watches(members: dict[UUID, set[UUID]]) -> Iterator[Watch]:
    channels = Prefetch("channels", AlertChannel.objects.defer("secrets").order_by("name"))
    for rule in AlertRule.objects.filter(enabled=True).order_by("name").prefetch_related(channels):
        of = None if rule.every_pipeline else frozenset(members.get(rule.pk, ()))
        yield Watch(rule, tuple(rule.channels.all()), of)
