"""History in the admin, to look at; and what the pipelines' admin may do once runs can be started."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from connectors.counts import counted
from pipelines.admin.links import POST_LINK, ask_first, change_url
from pipelines.admin.pipelines import PipelineAdmin
from pipelines.models import Pipeline
from runs import asking, page_queries, part_queries, receipts, services
from runs.alerts import admin as alerts_admin
from runs.look_admin import DatasetRuleAdmin
from runs.models import Attempt, PartLoad, Run, RunAction, Trigger
from runs.pool_admin import PoolAdmin
from runs.states import RunStatus

__all__ = ["DatasetRuleAdmin", "PoolAdmin", "RunAdmin", "RunnablePipelineAdmin", "alerts_admin"]

CLEARED_AT_ONCE, NAMED = 500, 5
MORE_RUNS = ["compare", "full_refresh", "backfill", "set_watermark", "undo"]
STATUS_COLOURS = {
    RunStatus.BLOCKED.value: "warning",
    RunStatus.QUEUED.value: "info",
    RunStatus.RUNNING.value: "primary",
    RunStatus.RETRYING.value: "warning",
    RunStatus.HELD.value: "warning",
    RunStatus.RESOLVING.value: "warning",
    RunStatus.SUCCEEDED.value: "success",
    RunStatus.FAILED.value: "danger",
    RunStatus.CANCELLED.value: "info",
}


class ReadOnly:
    """History is looked at: nobody adds to it, changes it or takes from it."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission


class AttemptInline(ReadOnly, TabularInline):
    model = Attempt
    fields = ("number", "worker", "started_at", "ended_at", "how_it_ended", "error_code", "error_message")
    readonly_fields = ("how_it_ended",)
    hide_title = True
    tab = True

    @display(description="outcome")
    def how_it_ended(self, attempt: Attempt) -> str:
        return part_queries.outcome_in_words(attempt, attempt.run)


class PartInline(ReadOnly, TabularInline):
    """Of the plan that was made last; a page at a time, for there may be hundreds."""

    model = PartLoad
    verbose_name = "part"
    fields = ("part", "name", "status", "worker", "rows", "estimated_rows", "failures", "losses", "error_message")
    readonly_fields = ("part",)
    hide_title = True
    tab = True
    per_page = 50

    @display(description="part")
    def part(self, part: PartLoad) -> int:
        return part.number + 1


