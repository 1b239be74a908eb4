"""Alerts that are open, of some pipelines: begin one, count one, end one, each with its messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet

from pipelines.locks import AdvisoryLock
from pipelines.models import AlertKind, Pipeline
from runs.alerts import outbox, wording
from runs.alerts.rules import Watch
from runs.models import Alert, Closing, DeliveryEvent
from runs.services.journal import storable

Key = tuple[UUID, UUID, str]


def take_turn() -> bool:
    """Be the one that changes alerts until the transaction ends; False if somebody else is."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [AdvisoryLock.ALERTS])
        return cursor.fetchone()[0]


@dataclass(frozen=True)
class Finding:
    """What an alert is about: when it began (`since`), when it was found, why, and the run that shows it."""

    since: datetime
    at: datetime
    cause: str
    code: str = ""
    hint: str = ""
    run: UUID | None = None


class OpenAlerts:
    """Held by whoever has the turn, so nobody else changes them meanwhile."""

    def __init__(self, pipelines: QuerySet[Pipeline]) -> None:
        self._pipelines = {each.pk: each for each in pipelines.select_related("source", "destination")}
        self._open: dict[Key, Alert] = {}
        for alert in Alert.objects.filter(pipeline__in=self._pipelines, closed_at=None).exclude(rule=None):
            self._keep(alert)

    def _keep(self, alert: Alert) -> None:
        alert.pipeline = self._pipelines[alert.pipeline_id]
        if alert.rule_id is not None:
            self._open[alert.rule_id, alert.pipeline_id, alert.kind] = alert

    def of(self, watch: Watch, kind: AlertKind) -> Iterable[Alert]:
        """The rule's open alerts of a kind."""
        return [alert for (rule, _, its), alert in self._open.items() if rule == watch.rule.pk and its == kind]

    def note(self, watch: Watch, pipeline: UUID, kind: AlertKind, found: Finding) -> None:
        """Begin an alert and tell; if it is open already, count."""
        alert = self._open.get((watch.rule.pk, pipeline, kind.value))
        code, cause, hint = found.code, self._plain(found.cause, pipeline), self._plain(found.hint, pipeline)
        if alert is not None:
            alert.count += 1
            alert.last_at, alert.run_id = found.at, found.run
            alert.code, alert.cause, alert.hint = code, cause, hint
            alert.save(update_fields=["count", "last_at", "run", "code", "cause", "hint"])
            return
        alert = Alert.objects.create(
            rule=watch.rule,
            pipeline_id=pipeline,
            kind=kind,
            run_id=found.run,
            is_silent=not watch.tells(kind),
            since=found.since,
            opened_at=found.at,
            last_at=found.at,
            told_at=found.at,
            code=code,
            cause=cause,
            hint=hint,
        )
        self._keep(alert)
        if not alert.is_silent:
            self._tell(watch, alert, DeliveryEvent.OPENED, wording.opened(alert, watch.rule.name), found.at)

    def tell_once(self, watch: Watch, pipeline: UUID, kind: AlertKind, found: Finding) -> None:
        """Tell of something that is over as soon as it is known."""
        self.note(watch, pipeline, kind, found)
        self.end(self._open[watch.rule.pk, pipeline, kind.value], found.at, Closing.TOLD)

    def remind(self, watch: Watch, alert: Alert, now: datetime) -> None:
        alert.told_at = now
        alert.save(update_fields=["told_at"])
        number = int(now.timestamp())
        text = wording.reminded(alert, watch.rule.name)
        self._tell(watch, alert, DeliveryEvent.REMINDED, text, now, number=number)

    def close(
        self,
        watch: Watch,
        pipeline: UUID,
        kind: AlertKind,
        at: datetime,
        *,
        run: UUID | None = None,
        code: str | None = None,
    ) -> None:
        """End an alert, if it is open (and, where they are given, of that run and code), and tell if that is wanted."""
        alert = self._open.get((watch.rule.pk, pipeline, kind.value))
        if alert is None or (run is not None and alert.run_id != run) or (code is not None and alert.code != code):
            return
        self.end(alert, at, Closing.RECOVERED)
        if watch.tells(AlertKind.RECOVERED):
            self._tell(watch, alert, DeliveryEvent.RECOVERED, wording.recovered(alert, watch.rule.name), at)

    def end(self, alert: Alert, at: datetime, closing: Closing) -> None:
        if alert.rule_id is not None:
            self._open.pop((alert.rule_id, alert.pipeline_id, alert.kind), None)
        alert.closed_at, alert.closing = max(at, alert.opened_at), closing
        alert.save(update_fields=["closed_at", "closing"])

    def _tell(
        self, watch: Watch, alert: Alert, event: DeliveryEvent, text: wording.Text, now: datetime, *, number: int = 0
    ) -> None:
        for channel in watch.channels:
            outbox.write(text, channel, event=event, alert=alert, number=number, urgent=watch.rule.urgent, now=now)

    def _plain(self, text: str, pipeline: UUID) -> str:
        return storable(wording.without_secrets(text, self._pipelines[pipeline]))
