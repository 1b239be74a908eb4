"""An alert rule in words: what a form shows before it is saved, and lists after that."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipelines.models import AlertChannel, AlertKind, AlertRule, Quiet

SHOWN = 3


@dataclass(frozen=True)
class Said:
    """What a rule says, saved or not. `pipelines` None: all of them."""

    kinds: Collection[str]
    channels: Sequence[str]
    pipelines: Sequence[str] | None
    enabled: bool = True
    late_after_min: int = 60
    stale_after_h: int = 26
    distance: int = 6
    remind_after_h: int | None = None
    urgent: bool = False


def said_by(rule: AlertRule) -> Said:
    """With its channels and pipelines, which lists prefetch."""
    return Said(
        kinds=rule.kinds,
        channels=[channel.name for channel in rule.channels.all()],
        pipelines=None if rule.every_pipeline else [pipeline.name for pipeline in rule.pipelines.all()],
        enabled=rule.enabled,
        late_after_min=rule.late_after_min,
        stale_after_h=rule.stale_after_h,
        distance=rule.distance,
        remind_after_h=rule.remind_after_h,
        urgent=rule.urgent,
    )


def in_words(said: Said) -> str:
    """One paragraph of plain sentences."""
    if not said.enabled:
        return "It is off: nothing is watched."
    if not said.kinds or not said.channels:
        return "It tells nobody yet: choose what to tell, and at least one channel."
    of = "any pipeline" if said.pipelines is None else _listed(said.pipelines, "or") or "no pipeline (none is chosen)"
    whens = [when for kind, when in _whens(said, of) if when and kind in said.kinds]
    sentences = [f"Tells {_listed(said.channels, 'and')} when {'; or when '.join(whens)}."]
    if AlertKind.RECOVERED in said.kinds and len(said.kinds) > 1:
        sentences.append("Tells again when that is over, and how long it lasted.")
    sentences.append("While it lasts, further cases are counted and not told" + _reminders(said) + ".")
    sentences.append("Quiet hours do not hold it up." if said.urgent else "Quiet hours of a channel hold it up.")
    return " ".join(sentences)


def _whens(said: Said, of: str) -> list[tuple[str, str]]:
    lasting = set(said.kinds) - {AlertKind.RECOVERED}
    return [
        (AlertKind.FAILED, f"a run of {of} fails (after its retries)"),
        (AlertKind.RECOVERED, "" if lasting else f"a run of {of} succeeds after one that failed"),
        (AlertKind.HELD, f"a guard or a check holds a run of {of}"),
        (
            AlertKind.LATE,
            f"{_minutes(said.late_after_min)} after a scheduled time the data of {of} is not there",
        ),
        (AlertKind.STALE, f"nothing was loaded by {of} for {_hours(said.stale_after_h)}"),
        (AlertKind.SCHEMA_DRIFT, f"a run of {of} ends because the source's columns changed"),
        (AlertKind.OVER_BUDGET, f"a run of {of} ends because it would cost more than allowed"),
        (
            AlertKind.UNUSUAL_DURATION,
            f"a run of {of} takes longer than usual by {said.distance} times the usual distance",
        ),
        (
            AlertKind.UNUSUAL_ROWS,
            f"a run of {of} moves more or fewer rows than usual by {said.distance} times the usual distance",
        ),
    ]


def _reminders(said: Said) -> str:
    return f", but for a reminder every {_hours(said.remind_after_h)}" if said.remind_after_h else ""


def quiet_in_words(channel: AlertChannel) -> str:
    if channel.quiet_from is None or channel.quiet_until is None:
        return "none"
    then = "one message afterwards" if channel.quiet_mode == Quiet.DIGEST else "alerts are not sent"
    return f"{channel.quiet_from:%H:%M} to {channel.quiet_until:%H:%M} {channel.quiet_zone}, {then}"


def _listed(names: Sequence[str], last: str) -> str:
    if len(names) > SHOWN:
        return f"{', '.join(names[:SHOWN])} {last} {len(names) - SHOWN} more"
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _minutes(minutes: int) -> str:
    return _hours(minutes // 60) if minutes % 60 == 0 else f"{minutes} minute{'' if minutes == 1 else 's'}"


def _hours(hours: int) -> str:
    return f"{hours} hour{'' if hours == 1 else 's'}"
