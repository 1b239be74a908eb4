"""What an alert says: which pipeline, what, why, what to do, and where to look. No secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from pipelines.models import AlertKind, Connection, Pipeline
from runs.alerts.rules import FOLLOWED
from runs.models import OVER_BUDGET, Alert
from runs.words import exact, span

LONGEST_TITLE = 250
LONGEST_TEXT = 2_000
SHORTEST_SECRET = 4
HIDDEN = "***"

WHAT = {
    AlertKind.FAILED: "failed",
    AlertKind.HELD: "is held",
    AlertKind.LATE: "is late",
    AlertKind.STALE: "has stale data",
    AlertKind.SCHEMA_DRIFT: "failed: its source's columns changed",
    AlertKind.OVER_BUDGET: "failed: over budget",
    AlertKind.UNUSUAL_DURATION: "took unusually long",
    AlertKind.UNUSUAL_ROWS: "moved an unusual number of rows",
}
SEVERE = frozenset({AlertKind.FAILED, AlertKind.SCHEMA_DRIFT, AlertKind.OVER_BUDGET})


@dataclass(frozen=True)
class Text:
    """A message as it is stored: its severity is apprise's word for it."""

    title: str
    body: str
    severity: str


def opened(alert: Alert, rule_name: str) -> Text:
    kind = AlertKind(alert.kind)
    if alert.code == FOLLOWED:
        return Text(
            _title(f"{alert.pipeline.name} took other columns from its source"), _body(alert, rule_name, []), "warning"
        )
    return Text(
        _title(f"{alert.pipeline.name} {_what(alert)}"),
        _body(alert, rule_name, [("Since", exact(alert.since))] if kind != AlertKind.FAILED else []),
        "failure" if kind in SEVERE and alert.code != OVER_BUDGET else "warning",
    )


def _what(alert: Alert) -> str:
    """What is the matter: a run over budget has failed, or waits for somebody to approve its cost."""
    return "waits: over budget" if alert.code == OVER_BUDGET else WHAT[AlertKind(alert.kind)]


def reminded(alert: Alert, rule_name: str) -> Text:
    again = f"{_lasted(alert, timezone.now())}{_times(alert)}"
    first = opened(alert, rule_name)
    return Text(
        _title(f"{alert.pipeline.name} still {_what(alert)}"),
        _body(alert, rule_name, [("Lasts for", again), ("Since", exact(alert.since))]),
        first.severity,
    )


def recovered(alert: Alert, rule_name: str) -> Text:
    """Of an alert that was just closed."""
    over = f"{_lasted(alert, alert.closed_at or timezone.now())}{_times(alert)}"
    was = _what(alert)
    lines = [
        ("Pipeline", alert.pipeline.name),
        ("It", was),
        ("Since", exact(alert.since)),
        ("Lasted", over),
        *_links(alert),
        ("Rule", rule_name),
    ]
    was_held = alert.kind == AlertKind.HELD or alert.code == OVER_BUDGET
    title = f"{alert.pipeline.name} is no longer held" if was_held else ""
    return Text(_title(title or f"{alert.pipeline.name} works again"), _lines(lines), "success")


def test(channel_name: str, by: str) -> Text:
    lines = [
        ("Channel", channel_name),
        ("Sent by", by),
        ("Cause", "Somebody pressed Send test. Nothing is wrong."),
        ("Open", settings.PUBLIC_URL),
    ]
    return Text(_title(f"Test of channel {channel_name}"), _lines(lines), "info")


def digest(texts: list[Text], why: str) -> Text:
    """Several messages as one; the gravest says how grave it is."""
    worst = next(
        (one for one in ("failure", "warning", "success") if any(text.severity == one for text in texts)), "info"
    )
    told = [f"{len(texts)} messages {why}:", *(f"• {text.title.removeprefix(PREFIX)}" for text in texts)]
    bodies = "\n\n".join(f"{text.title.removeprefix(PREFIX)}\n{text.body}" for text in texts)
    return Text(_title(f"{len(texts)} alerts {why}"), _cut("\n".join(told) + "\n\n" + bodies, 4 * LONGEST_TEXT), worst)


PREFIX = "[DataMantri] "


def _title(text: str) -> str:
    return _cut(PREFIX + text, LONGEST_TITLE)


def _body(alert: Alert, rule_name: str, more: list[tuple[str, str]]) -> str:
    cause = f"{alert.cause} [{alert.code}]" if alert.code not in ("", FOLLOWED) else alert.cause
    return _lines(
        [
            ("Pipeline", alert.pipeline.name),
            ("Cause", _cut(cause, LONGEST_TEXT)),
            ("What to do", _cut(alert.hint, LONGEST_TEXT)),
            *more,
            *_links(alert),
            ("Rule", rule_name),
        ]
    )


def _links(alert: Alert) -> Iterator[tuple[str, str]]:
    if alert.run_id:
        yield "Run", f"{settings.PUBLIC_URL}/runs/{alert.run_id}/"
    else:
        yield "Open", settings.PUBLIC_URL + alert.pipeline.get_absolute_url()


def _lines(pairs: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name}: {text}" for name, text in pairs if text)


def _lasted(alert: Alert, until: datetime) -> str:
    return span(max(0.0, (until - alert.since).total_seconds()))


def _times(alert: Alert) -> str:
    return f", {alert.count} times" if alert.count > 1 else ""


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 2] + " …"


# Secrets ----------------------------------------------------------------------------------------


def without_secrets(text: str, pipeline: Pipeline) -> str:
    """The text without any stored secret of the pipeline's connections: an error may have named one after all."""
    for secret in sorted(_secrets(pipeline.source, pipeline.destination), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _secrets(*connections: Connection) -> set[str]:
    found: set[str] = set()
    for connection in connections:
        _collect(connection.secrets or {}, found)
    return {text for text in found if len(text) >= SHORTEST_SECRET}


def _collect(value: Any, found: set[str]) -> None:
    if isinstance(value, str):
        # A key of several lines may be told by one of them.
        found |= {value, *(line.strip() for line in value.splitlines() if len(line.strip()) >= 20)}
    elif isinstance(value, Mapping):
        for each in value.values():
            _collect(each, found)
