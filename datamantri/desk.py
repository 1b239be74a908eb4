"""The admin's sidebar: what people come for first, with a way back to the pages."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse

# Title; then name, icon, address, and the permission without which it is not shown.
GROUPS: tuple[tuple[str, tuple[tuple[str, str, str, str], ...]], ...] = (
    (
        "Pages",
        (
            ("Dashboard", "space_dashboard", "dashboard", "pipelines.view_pipeline"),
            ("Monitor", "monitor_heart", "monitor", "runs.view_run"),
        ),
    ),
    (
        "Definitions",
        (
            ("Pipelines", "conversion_path", "admin:pipelines_pipeline_changelist", "pipelines.view_pipeline"),
            ("Connections", "database", "admin:pipelines_connection_changelist", "pipelines.view_connection"),
            ("Dataset rules", "dataset", "admin:pipelines_datasetrule_changelist", "pipelines.view_datasetrule"),
            ("Calendars", "event_busy", "admin:pipelines_calendar_changelist", "pipelines.view_calendar"),
            ("Pools", "pool", "admin:pipelines_pool_changelist", "pipelines.view_pool"),
            (
                "Crontabs",
                "calendar_clock",
                "admin:django_celery_beat_crontabschedule_changelist",
                "django_celery_beat.view_crontabschedule",
            ),
        ),
    ),
    (
        "Alerts",
        (
            ("Rules", "notifications", "admin:pipelines_alertrule_changelist", "pipelines.view_alertrule"),
            ("Channels", "send", "admin:pipelines_alertchannel_changelist", "pipelines.view_alertchannel"),
            ("Alerts", "notification_important", "admin:runs_alert_changelist", "runs.view_alert"),
            ("Deliveries", "outgoing_mail", "admin:runs_alertdelivery_changelist", "runs.view_alertdelivery"),
        ),
    ),
    ("History", (("Runs", "history", "admin:runs_run_changelist", "runs.view_run"),)),
    (
        "People",
        (
            ("Users", "person", "admin:auth_user_changelist", "auth.view_user"),
            ("Groups", "group", "admin:auth_group_changelist", "auth.view_group"),
        ),
    ),
)


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """The groups of the sidebar, as unfold reads them, with what this person may see."""
    groups = []
    for title, entries in GROUPS:
        items = [_item(*entry[:3]) for entry in entries if request.user.has_perm(entry[3])]
        if items:
            groups.append({"title": title, "items": items})
    return groups


def _item(title: str, icon: str, view: str) -> dict[str, Any]:
    item: dict[str, Any] = {"title": title, "icon": icon, "link": reverse(view)}
    # The dashboard's address is the beginning of every other, which unfold takes for being there.
    return item if view.startswith("admin:") else {**item, "active": False}
