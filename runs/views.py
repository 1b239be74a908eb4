"""Pages that show runs, and buttons that start and stop them: check, call one service or query, present."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django import forms
from django.contrib import messages
from django.db import Error, connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache

from pipelines import given
from pipelines import services as pipeline_services
from pipelines.columns import known_columns
from pipelines.models import Pipeline
from pipelines.realtime import is_realtime
from runs import (
    asking,
    board_queries,
    check_queries,
    comparisons,
    costs,
    freshness,
    graph_queries,
    live,
    page_queries,
    part_queries,
    queries,
    realtime_queries,
    receipts,
    schema_changes,
    services,
    upstream_waits,
    values,
)
from runs.alerts.queries import open_alerts_of
from runs.models import Decision, Run, RunAction, Trigger
from runs.page_access import action, asks, back, data, page, render_live, seen_attempt
from runs.page_forms import ComparisonForm, ConfirmForm, PipelinesFilter, RunsFilter, WatermarkForm

# How often a run's page asks whether it missed anything: where it is told of what happens, and where not.
CHECK_PUSHED_MS, CHECK_MS = 15_000, 2_000
LOG_SHOWN = 500
LOG_FETCHED = 1000
RUNS_LISTED = 20


# Pages ----------------------------------------------------------------------------------------


@page("runs.view_run")
def dashboard(request: HttpRequest) -> HttpResponse:
    return render_live(request, "dashboard", {"board": board_queries.dashboard()})


@page("runs.view_run")
def monitor(request: HttpRequest) -> HttpResponse:
    return render_live(request, "monitor", {"monitor": board_queries.monitor()})


@page("pipelines.view_pipeline")
def pipelines(request: HttpRequest) -> HttpResponse:
    form = PipelinesFilter(request.GET)
    found, cards = page_queries.pipelines_page(request.GET.get("page", ""), **form.wanted())
    return render(request, "pipelines.html", {"form": form, "page": found, "cards": cards})


@page("pipelines.view_pipeline")
def pipeline(request: HttpRequest, pk: UUID) -> HttpResponse:
    pipeline = get_object_or_404(Pipeline.objects.select_related("source", "destination", "revision"), pk=pk)
    runs = page_queries.runs_of(pipeline)
    moves = [run for run in runs if run.moves_rows]
    changes = schema_changes.newest_of(pipeline)
    context = {
        "pipeline": pipeline,
        "watermark": page_queries.watermark_of(pipeline) if pipeline.incremental else "",
        "actions": asking.actions_of(pipeline),
        "kept": page_queries.kept_of(pipeline) if pipeline.undo_depth else None,
        "takes_values": given.takes_values(pipeline),
        "backfills": pipeline.backfills.order_by("-created_at")[:5],
        "parameters": given.declared_by(pipeline).values(),
        "runs": moves[::-1],
        "places": page_queries.CHART if len(moves) > page_queries.CHART / 2 else page_queries.CHART // 2,
        "newest": runs[:RUNS_LISTED],
        "schedules": page_queries.schedule_views(pipeline),
        "lookout": page_queries.lookout_of(pipeline),
        "realtime": realtime_queries.standing_of(pipeline),
        "fresh_loads": freshness.picture_of(pipeline) if is_realtime(pipeline) else None,
        "neighbours": graph_queries.neighbours_of(pipeline),
        "skips": page_queries.skips_of(pipeline),
        "changes": page_queries.revisions_of(pipeline),
        "preflight": known_columns(pipeline, schema_changes.names_of(changes)),
        "schema_changes": changes,
        "checks": check_queries.histories_of(pipeline),
        "alerts": open_alerts_of(pipeline),
        "cost": costs.of_pipeline(pipeline),
    }
    return render_live(request, "pipeline", context)


@asks
def start_action(request: HttpRequest, pk: UUID, name: str) -> HttpResponse:
    """Say what an action will do, and start a run that does it once somebody says yes."""
    pipeline = get_object_or_404(Pipeline.objects.select_related("source", "destination", "revision"), pk=pk)
    asked = asking.ask(pipeline, name)
    if asked is None:
        raise Http404
    form: forms.Form | None = None
    if asked.confirm:
        form = ConfirmForm(request.POST if request.method == "POST" else None, label=asked.confirm)
    if asked.takes_value:
        form = WatermarkForm(request.POST or None, initial={"watermark": asked.watermark}, pipeline=pipeline)
    if request.method == "POST" and (form is None or form.is_valid()):
        try:
            run, _ = services.request_run(
                pipeline,
                trigger=Trigger.MANUAL,
                by=request.user,
                action=asked.action,
                options=form.cleaned_data if form and asked.takes_value else {},
                force=bool(asked.confirm),
            )
        except services.RunRefused as refused:
            return _say_refused(request, refused, pipeline)
        messages.success(request, "The run is on its way.")
        return redirect(run)
    return render(request, "ask.html", {"pipeline": pipeline, "asked": asked, "form": form})


@asks
def compare_pipeline(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Say what a comparison reads and costs, and start it once somebody says yes."""
    pipeline = get_object_or_404(Pipeline.objects.select_related("source", "destination", "revision"), pk=pk)
    form = ComparisonForm(request.POST or None, pipeline=pipeline)
    if request.method == "POST" and form.is_valid():
        try:
            run, _ = services.request_run(
                pipeline, trigger=Trigger.MANUAL, by=request.user, action=RunAction.COMPARE, options=form.options()
            )
        except services.RunRefused as refused:
            return _say_refused(request, refused, pipeline)
        messages.success(request, "The comparison is on its way.")
        return redirect(run)
    cost = comparisons.cost_of(pipeline)
    form = ComparisonForm(request.POST or None, pipeline=pipeline, cost=cost)
    context = {"pipeline": pipeline, "form": form, "cost": cost, "snapshot": comparisons.snapshot_of(pipeline)}
    return render(request, "compare.html", context)


