"""The pages of a pipeline's quarantine: reasons with counts, the first rows, replay and discard."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.dateparse import parse_datetime

from connectors.counts import counted
from connectors.quarantine import RowState
from pipelines import lookups
from pipelines.models import Pipeline, PipelineState
from runs import quarantining, services
from runs.models import Trigger
from runs.page_access import asks, page
from runs.page_forms import Filter

STATES = [
    (RowState.OPEN.value, "Open"),
    (RowState.REPLAYED.value, "Replayed"),
    (RowState.DISCARDED.value, "Discarded"),
    (RowState.SUPERSEDED.value, "Superseded"),
]
WORDS = dict(STATES)
# The colours of runs stand for those of rows as well.
LOOKS = {RowState.OPEN.value: "held", RowState.REPLAYED.value: "succeeded"}
MOST_IDS = 1000


class QuarantineFilter(Filter):
    """Which rows are listed."""

    state = forms.ChoiceField(required=False, choices=[("", "Any state"), *STATES])
    column = forms.CharField(required=False, max_length=300, widget=forms.TextInput({"placeholder": "Any column"}))
    code = forms.CharField(
        label="Reason", required=False, max_length=60, widget=forms.TextInput({"placeholder": "Any reason"})
    )
    run = forms.UUIDField(required=False, widget=forms.TextInput({"placeholder": "Any run"}))

    def wanted(self) -> dict[str, Any]:
        return {name: str(value) for name, value in super().wanted().items()}


class DecisionForm(forms.Form):
    """What becomes of which rows: those that were ticked, or all open ones of a filter."""

    do = forms.ChoiceField(choices=[("replay", "Replay"), ("discard", "Discard")])
    ids = forms.TypedMultipleChoiceField(coerce=str, required=False)
    everything = forms.BooleanField(required=False)
    # What the page showed, as `quarantining.look` said.
    as_of = forms.JSONField(required=False)
    note = forms.CharField(required=False, max_length=quarantining.NOTE_LENGTH)
    confirmed = forms.BooleanField(required=False)

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        given = [text for text in data.getlist("ids")[:MOST_IDS] if _is_uuid(text)]
        self.fields["ids"].choices = [(text, text) for text in given]

    def clean_as_of(self) -> dict[str, int]:
        given = self.cleaned_data["as_of"]
        is_told = isinstance(given, dict) and all(type(token) is int for token in given.values())
        return given if is_told else {}


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


@page("pipelines.view_pipeline")
def quarantine(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Reasons with counts for everybody; rows for those who may run the pipeline."""
    pipeline = get_object_or_404(Pipeline.objects.select_related("destination"), pk=pk)
    may_decide = request.user.has_perm("pipelines.run_pipeline")
    form = QuarantineFilter(request.GET if request.GET else {"state": RowState.OPEN.value})
    found: dict[str, Any] = {"counts": [], "rows": [], "total": 0}
    problem = ""
    try:
        found = quarantining.look(pipeline, form.wanted(), with_rows=may_decide)
    except lookups.LookupFailed as failure:
        problem = f"{failure.message} {failure.hint}".strip()
    context = {
        "pipeline": pipeline,
        "form": form,
        "problem": problem,
        "counts": [_counted(one, max(each["rows"] for each in found["counts"])) for one in found["counts"]],
        "rows": [_row(one) for one in found["rows"]],
        "total": found["total"],
        "as_of": json.dumps(found.get("as_of", {})),
        "several": len({one["target"] for one in found["counts"]}) > 1,
        "may_decide": may_decide,
        "is_archived": pipeline.state == PipelineState.ARCHIVED,
    }
    return render(request, "quarantine.html", context)


def _counted(one: dict[str, Any], most: int) -> dict[str, Any]:
    """`share`: how many rows, in percent of the largest line."""
    share = max(1.5, round(100 * one["rows"] / most, 2))
    told = {"state_name": WORDS.get(one["state"], one["state"]), "newest": parse_datetime(one["newest"])}
    return {**one, **told, "share": share, "look": LOOKS.get(one["state"], "")}


def _row(one: dict[str, Any]) -> dict[str, Any]:
    times = {name: one[name] and parse_datetime(one[name]) for name in ("seen_at", "decided_at")}
    key = ", ".join(f"{name} {value}" for name, value in (one["key"] or {}).items())
    return {**one, **times, "state_name": WORDS.get(one["state"], one["state"]), "key_text": key}


@asks
def decide_quarantine(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Say what will become of the chosen rows, and do it once somebody says yes."""
    pipeline = get_object_or_404(Pipeline.objects.select_related("source", "destination", "revision"), pk=pk)
    back = redirect(f"{reverse('quarantine', args=[pk])}?{request.GET.urlencode()}")
    form, filtered = DecisionForm(request.POST), QuarantineFilter(request.GET)
    if request.method != "POST" or not form.is_valid():
        return back
    chosen = form.cleaned_data
    if not chosen["ids"] and not chosen["everything"]:
        messages.error(request, "No row was chosen.")
        return back
    if not chosen["ids"] and not chosen["as_of"]:
        messages.error(request, "That did not say which rows were looked at: choose again.")
        return back
    wanted = {**filtered.wanted(), "state": RowState.OPEN.value, "as_of": chosen["as_of"]}
    wanted = {"ids": chosen["ids"], "state": RowState.OPEN.value} if chosen["ids"] else wanted
    try:
        if chosen["confirmed"]:
            return _do(request, pipeline, chosen, wanted)
        found = quarantining.look(pipeline, wanted, with_rows=False)
    except lookups.LookupFailed as failure:
        messages.error(request, f"{failure.message} {failure.hint}".strip())
        return back
    except services.RunRefused as refused:
        messages.error(request, f"{refused.message} {refused.hint}".strip())
        return back
    if not found["total"]:
        messages.error(request, "None of these rows is open any more.")
        return back
    context = {"pipeline": pipeline, "do": chosen["do"], "chosen": chosen, "total": found["total"], "wanted": wanted}
    more = {"targets": found["targets"], "later": found["later"], "as_of": json.dumps(chosen["as_of"])}
    return render(request, "quarantine_ask.html", {**context, **more})


def _do(request: HttpRequest, pipeline: Pipeline, chosen: dict[str, Any], wanted: dict[str, Any]) -> HttpResponse:
    if chosen["do"] == "replay":
        run, _ = quarantining.request_replay(pipeline, wanted, trigger=Trigger.MANUAL, by=request.user)
        messages.success(request, "The replay is on its way.")
        return redirect(run)
    done = quarantining.discard(pipeline, wanted, by=request.user, note=chosen["note"])
    rows, later = done["discarded"], done["later"]
    messages.success(request, f"{rows:,} row{'s were' if rows != 1 else ' was'} discarded.")
    if later:
        messages.warning(request, f"{counted(later)} like {'these' if rows != 1 else 'it'} came since, and stay open.")
    return redirect("quarantine", pipeline.pk)