@admin.register(Run)
class RunAdmin(ReadOnly, ModelAdmin):
    list_display = ("created_at", "pipeline", "status_badge", "action", "trigger", "rows", "started_at", "finished_at")
    list_filter = (
        ("status", ChoicesDropdownFilter),
        ("action", ChoicesDropdownFilter),
        ("trigger", ChoicesDropdownFilter),
        ("pipeline", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("pipeline",)
    search_fields = ("=id", "pipeline__name", "=error_code")
    search_help_text = "A run's id, a pipeline's name, or an error's code."
    show_full_result_count = False
    inlines = (AttemptInline, PartInline)
    fieldsets = (
        (None, {"fields": ("page", "pipeline", "revision", "status", "step", "phase", "how_parts_stand")}),
        ("Asked for", {"fields": ("action", "action_options", "trigger", "requested_by")}),
        ("Times", {"fields": ("created_at", "scheduled_for", "due", "started_at", "finished_at")}),
        ("Moved", {"fields": ("rows", "bytes", "what_it_did")}),
        ("Error", {"fields": ("error_code", "error_message", "error_hint")}),
        ("Owner", {"fields": ("worker", "attempt", "token", "lease_until", "cancel_requested", "cancelled_by")}),
    )
    readonly_fields = ("page", "how_parts_stand", "what_it_did")
    actions = ("clear",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        """In the list of all runs micro-batches are left out: no index has them in their order with the others."""
        found = super().get_queryset(request)
        is_list = getattr(request.resolver_match, "url_name", "") == "runs_run_changelist"
        asked = (name.partition("__")[0] in ("q", "status", "trigger", "pipeline") for name in request.GET)
        return found.exclude(trigger=Trigger.REALTIME) if is_list and not any(asked) else found

    def has_run_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("pipelines.run_pipeline")

    @admin.action(description="Clear: try failed and cancelled ones again", permissions=["run"])
    def clear(self, request: HttpRequest, queryset: QuerySet[Run]) -> None:
        """Oldest first, as the same runs; what is not to be cleared is told and holds up no other.

        Loads only: anything else that somebody asked for once is to be asked for anew.
        """
        clearable = queryset.filter(action=RunAction.LOAD, status__in=(RunStatus.FAILED, RunStatus.CANCELLED))
        found, others = clearable.count(), queryset.count() - clearable.count()
        cleared, refusals = 0, defaultdict(list)
        for run in clearable.order_by("created_at")[:CLEARED_AT_ONCE]:
            try:
                services.clear_run(run, by=request.user)
            except services.RunRefused as refused:
                refusals[f"{refused.message} {refused.hint}".strip()].append(str(run))
            else:
                cleared += 1
        for why, whose in refusals.items():
            more = f" and {len(whose) - NAMED} more" if len(whose) > NAMED else ""
            messages.error(request, f"{', '.join(whose[:NAMED])}{more}: {why}")
        if cleared:
            messages.success(request, f"{cleared} run{'' if cleared == 1 else 's'} cleared.")
        if others:
            messages.warning(request, f"Left as they are: {others:,}. Failed and cancelled loads are cleared here.")
        if found > CLEARED_AT_ONCE:
            messages.warning(request, f"Left for the next time: {found - CLEARED_AT_ONCE:,}.")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Run], search_term: str
    ) -> tuple[QuerySet[Run], bool]:
        """Each way of searching has an index, which one condition over both tables would not use."""
        if not (term := search_term.strip()):
            return queryset, False
        try:
            return queryset.filter(pk=UUID(term)), False
        except ValueError:
            named = list(Pipeline.objects.filter(name__icontains=term).values_list("pk", flat=True))
            failed = Q(status=RunStatus.FAILED, error_code=term)
            return queryset.filter(Q(pipeline__in=named) | failed), False

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def status_badge(self, run: Run) -> tuple[str, str]:
        return run.status, run.get_status_display()

    @display(description="parts")
    def how_parts_stand(self, run: Run) -> str:
        counts = part_queries.counts_of([run]).get(run.pk)
        return counts.in_words(run) if counts else "It is not loaded in parts."

    @display(description="receipt")
    def what_it_did(self, run: Run) -> SafeString | str:
        """Without rows that a comparison found: its page shows those to whom it may."""
        return format_html(
            '<pre class="receipt">{}</pre>', json.dumps(receipts.public(run), indent=2, ensure_ascii=False)
        )

    @display(description="live page")
    def page(self, run: Run) -> SafeString:
        return format_html('<a class="text-link" href="{}">Progress and log</a>', run.get_absolute_url())


admin.site.unregister(Pipeline)


@admin.register(Pipeline)
class RunnablePipelineAdmin(PipelineAdmin):
    """The pipelines' admin with runs: start them, and keep what has a history."""

    actions = ("run_now", *PipelineAdmin.actions)
    actions_detail = (
        "run_one_now",
        # In a menu: all of them side by side are wider than a screen.
        {"title": "More runs", "icon": "more_horiz", "items": MORE_RUNS},
        *PipelineAdmin.actions_detail,
    )
    readonly_fields = ("watermark",)

    def get_fieldsets(self, request: HttpRequest, obj: Pipeline | None = None) -> Any:
        """What the target has so far stands beside what decides on it."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or not obj.incremental:
            return fieldsets
        return [
            (
                title,
                {**options, "fields": (*options["fields"], "watermark")}
                if "incremental" in options["fields"]
                else options,
            )
            for title, options in fieldsets
        ]

    @display(description="watermark")
    def watermark(self, pipeline: Pipeline) -> str:
        return page_queries.watermark_of(pipeline) or "None yet."

    @admin.action(description="Run now", permissions=["run"])
    def run_now(self, request: HttpRequest, queryset: QuerySet[Pipeline]) -> None:
        started = 0
        for pipeline in queryset:
            try:
                services.request_run(pipeline, trigger=Trigger.MANUAL, by=request.user)
            except services.RunRefused as refused:
                messages.error(request, f"{refused.message} {refused.hint}".strip())
            else:
                started += 1
        if started:
            messages.success(request, f"{started} run{'' if started == 1 else 's'} requested.")

    @action(
        description="Run now",
        icon="play_arrow",
        url_path="run-now",
        permissions=["run"],
        variant=ActionVariant.PRIMARY,
        attrs=POST_LINK,
    )
    def run_one_now(self, request: HttpRequest, object_id: str) -> HttpResponse:
        pipeline = self.pipeline_or_404(request, object_id)
        text = "It runs as it was last saved."
        asked = ask_first(self, request, title=f"Run {pipeline.name} now?", text=text, back=change_url(pipeline))
        if asked is not None:
            return asked
        try:
            run, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=request.user)
        except services.RunRefused as refused:
            messages.error(request, f"{refused.message} {refused.hint}".strip())
            return HttpResponseRedirect(change_url(pipeline))
        return HttpResponseRedirect(run.get_absolute_url())

    @action(description="Full refresh", icon="restart_alt", url_path="full-refresh", permissions=["run"])
    def full_refresh(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._start(request, object_id, "full-refresh")

    @action(description="Backfill", icon="history", url_path="backfill", permissions=["run"])
    def backfill(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The page that asks for a range, and says what it takes."""
        return HttpResponseRedirect(reverse("backfill_pipeline", args=[self.pipeline_or_404(request, object_id).pk]))

    @action(description="Set watermark", icon="flag", url_path="set-watermark", permissions=["run"])
    def set_watermark(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._start(request, object_id, "watermark")

    @action(description="Undo", icon="undo", url_path="undo", permissions=["run"])
    def undo(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The page that tells what is kept, and asks."""
        return HttpResponseRedirect(reverse("undo_pipeline", args=[self.pipeline_or_404(request, object_id).pk]))

    def _start(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """To the page that says what will be done, and does it once somebody says yes."""
        pipeline = self.pipeline_or_404(request, object_id)
        if asking.ask(pipeline, name) is None:
            messages.error(request, f"{pipeline.name} reads all rows every time: there is no watermark to set.")
            return HttpResponseRedirect(change_url(pipeline))
        return HttpResponseRedirect(reverse("start_action", args=[pipeline.pk, name]))

    @action(description="Compare with source", icon="compare_arrows", url_path="compare", permissions=["run"])
    def compare(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The page that tells the cost and asks."""
        return HttpResponseRedirect(reverse("compare_pipeline", args=[self.pipeline_or_404(request, object_id).pk]))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, Any, Any]:
        """A pipeline with runs, or with bills that are kept, is archived: those are counted here, not listed."""
        chosen = Pipeline.objects.filter(pk__in=[pipeline.pk for pipeline in objs])
        protected = []
        for of, name in (("runs", "run"), ("ledger", "ledger line")):
            found = chosen.filter(**{f"{of}__isnull": False}).annotate(count=Count(of)).order_by("name")
            protected += [
                format_html('<a class="text-link" href="{}">{}</a>: {}', change_url(p), p.name, counted(p.count, name))
                for p in found
            ]
        if protected:
            return [], {}, set(), protected
        return super().get_deleted_objects(objs, request)
