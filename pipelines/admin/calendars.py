"""Calendars of times without runs."""

from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from pipelines import calendars, schedules
from pipelines.admin.links import change_url
from pipelines.forms.calendars import CalendarForm
from pipelines.models import Calendar, Pipeline

SHOWN = 20
IN_FORCE = Q(schedules__ends_at__isnull=True, schedules__isnull=False)


@admin.register(Calendar)
class CalendarAdmin(ModelAdmin):
    form = CalendarForm
    list_display = ("name", "zone", "lines", "now", "used_by", "description")
    search_fields = ("name", "description")
    readonly_fields = ("now", "pipelines")
    delete_confirmation_template = "admin/desk/connection_delete.html"
    delete_selected_confirmation_template = "admin/desk/connection_delete.html"
    change_form_before_template = "admin/desk/zones.html"
    warn_unsaved_form = True

    class Media:
        css = {"all": ("admin_desk/desk.css",)}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Calendar]:
        used_by = Count("schedules__pipeline", filter=IN_FORCE, distinct=True)
        return Calendar.objects.annotate(used_by=used_by).order_by("name")

    def get_fieldsets(self, request: HttpRequest, obj: Calendar | None = None) -> Any:
        own = (None, {"fields": ("name", "zone", "closed", "description")})
        return [own, ("Now", {"fields": ("now", "pipelines")})] if obj else [own]

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        more = {"zones": sorted(available_timezones()), **(extra_context or {})}
        return super().changeform_view(request, object_id, form_url, more)

    def save_model(self, request: HttpRequest, obj: Calendar, form: CalendarForm, change: bool) -> None:
        calendars.save_calendar(obj, by=request.user)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, set[str], list[Any]]:
        """Pipelines whose schedules go by a calendar protect it."""
        found, counts, lacking, _ = super().get_deleted_objects(objs, request)
        using = Pipeline.objects.filter(schedules__calendar__in=objs, schedules__ends_at__isnull=True).distinct()
        links = [format_html('<a href="{}">{}</a>', change_url(pipeline), pipeline) for pipeline in using]
        return found, counts, lacking, links

    def delete_model(self, request: HttpRequest, obj: Calendar) -> None:
        try:
            calendars.delete_calendar(obj)
        except calendars.PipelineRefused as refused:
            # A schedule was saved with it since the question was asked.
            messages.error(request, f"{refused.message} {refused.hint}")

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Calendar]) -> None:
        for calendar in queryset:
            self.delete_model(request, calendar)

    @display(description="lines")
    def lines(self, calendar: Calendar) -> int:
        return len(calendar.closed)

    @display(description="now")
    def now(self, calendar: Calendar) -> str:
        try:
            closed = calendar.closures.at(timezone.now())
        except schedules.RuleError as error:
            return error.message
        return f"No runs: {closed.note}" if closed and closed.note else "No runs" if closed else "Open"

    @display(description="pipelines", ordering="used_by")
    def used_by(self, calendar: Calendar) -> int:
        return calendar.used_by  # type: ignore[attr-defined]

    @display(description="pipelines")
    def pipelines(self, calendar: Calendar) -> SafeString | str:
        """Those whose schedules go by it."""
        using = Pipeline.objects.filter(schedules__calendar=calendar, schedules__ends_at__isnull=True).distinct()
        shown = [(change_url(pipeline), pipeline) for pipeline in using.order_by("name")[:SHOWN]]
        more = f" and {count - SHOWN} more" if (count := using.count()) > SHOWN else ""
        links = format_html_join(", ", '<a class="text-link" href="{}">{}</a>', shown)
        return format_html("{}{}", links, more) if shown else "None"
