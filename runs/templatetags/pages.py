"""How pages say times, amounts and states."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from django import template
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from pipelines.forms.parameters import typed
from pipelines.prices import price
from runs import charts, part_queries, receipts
from runs.micro_batches import MicroBatches, grouped
from runs.models import Attempt, Because, Run, RunAction
from runs.part_queries import Counts
from runs.states import RunStatus
from runs.words import compact, count, exact, rows, size, span, words

register = template.Library()
for say in (compact, count, exact, price, rows, size, span, words, part_queries.doing):
    register.filter(say.__name__, say)

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


@register.simple_tag
def deed(run: Run) -> SafeString | str:
    """What a run does, unless it is an ordinary load; of a comparison also what it found, if that was read."""
    if run.action == RunAction.LOAD:
        return ""
    agrees = getattr(run, "agrees", None)
    found = {"true": ": equal", "false": ": differs"}.get(agrees or "", "")
    return format_html(
        '<span class="tag{}">{}{}</span>', " bad" if agrees == "false" else "", run.get_action_display(), found
    )


@register.filter
def reason(run: Run) -> str:
    """Why a micro-batch was asked for; empty for any other run."""
    because = run.action_options.get("because")
    return str(Because(because).label) if because in Because.values else ""


@register.filter
def in_rows(runs: list[Run]) -> list[Run | MicroBatches]:
    """Runs as a list shows them: micro-batches in a row that went well are one line."""
    return grouped(runs)


@register.filter
def value(text: str | None) -> SafeString | str:
    """A value of a row; NULL is no text."""
    return format_html('<span class="quiet">{}</span>', "NULL") if text is None else text


@register.filter
def taken(run: Run) -> str:
    """How long a run took, or has taken so far."""
    return span(charts.seconds_taken(run)) if run.started_at else "–"


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


@register.simple_tag
def sentence(counts: Counts, run: Run) -> str:
    """How a run's parts stand."""
    return counts.in_words(run)


@register.simple_tag
def outcome(attempt: Attempt, run: Run, counts: Counts | None = None) -> str:
    return part_queries.outcome_in_words(attempt, run, counts)


@register.filter
def longest(runs: list[Run]) -> float:
    return charts.longest(runs)


@register.filter
def most_rows(runs: list[Run]) -> int:
    return max((run.rows for run in runs), default=0)


@register.filter
def receipt_groups(receipt: dict[str, Any]) -> list[receipts.Group]:
    return receipts.groups(receipt)


_RUN = re.compile(r"\brun ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")


@register.filter
def with_runs(text: str, length: int = 36) -> SafeString:
    """A text as text, in which the runs that it names are links; the script of a run's page does the same."""
    first, *rest = _RUN.split(text)
    named = ((reverse("run", args=[pk]), pk[:length], after) for pk, after in zip(rest[::2], rest[1::2], strict=True))
    return format_html("{}{}", first, format_html_join("", '<a href="{}">run {}</a>{}', named))


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


@register.filter
def as_typed(value: Any) -> str:
    """The value of a parameter as a person would type it."""
    return typed(value) if value is not None else "NULL"
