"""The page of an undo: what is kept, what putting it back does, and the button."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from pipelines import lookups
from pipelines.models import Pipeline, PipelineState
from runs import graph_queries, services, undoing
from runs.models import Trigger
from runs.page_access import asks
from runs.states import ACTIVE, RunStatus


class UndoForm(forms.Form):
    """One of the former states, on the ground of what was published last when the page was made."""

    state = forms.ChoiceField(widget=forms.RadioSelect)

    def __init__(self, data: Any = None, *, states: list[undoing.Former]) -> None:
        super().__init__(data)
        there = [state for state in states if state.is_there]
        self.fields["state"].choices = [(state.value, state.value) for state in there]
        self.fields["state"].error_messages["invalid_choice"] = (
            "Something was published since this page was made, or this state is no longer kept. Look again."
        )
        self._states = {state.value: state for state in there}

    @property
    def chosen(self) -> undoing.Former:
        return self._states[self.cleaned_data["state"]]


@asks
def undo_pipeline(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Say what is kept and what an undo does, and start it once somebody has chosen a state."""
    pipeline = get_object_or_404(Pipeline.objects.select_related("source", "destination", "revision"), pk=pk)
    problem, states = "", []
    try:
        states = undoing.former_states(pipeline)
    except lookups.LookupFailed as failure:
        problem = f"{failure.message} {failure.hint}".strip()
    form = UndoForm(request.POST or None, states=states)
    if request.method == "POST" and not problem and form.is_valid():
        try:
            run, _ = undoing.request(pipeline, form.chosen, trigger=Trigger.MANUAL, by=request.user)
        except services.RunRefused as refused:
            messages.error(request, f"{refused.message} {refused.hint}".strip())
            return redirect("undo_pipeline", pk)
        messages.success(request, "The undo is on its way, and the pipeline is paused.")
        return redirect(run)
    context = {
        "pipeline": pipeline,
        "is_archived": pipeline.state == PipelineState.ARCHIVED,
        "states": states,
        "total": sum(state.bytes for state in states),
        "problem": problem,
        "form": form,
        "chosen": request.POST.get("state", ""),
        "is_active": pipeline.state == PipelineState.ACTIVE,
        "waiting": pipeline.runs.filter(status__in=[RunStatus.QUEUED, RunStatus.BLOCKED]).count(),
        "under_way": pipeline.runs.filter(status__in=sorted(ACTIVE)).first(),
        "downstreams": [each.pipeline for each in graph_queries.neighbours_of(pipeline).downstreams],
    }
    return render(request, "undo.html", context)


@asks
def drop_former(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Let go of all former states."""
    pipeline = get_object_or_404(Pipeline.objects.select_related("destination"), pk=pk)
    back = redirect("undo_pipeline", pk)
    if request.method != "POST":
        return back
    try:
        done = undoing.drop(pipeline, by=request.user)
    except lookups.LookupFailed as failure:
        messages.error(request, f"{failure.message} {failure.hint}".strip())
        return back
    count = done["dropped"]
    messages.success(request, f"{count:,} former state{'s were' if count != 1 else ' was'} dropped.")
    for each in done["left"]:
        messages.warning(request, f"{each['table']} stays: {each['why']}.")
    return back
