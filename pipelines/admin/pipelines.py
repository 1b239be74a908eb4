"""Pipelines: what to move, how and when."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import Script
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin, StackedInline
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter, RelatedDropdownFilter
from unfold.decorators import action, display

from pipelines import prices, quarantines, queries, services, sql_rights, upcoming
from pipelines.admin import folds
from pipelines.admin.actions import PipelineActions
from pipelines.admin.add_tables import AddTables
from pipelines.admin.checks import CheckInline
from pipelines.admin.dependencies import DependencyInline
from pipelines.admin.endpoints import PipelineEndpoints, endpoint_addresses
from pipelines.admin.links import POST_LINK, ask_first, change_url, list_url
from pipelines.admin.meaning import meaning_of
from pipelines.admin.revisions import RevisionInline, RevisionPages
from pipelines.forms.checks import CheckFormSet
from pipelines.forms.dependencies import DependencyFormSet
from pipelines.forms.pipelines import PipelineForm, destinations, sentence, sources
from pipelines.forms.schedules import ScheduleForm, ScheduleFormSet
from pipelines.models import Pipeline, PipelineState, Schedule
from pipelines.objections import PipelineRefused
from pipelines.realtime import is_realtime
from pipelines.specs import ScheduleSpec

STATE_COLOURS = {
    PipelineState.ACTIVE.value: "success",
    PipelineState.PAUSED.value: "warning",
    PipelineState.ARCHIVED.value: "info",
}


class StateFilter(DropdownFilter):
    """By state; archived pipelines show only when they are asked for."""

    title = "state"
    parameter_name = "state"
    all_option = ("", "Active and paused")

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin) -> list[tuple[str, str]]:
        return [*PipelineState.choices, ("all", "All")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Pipeline]) -> QuerySet[Pipeline]:
        if self.value() == "all":
            return queryset
        if self.value() in PipelineState.values:
            return queryset.filter(state=self.value())
        return queryset.exclude(state=PipelineState.ARCHIVED)


class ScheduleInline(StackedInline):
    """The rules in force; those that ended stay in the history of their ticks."""

    model = Schedule
    form = ScheduleForm
    formset = ScheduleFormSet
    fields = (
        *("kind", "cron", "every_s", "zone", ("active_from", "active_until"), ("calendar", "jitter_s")),
        "meaning",
    )
    readonly_fields = ("meaning",)
    extra = 0

    def get_queryset(self, request: HttpRequest) -> QuerySet[Schedule]:
        return super().get_queryset(request).filter(pk__in=queries.current_schedules())

    def get_extra(self, request: HttpRequest, obj: Pipeline | None = None, **kwargs: Any) -> int:
        """An empty one to start with, so that the first schedule needs no script."""
        return 0 if obj and queries.current_schedules().filter(pipeline=obj).exists() else 1

    @display(description="Meaning")
    def meaning(self, schedule: Schedule) -> SafeString:
        return meaning_of(None if schedule._state.adding else ScheduleSpec.of(schedule))

    # A schedule is a part of its pipeline: who may change the one may change the other.
    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("pipelines.view_pipeline") or self.has_change_permission(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("pipelines.change_pipeline" if obj else "pipelines.add_pipeline")

    has_add_permission = has_delete_permission = has_change_permission


@admin.register(Pipeline)
class PipelineAdmin(PipelineActions, AddTables, PipelineEndpoints, RevisionPages, ModelAdmin):
    form = PipelineForm
    inlines = (ScheduleInline, DependencyInline, CheckInline, RevisionInline)
    list_display = ("name", "state_badge", "route", "write_disposition", "when", "next_tick")
    list_filter = (
        StateFilter,
        ("source", RelatedDropdownFilter),
        ("destination", RelatedDropdownFilter),
        ("pool", RelatedDropdownFilter),
        ("priority", ChoicesDropdownFilter),
    )
    list_filter_submit = True
    search_fields = ("name", "description", "source_table", "source_query", "target_schema", "target_table")
    actions = ("pause", "resume", "set_schedule", "set_limits", "archive")
    actions_list = ("add_tables",)
    actions_detail = ("duplicate", "archive_one")
    delete_confirmation_template = "admin/desk/pipeline_delete.html"
    delete_selected_confirmation_template = "admin/desk/pipeline_delete.html"
    change_form_before_template = "admin/desk/pipeline_form.html"
    warn_unsaved_form = True
    fieldsets = (
        (None, {"fields": ("name", "description", "state")}),
        ("Source", {"fields": ("source", "source_table", "source_query", "row_filter", "parameters")}),
        (
            "Destination",
            {"fields": ("destination", "target_schema", "target_table", "adopt_target", "write_disposition")},
        ),
        ("Which rows are the same", {"fields": ("merge_key", "cursor_column")}),
        ("Rows that vanish", {"fields": ("deletes",)}),
        ("Only new rows", {"fields": ("incremental", "lookback", "settle", "initial_value")}),
        ("Guards", {"fields": ("guard_zero_rows", "guard_shrink_percent", "held_days")}),
        ("Undo", {"fields": ("undo_depth",)}),
        ("Columns", {"fields": ("column_rules", "text_policy")}),
        ("Changes of the source's columns", {"fields": ("schema_policy",)}),
        ("Quarantine", {"fields": quarantines.FIELDS}),
        (
            "Key, indexes, partitions",
            {"fields": ("primary_key", "indexes", "partition_column", "partition_unit", "analyze")},
        ),
        (
            "Near real time",
            {"fields": ("mode", "poll_every_s", "stream_every_s", "force_read_every")},
        ),
        ("SQL around the load", {"fields": ("sql_before", "sql_after", "sql_role", "sql_limit_s")}),
        ("When the source changes", {"fields": ("watch_every_s",)}),
        ("Priority and limits", {"fields": ("priority", "pool", "time_limit_s", "load_method")}),
        ("Budget", {"fields": ("run_budget_bytes", "month_budget_bytes")}),
        ("Retries", {"fields": ("retries", "retry_delay_s", "give_up_after_s")}),
        ("When ticks meet or are missed", {"fields": ("overlap", "missed")}),
    )

    class Media:
        css = {"all": ("admin_desk/desk.css",)}
        js = (Script("admin_desk/pipeline.js", type="module"),)

    # The list ---------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[Pipeline]:
        # Nothing here needs a secret, and reading one costs a decryption.
        return queries.pipelines_with_parts().order_by("name").defer("source__secrets", "destination__secrets")

    @display(description="state", ordering="state", label=STATE_COLOURS)
    def state_badge(self, pipeline: Pipeline) -> tuple[str, str]:
        return pipeline.state, pipeline.get_state_display()

    @display(description="source → destination", ordering="source__name")
    def route(self, pipeline: Pipeline) -> SafeString:
        what = pipeline.source_table or "query"
        target = f"{pipeline.target_schema}.{pipeline.target_table}"
        text = '<span class="desk-route"><span>{}: {}</span> <span>→ {}: {}</span></span>'
        return format_html(text, pipeline.source, what, pipeline.destination, target)

    @display(description="schedule")
    def when(self, pipeline: Pipeline) -> str:
        words = [ScheduleSpec.of(schedule).words for schedule in pipeline.current_schedules]  # type: ignore[attr-defined]
        if is_realtime(pipeline):
            words.insert(0, f"Near real time, every {pipeline.poll_every_s} s")
        return "; ".join(words) or "By hand"

    @display(description="next")
    def next_tick(self, pipeline: Pipeline) -> str:
        """The next tick, on the clocks of the schedule it comes from."""
        found = upcoming.next_of(pipeline.current_schedules)  # type: ignore[attr-defined]
        if pipeline.state != PipelineState.ACTIVE or found is None:
            return "-"
        tick, zone = found
        return f"{tick.astimezone(ZoneInfo(zone)):%a %d %b, %H:%M %Z}"

    # The form ---------------------------------------------------------------------------------

    def get_fieldsets(self, request: HttpRequest, obj: Pipeline | None = None) -> Any:
        """What most pipelines leave as it is stands folded, as long as this one does."""
        return folds.folded(super().get_fieldsets(request, obj), obj)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """After an error, nothing of what was typed is folded away."""
        form = context["adminform"]
        if context["errors"]:
            form.fieldsets = folds.opened(form.fieldsets, set(form.form.changed_data))
        return super().render_change_form(request, context, *args, **kwargs)

    def get_readonly_fields(self, request: HttpRequest, obj: Pipeline | None = None) -> Any:
        """SQL around the load is written by those who may."""
        fields = super().get_readonly_fields(request, obj)
        return fields if sql_rights.may_write(request.user) else (*fields, *sql_rights.FIELDS)

    def get_form(self, request: HttpRequest, obj: Pipeline | None = None, change: bool = False, **kwargs: Any) -> Any:
        """A class of this request's own, which knows who fills it in."""
        form = super().get_form(request, obj, change, **kwargs)
        form.by = request.user
        return form

    def get_inlines(self, request: HttpRequest, obj: Pipeline | None) -> tuple[Any, ...]:
        return self.inlines if obj else (ScheduleInline, DependencyInline, CheckInline)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        choices = {"source": sources, "destination": destinations}.get(db_field.name)
        if choices is not None:
            kwargs["queryset"] = choices()
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        more = {"desk_urls": endpoint_addresses(), "zones": sorted(available_timezones())}
        try:
            return super().changeform_view(request, object_id, form_url, {**more, **(extra_context or {})})
        except PipelineRefused as refused:
            # Somebody took the name or the target between our check and the save.
            messages.error(request, sentence(refused))
            return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: HttpRequest, obj: Pipeline, form: PipelineForm, change: bool) -> None:
        """Nothing yet: pipeline and schedules are saved together, see `save_related`."""

    def save_related(self, request: HttpRequest, form: PipelineForm, formsets: list[Any], change: bool) -> None:
        specs = next((formset.specs() for formset in formsets if isinstance(formset, ScheduleFormSet)), None)
        keep_state = "state" not in form.changed_data
        waits_for = next((formset.specs() for formset in formsets if isinstance(formset, DependencyFormSet)), None)
        checks = next((formset.specs() for formset in formsets if isinstance(formset, CheckFormSet)), None)
        services.save_pipeline(
            form.instance,
            schedules=specs,
            dependencies=waits_for,
            checks=checks,
            by=request.user,
            keep_state=keep_state,
        )
        for warning in form.warnings:
            messages.warning(request, warning)
        cost = prices.outlook(form.instance)
        if cost is not None:
            messages.info(request, " ".join(cost.lines()))

    def delete_model(self, request: HttpRequest, obj: Pipeline) -> None:
        """Archived first: that takes down its schedules and what stands for them."""
        services.archive([obj], by=request.user)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Pipeline]) -> None:
        services.archive(queryset, by=request.user)
        super().delete_queryset(request, queryset)

    def construct_change_message(
        self, request: HttpRequest, form: PipelineForm, formsets: list[Any], add: bool = False
    ) -> Any:
        """The pipeline's own fields: what its schedules were is in its revisions."""
        return super().construct_change_message(request, form, [], add)

    # Object actions ---------------------------------------------------------------------------

    @action(description="Duplicate", icon="content_copy", permissions=["add"], attrs=POST_LINK)
    def duplicate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        pipeline = self.pipeline_or_404(request, object_id)
        asked = ask_first(
            self,
            request,
            title=f"Duplicate {pipeline.name}?",
            text="The copy is paused and writes to a table of its own.",
            back=change_url(pipeline),
        )
        if asked is not None:
            return asked
        try:
            copy = services.duplicate(pipeline, by=request.user)
        except PipelineRefused as refused:
            messages.error(request, sentence(refused))
            return HttpResponseRedirect(change_url(pipeline))
        self.log_addition(request, copy, f"Duplicated from {pipeline.name}.")
        messages.success(request, f"{copy.name} is a paused copy of {pipeline.name}.")
        return HttpResponseRedirect(change_url(copy))

    @action(description="Archive", icon="inventory_2", url_path="archive", permissions=["change"], attrs=POST_LINK)
    def archive_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        pipeline = self.pipeline_or_404(request, object_id)
        asked = ask_first(
            self,
            request,
            title=f"Archive {pipeline.name}?",
            text="It runs no more and leaves the lists; its runs, logs and revisions stay." + _what_stays(pipeline),
            back=change_url(pipeline),
        )
        if asked is not None:
            return asked
        services.archive([pipeline], by=request.user)
        messages.success(request, f"{pipeline.name} is archived.")
        return HttpResponseRedirect(list_url(Pipeline))

    # Pages ------------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        return [*self.revision_urls(), *self.endpoint_urls(), *super().get_urls()]


def _what_stays(pipeline: Pipeline) -> str:
    if not pipeline.undo_depth:
        return ""
    return " Former tables that are kept for an undo stay as well: its page leads to where they are dropped."
