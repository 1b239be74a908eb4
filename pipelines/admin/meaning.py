"""What a schedule means: its words and its next times, for the form that it is typed into."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from pipelines import schedules
from pipelines.models import Calendar
from pipelines.specs import ScheduleSpec


def preview_of(spec: ScheduleSpec) -> dict[str, Any]:
    """Plain values, as the page's script draws them; what a calendar closes is told with its name."""
    calendar = Calendar.objects.filter(name=spec.calendar).first() if spec.calendar else None
    rule, now = schedules.Rule.of(spec), timezone.now()
    times = schedules.upcoming(rule, now, closures=calendar.closures if calendar else None)
    return {
        "words": spec.words,
        "next": [
            {
                "local": each.on_the_clock,
                "utc": "" if spec.zone == "UTC" else each.in_utc,
                "note": each.note,
                "closed": _closed(calendar, each.closed),
            }
            for each in times
        ],
        "change": schedules.next_clock_change(rule, now) if times else "",
        "ends": "" if len(times) == schedules.TIMES else "After that it does not run any more.",
    }


def _closed(calendar: Calendar | None, note: str) -> str:
    if calendar is None or not note:
        return ""
    return f"skipped: {calendar.name}{'' if note == '-' else f', {note}'}"


def meaning_of(spec: ScheduleSpec | None) -> SafeString:
    """The same as the script draws it, for a page without scripts; None for a schedule yet to be typed."""
    if spec is None:
        return format_html('<span class="desk-meaning" data-desk-meaning>{}</span>', "")
    told = preview_of(spec)
    times = format_html_join("", "<li{}>{}{}{}</li>", map(_item, told["next"]))
    rest = format_html_join("", "<p>{}</p>", ((text,) for text in (told["ends"], told["change"]) if text))
    text = '<span class="desk-meaning" data-desk-meaning><strong>{}</strong><ol>{}</ol>{}</span>'
    return format_html(text, told["words"], times, rest)


def _item(time: dict[str, str]) -> tuple[SafeString, SafeString, SafeString, SafeString]:
    notes = ", ".join(filter(None, [time["closed"], time["note"]]))
    return (
        format_html(' class="{}"', "desk-closed") if time["closed"] else SafeString(""),
        format_html("<span>{}</span>", time["local"]),
        format_html("<span>{}</span>", time["utc"]) if time["utc"] else SafeString(""),
        format_html("<em>{}</em>", notes) if notes else SafeString(""),
    )
