"""What is done to many pipelines at once."""

from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from pipelines import services
from pipelines.admin.endpoints import endpoint_addresses
from pipelines.admin.links import list_url, page_context
from pipelines.forms.limits import LimitsForm
from pipelines.forms.schedules import ScheduleForm
from pipelines.models import Pipeline, PipelineState
from pipelines.specs import ScheduleSpec

SCHEDULE = "schedule"
LIMITS = "limits"


class PipelineActions:
    """Mixed into the pipelines' admin; "run" is the permission to start, pause and resume."""

    def has_run_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("pipelines.run_pipeline")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As everywhere; unfold's object actions give an object, too."""
        return super().has_add_permission(request)  # type: ignore[misc]

    def pipeline_or_404(self, request: HttpRequest, object_id: str) -> Pipeline:
        pipeline = self.get_object(request, object_id)
        if pipeline is None:
            raise Http404
        return pipeline

    @admin.action(description="Pause", permissions=["run"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Pipeline]) -> None:
        self._report(request, services.pause(queryset, by=request.user), "paused")

    @admin.action(description="Resume", permissions=["run"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Pipeline]) -> None:
        self._report(request, services.resume(queryset, by=request.user), "resumed")

    @admin.action(description="Archive", permissions=["change"])
    def archive(self, request: HttpRequest, queryset: QuerySet[Pipeline]) -> None:
        self._report(request, services.archive(queryset, by=request.user), "archived")

    @admin.action(description="Set schedule…", permissions=["change"])
    def set_schedule(self, request: HttpRequest, queryset: QuerySet[Pipeline]) -> HttpResponse | None:
        """Ask for one rule, then give it to every chosen pipeline in place of those it has."""
        if "remove" in request.POST:
            return self._give_schedules(request, queryset, [])
        form = ScheduleForm(request.POST if "apply" in request.POST else None, prefix=SCHEDULE)
        if form.is_bound and form.is_valid():
            return self._give_schedules(request, queryset, [form.spec])
        context = page_context(
            self,
            request,
            "Set schedule",
            form=form,
            pipelines=queryset,
            checkbox=ACTION_CHECKBOX_NAME,
            back=list_url(Pipeline),
            desk_urls=endpoint_addresses(),
            zones=sorted(available_timezones()),
        )
        return TemplateResponse(request, "admin/desk/set_schedule.html", context)

    @admin.action(description="Set priority and pool…", permissions=["change"])
    def set_limits(self, request: HttpRequest, queryset: QuerySet[Pipeline]) -> HttpResponse | None:
        """Ask for both, then give them to every chosen pipeline; what is not chosen stays as it is."""
        form = LimitsForm(request.POST if "apply" in request.POST else None, prefix=LIMITS)
        if form.is_bound and form.is_valid():
            self._report(request, services.set_limits(queryset, **form.chosen, by=request.user), "changed")
            return None
        context = page_context(
            self,
            request,
            "Set priority and pool",
            form=form,
            pipelines=queryset,
            checkbox=ACTION_CHECKBOX_NAME,
            back=list_url(Pipeline),
        )
        return TemplateResponse(request, "admin/desk/set_limits.html", context)

    def _give_schedules(self, request: HttpRequest, pipelines: QuerySet[Pipeline], specs: list[ScheduleSpec]) -> None:
        changed = 0
        for pipeline in pipelines.exclude(state=PipelineState.ARCHIVED):
            services.save_pipeline(pipeline, schedules=specs, by=request.user, keep_state=True)
            self.log_change(request, pipeline, "Set schedule.")
            changed += 1
        self._report(request, changed, "given the schedule" if specs else "left without a schedule")

    def _report(self, request: HttpRequest, count: int, done: str) -> None:
        level = messages.SUCCESS if count else messages.WARNING
        self.message_user(request, f"{count} pipeline{'' if count == 1 else 's'} {done}.", level)
