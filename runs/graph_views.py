"""The page of the graph, and what runs down it."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from pipelines.models import Pipeline
from runs import asking, graph_queries, services
from runs.models import Run, Trigger
from runs.page_access import action, asks, back, page, render_live


@page("pipelines.view_pipeline")
def graph(request: HttpRequest) -> HttpResponse:
    """How pipelines depend on each other; `?pipeline=` shows what is above and below one."""
    chosen = None
    if key := request.GET.get("pipeline", ""):
        try:
            chosen = get_object_or_404(Pipeline, pk=key)
        except ValidationError:
            return redirect("graph")
    return render_live(request, "graph", {"drawing": graph_queries.draw(chosen), "chosen": chosen})


@asks
def run_downstream(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Say what will run, in which order, and let it run once somebody says yes."""
    pipeline = get_object_or_404(Pipeline, pk=pk)
    if request.method == "POST":
        try:
            runs, _ = services.request_chain(pipeline, trigger=Trigger.MANUAL, by=request.user)
        except services.RunRefused as refused:
            messages.error(request, f"{refused.message} {refused.hint}".strip())
            return redirect(pipeline)
        messages.success(request, f"{len(runs)} runs are on their way, one after another.")
        return redirect(runs[0])
    return render(request, "ask.html", {"pipeline": pipeline, "asked": asking.ask_downstream(pipeline), "form": None})


@action
def start_run_anyway(request: HttpRequest, pk: UUID) -> HttpResponse:
    run = get_object_or_404(Run, pk=pk)
    try:
        services.start_anyway(run, by=request.user)
    except services.RunRefused as refused:
        messages.error(request, f"{refused.message} {refused.hint}".strip())
    else:
        messages.success(request, "The run is on its way.")
    return back(request, run)