@page("runs.view_run")
def runs(request: HttpRequest) -> HttpResponse:
    form = RunsFilter(request.GET)
    position = {"before": request.GET.get("before", ""), "after": request.GET.get("after", "")}
    found = page_queries.runs_page(**form.wanted(), **position)
    return render(request, "runs.html", {"form": form, "found": found})


@page("runs.view_run")
def run(request: HttpRequest, pk: UUID) -> HttpResponse:
    related = ("pipeline__source", "pipeline__destination", "revision", "requested_by", "cancelled_by", "schedule")
    related += ("done_mark__by",)
    run = get_object_or_404(Run.objects.select_related(*related), pk=pk)
    parts = part_queries.picture_of(run)
    context: dict[str, Any] = {
        "run": run,
        "state": queries.run_state(run, parts),
        "parts": parts,
        "attempts": list(run.attempts.all()),
        "values": values.shown(run),
        "cost": costs.of_run(run),
        "target": values.target_of_run(run),
        "upstreams": upstream_waits.prerequisites_of(run),
        "chain": services.runs_of_chain(run),
        "checks": check_queries.results_of(run),
    }
    if run.action == RunAction.COMPARE and run.receipt:
        may_see_rows = request.user.has_perm("pipelines.run_pipeline")
        context["comparison"] = comparisons.show(run.receipt, with_rows=may_see_rows)
        run.agrees = json.dumps(run.receipt["agrees"])  # as lists have it
    if not request.headers.get("X-Fragment"):
        # Read after the state: at least the lines that it counts.
        lines = context["lines"] = page_queries.log_lines_before(pk, count=LOG_SHOWN)
        context["page"] = {
            "pipeline": run.pipeline.name,
            "state": context["state"],
            "last": lines[-1].seq if lines else context["state"]["last_seq"],
            "attempt": lines[-1].attempt if lines else 0,
            "batch": LOG_FETCHED,
            "log_url": reverse("run_log", args=[pk]),
            "socket_path": f"/ws/runs/{pk}/",
            "check_ms": CHECK_PUSHED_MS if live.is_pushed() else CHECK_MS,
        }
    return render_live(request, "run", context)


# What the run page's script fetches -----------------------------------------------------------


