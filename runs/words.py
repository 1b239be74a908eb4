"""How amounts and times are said to people."""

from __future__ import annotations

from datetime import UTC, datetime

from connectors.counts import counted
from pipelines.prices import size as size


def count(value: float | None) -> str:
    """1234567 → 1,234,567"""
    return "" if value is None else f"{value:,.0f}"


def rows(value: int) -> str:
    """1 row, 1,234 rows"""
    return counted(value)


def compact(value: float | None) -> str:
    """1234567 → 1.23 M"""
    if value is None:
        return ""
    for unit, least in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if value >= least:
            return f"{value / (1e3 if unit == 'k' else least):.3g} {unit}"
    return f"{value:,.0f}"


def span(seconds: float | None) -> str:
    """Seconds: 0.25 → 0.25 s, 75 → 1 min 15 s, 7300 → 2 h 1 min"""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def exact(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def exact_text(text: str) -> str:
    """An ISO time in UTC with its microseconds, as BigQuery takes it in FOR SYSTEM_TIME AS OF."""
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S.%f} UTC" if moment.microsecond else exact(moment)


def words(name: str) -> str:
    """estimated_rows → Estimated rows, time_limit_s → Time limit"""
    return name.removesuffix("_s").replace("_", " ").capitalize()
