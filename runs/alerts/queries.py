"""Reads of alerts for pages."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.models import AlertKind, Pipeline
from runs.models import Alert

SHOWN = 20
RULES_A_PIPELINE = 4
# Pages tell of failed and held runs by themselves.
TOLD_ANYWAY = (AlertKind.FAILED, AlertKind.HELD, AlertKind.SCHEMA_DRIFT, AlertKind.OVER_BUDGET)


def open_alerts_of(pipeline: Pipeline) -> Sequence[Alert]:
    """What is wrong with a pipeline now, newest first; what several rules tell stands once for each."""
    found = Alert.objects.filter(pipeline=pipeline, closed_at=None, is_silent=False)
    return list(found.select_related("rule", "run").order_by("-opened_at")[:SHOWN])


def to_look_at(most: int) -> Sequence[Alert]:
    """The newest open alerts that no run's own state shows, one for each pipeline and kind."""
    found = Alert.objects.filter(closed_at=None, is_silent=False).exclude(kind__in=TOLD_ANYWAY)
    # Several rules may tell the same.
    newest = found.select_related("pipeline").order_by("-opened_at")[: RULES_A_PIPELINE * most]
    return list({(alert.pipeline_id, alert.kind): alert for alert in reversed(newest)}.values())[::-1][:most]