@data("runs.view_run")
def run_log(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Lines after or before a `seq`, with the run's state: what a page does that lost lines or its socket."""
    run = get_object_or_404(Run.objects.select_related("revision"), pk=pk)
    after, before = _seq(request.GET.get("after", "")), _seq(request.GET.get("before", ""))
    if before is not None:
        lines = page_queries.log_lines_before(pk, before, count=LOG_FETCHED)
    elif after is not None:
        lines = queries.log_lines(pk, after=after, limit=LOG_FETCHED)
    else:
        lines = page_queries.log_lines_before(pk, count=LOG_FETCHED)
    return JsonResponse({"lines": [page_queries.line_data(line) for line in lines], "state": queries.run_state(run)})


def _seq(text: str) -> int | None:
    """A line's number; None for what is none, or for more than a column holds."""
    return int(text) if text.isdecimal() and len(text) < 19 else None


@data("runs.view_run")
def run_log_text(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The whole log as a text file, read page by page."""
    get_object_or_404(Run.objects.only("pk"), pk=pk)
    response = StreamingHttpResponse(_log_text(pk), content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="run-{pk}.log"'
    return response


async def _log_text(pk: UUID) -> AsyncIterator[str]:
    after = 0
    while lines := await sync_to_async(queries.log_lines)(pk, after=after, limit=LOG_FETCHED):
        yield "".join(f"{line.at:%Y-%m-%d %H:%M:%S.%f} {line.level.upper()} {line.message}\n" for line in lines)
        after = lines[-1].seq


@data("runs.view_run")
def run_receipt(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What the run did, as a JSON file that stands for itself."""
    run = get_object_or_404(Run.objects.select_related("pipeline"), pk=pk, receipt__isnull=False)
    response = JsonResponse(
        receipts.document(run, request.user), json_dumps_params={"indent": 2, "ensure_ascii": False}
    )
    response["Content-Disposition"] = f'attachment; filename="run-{pk}-receipt.json"'
    return response


# Buttons --------------------------------------------------------------------------------------


@action
def run_pipeline(request: HttpRequest, pk: UUID) -> HttpResponse:
    pipeline = get_object_or_404(Pipeline, pk=pk)
    try:
        run, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=request.user)
    except services.RunRefused as refused:
        if refused.code == "interval_needed":
            return redirect("run_with_values", pk)
        return _say_refused(request, refused, pipeline)
    messages.success(request, "The run is on its way.")
    return redirect(run)


@action
def pause_pipeline(request: HttpRequest, pk: UUID) -> HttpResponse:
    pipeline = get_object_or_404(Pipeline, pk=pk)
    pipeline_services.pause([pipeline], by=request.user)
    messages.success(request, f"{pipeline.name} is paused: no schedule starts it until you resume it.")
    return back(request, pipeline)


@action
def resume_pipeline(request: HttpRequest, pk: UUID) -> HttpResponse:
    pipeline = get_object_or_404(Pipeline, pk=pk)
    pipeline_services.resume([pipeline], by=request.user)
    has_next = pipeline.schedules.filter(next_due__isnull=False).exists()
    messages.success(request, f"{pipeline.name} is active{': it runs again at its next scheduled time' * has_next}.")
    return back(request, pipeline)


@action
def cancel_run(request: HttpRequest, pk: UUID) -> HttpResponse:
    run = get_object_or_404(Run, pk=pk)
    try:
        services.cancel_run(run, by=request.user)
    except services.RunRefused as refused:
        return _say_refused(request, refused, run)
    messages.success(request, "The run is being cancelled.")
    return back(request, run)


@action
def approve_run(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _decide(request, pk, Decision.PUBLISH, "The staged rows are being published.")


@action
def discard_run(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _decide(request, pk, Decision.DISCARD, "The run is being discarded.")


def _decide(request: HttpRequest, pk: UUID, decision: Decision, done: str) -> HttpResponse:
    run = get_object_or_404(Run, pk=pk)
    try:
        services.decide(
            run, decision, by=request.user, note=request.POST.get("note", ""), attempt=seen_attempt(request)
        )
    except services.RunRefused as refused:
        return _say_refused(request, refused, run)
    messages.success(request, done)
    return back(request, run)


@action
def clear_run(request: HttpRequest, pk: UUID) -> HttpResponse:
    run = get_object_or_404(Run, pk=pk)
    try:
        services.clear_run(run, by=request.user, note=request.POST.get("note", ""))
    except services.RunRefused as refused:
        return _say_refused(request, refused, run)
    messages.success(request, "The run is tried again.")
    return back(request, run)


@action
def mark_done(request: HttpRequest, pk: UUID) -> HttpResponse:
    run = get_object_or_404(Run, pk=pk)
    try:
        services.mark_done(run, by=request.user, note=request.POST.get("note", ""))
    except services.RunRefused as refused:
        return _say_refused(request, refused, run)
    messages.success(request, "The run is marked as done.")
    return back(request, run)


@action
def run_again(request: HttpRequest, pk: UUID) -> HttpResponse:
    run = get_object_or_404(Run.objects.select_related("pipeline"), pk=pk)
    try:
        again = services.run_again(run, by=request.user)
    except services.RunRefused as refused:
        return _say_refused(request, refused, run)
    messages.success(request, "A new run is on its way.")
    return redirect(again)


def _say_refused(request: HttpRequest, refused: services.RunRefused, place: Pipeline | Run) -> HttpResponse:
    messages.error(request, f"{refused.message} {refused.hint}".strip())
    return back(request, place)


# Health ---------------------------------------------------------------------------------------


@never_cache
def healthz(request: HttpRequest) -> HttpResponse:
    """200 while the control database answers; says nothing else, for anyone may ask."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error:
        return HttpResponse("database unreachable\n", status=503, content_type="text/plain")
    return HttpResponse("ok\n", content_type="text/plain")
