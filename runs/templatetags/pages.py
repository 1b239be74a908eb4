"""How pages say times, amounts and states."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from runs import charts
from runs.models import Attempt, Run
from runs.states import RunStatus

register = template.Library()

ICONS = {status.value: status.value for status in RunStatus} | {
    "active": "succeeded",
    "paused": "held",
    "archived": "cancelled",
}


@register.simple_tag
def icon(name: str) -> SafeString:
    return format_html('<svg class="icon" aria-hidden="true"><use href="{}#{}"></use></svg>', static("icons.svg"), name)


@register.simple_tag
def badge(status: str) -> SafeString:
    """A run's status: colour, shape and word."""
    return format_html('<span class="badge s-{}">{}{}</span>', status, icon(status), RunStatus(status).label)


@register.filter
def count(value: float | None) -> str:
    """1234567 → 1,234,567"""
    return "" if value is None else f"{value:,.0f}"


@register.filter
def compact(value: float | None) -> str:
    """1234567 → 1.23 M"""
    if value is None:
        return ""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{value:,.0f}"


@register.filter
def size(value: float | None) -> str:
    """Bytes: 1234567 → 1.23 MB"""
    if value is None:
        return ""
    for unit, bytes_in_it in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= bytes_in_it:
            return f"{value / bytes_in_it:.3g} {unit}"
    return f"{value:.0f} B"


@register.filter
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


@register.filter
def taken(run: Run) -> str:
    """How long a run took, or has taken so far."""
    return span(charts.seconds_taken(run)) if run.started_at else "–"


@register.filter
def exact(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


@register.filter
def ago(moment: datetime | None) -> SafeString | str:
    """A time as people say it, with the exact one behind it; the page's script keeps it true."""
    if moment is None:
        return ""
    said = _relative((moment - timezone.now()).total_seconds())
    return format_html('<time datetime="{}" title="{}" data-ago>{}</time>', moment.isoformat(), exact(moment), said)


@register.filter
def when(moment: datetime | None) -> SafeString | str:
    """A time of the coming days, short; the page's script shows it in the reader's own zone."""
    if moment is None:
        return ""
    is_near = abs((moment - timezone.now()).days) < 6
    said = f"{moment.astimezone(UTC):{'%a' if is_near else '%-d %b'} %H:%M} UTC"
    return format_html('<time datetime="{}" title="{}" data-when>{}</time>', moment.isoformat(), exact(moment), said)


@register.filter
def clock(moment: datetime | None) -> SafeString | str:
    """An exact time, which the page's script shows in the reader's own zone."""
    if moment is None:
        return ""
    return format_html('<time datetime="{}" data-clock>{}</time>', moment.isoformat(), exact(moment))


def _relative(seconds: float) -> str:
    if abs(seconds) < 5:
        return "now"
    steps = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    amount, unit = next((round(abs(seconds) / length), unit) for length, unit in steps if abs(seconds) >= length)
    return f"in {amount} {unit}" if seconds > 0 else f"{amount} {unit} ago"


@register.filter
def lasted(attempt: Attempt) -> str:
    return span((attempt.ended_at - attempt.started_at).total_seconds()) if attempt.ended_at else ""


@register.filter
def longest(runs: list[Run]) -> float:
    return max((charts.seconds_taken(run) for run in runs), default=0.0)


@register.filter
def most_rows(runs: list[Run]) -> int:
    return max((run.rows for run in runs), default=0)


# How a receipt's values are said; what is not named here is shown as it is.
SAID = {
    "rows": count,
    "bytes": size,
    "target": lambda target: f"{target['schema']}.{target['table']}",
    "snapshot_time": lambda text: exact(datetime.fromisoformat(text)),
    "published_at": lambda text: exact(datetime.fromisoformat(text)),
    "lock_wait_ms": lambda ms: f"{ms:.1f} ms",
    "lock_held_ms": lambda ms: f"{ms:.1f} ms",
}
RECEIPT = ("rows", "bytes", "target", "method", "disposition", "changes", "snapshot_time", "published_at", "seconds")


@register.filter
def receipt_facts(receipt: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A receipt as pairs of name and text; the database does not keep the order of its names."""
    for name, value in sorted(receipt.items(), key=lambda item: RECEIPT.index(item[0]) if item[0] in RECEIPT else 99):
        if name == "seconds":
            for phase, seconds in value.items():
                yield f"Time to {words(phase).lower()}", span(seconds)
        elif isinstance(value, dict) and name not in SAID:
            for inner, said in value.items():
                if said not in (None, "") and (said or name != "changes"):
                    yield words(inner), fact(said)
        elif value not in (None, ""):
            yield words(name.removesuffix("_ms")), SAID.get(name, fact)(value)


def fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


@register.filter
def words(name: str) -> str:
    """estimated_rows → Estimated rows, time_limit_s → Time limit"""
    return name.removesuffix("_s").replace("_", " ").capitalize()


@register.inclusion_tag("parts/bars.html")
def run_bars(
    runs: list[Run], places: int, measure: str = "seconds", width: int = 168, height: int = 32
) -> dict[str, Any]:
    value = charts.rows_moved if measure == "rows" else charts.seconds_taken
    return {"chart": charts.draw(runs, value, places=places, width=width, height=height), "large": height > 50}


@register.simple_tag(takes_context=True)
def address(context: dict[str, Any], **changes: Any) -> str:
    """This page's query string with some values changed; an empty value removes its name."""
    query = context["request"].GET.copy()
    for name, value in changes.items():
        if value in ("", None):
            query.pop(name, None)
        else:
            query[name] = value
    return f"?{query.urlencode()}"
