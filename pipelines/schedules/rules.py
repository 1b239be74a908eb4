"""What a rule is made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from pipelines.schedules.clocks import OUTSIDE, is_outside, zone_of
from pipelines.schedules.cron import parse
from pipelines.schedules.errors import RuleError

MAX_EVERY_S = 366 * 86400

# Thousands of schedules tick at the same full hour, by a handful of rules.
remembered = lru_cache(maxsize=4096)


@dataclass(frozen=True)
class Rule:
    """When something is due, both ends of its window included.

    An interval counts from `active_from`, or else from the day of `starts_at`, or else of the time asked about.
    """

    kind: str
    cron: str = ""
    zone: str = "UTC"
    every_s: int | None = None
    starts_at: datetime | None = None
    active_from: datetime | None = None
    active_until: datetime | None = None

    @classmethod
    def of(cls, schedule: Any) -> Rule:
        """The rule of a Schedule, or of anything else with its fields."""
        kind = str(schedule.kind)
        return cls(
            kind=kind,
            cron=schedule.cron,
            zone=schedule.zone,
            every_s=schedule.every_s,
            # Cron does not count from anywhere: schedules with one text are one rule.
            starts_at=_counts_from(schedule) if kind == "interval" else None,
            active_from=schedule.active_from,
            active_until=schedule.active_until,
        )


def _counts_from(schedule: Any) -> datetime | None:
    return getattr(schedule, "anchor", None) or getattr(schedule, "starts_at", None)


def check(rule: Rule) -> None:
    """Raise RuleError if the rule is malformed or would never tick."""
    if rule.kind == "interval":
        if rule.every_s is None or not 1 <= rule.every_s <= MAX_EVERY_S:
            raise RuleError("every_s", "An interval is between 1 second and 366 days.", "Give its length in seconds.")
    elif rule.kind == "cron":
        parse(rule.cron)
        zone_of(rule.zone)
    else:
        raise RuleError("kind", f"{rule.kind} is not a kind of schedule.", "Choose cron or interval.")
    for field in ("active_from", "active_until"):
        moment = getattr(rule, field)
        if moment and is_outside(moment):
            raise RuleError(field, OUTSIDE, "Leave it empty if there is no such limit.")
    if rule.active_from and rule.active_until and rule.active_until <= rule.active_from:
        raise RuleError("active_until", "It ends before it begins.", "Give a later end, or none.")
