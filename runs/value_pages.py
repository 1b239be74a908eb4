"""The page that asks for values before it starts a run."""

from __future__ import annotations

from datetime import UTC
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from connectors.parameters import INTERVAL
from pipelines import given
from pipelines.forms.parameters import read_typed, typed
from pipelines.models import Pipeline
from runs import giving, intervals, services
from runs.models import RunAction, Trigger
from runs.page_access import asks

START, END = INTERVAL
PREFIX = "parameters."
FORCE = "force"


class ValuesForm(forms.Form):
    """A field for each parameter, and for both ends of the data interval; `given` is what they come to."""

    def __init__(self, data: Any = None, *, pipeline: Pipeline) -> None:
        super().__init__(data)
        self._pipeline = pipeline
        self.force = bool(data and data.get(FORCE))
        self._declared = given.declared_by(pipeline)
        self.given = giving.Given()
        last = intervals.of_the_last_tick(pipeline) or intervals.NONE
        ends = ("Data from", "Data until")
        for name, label, moment in zip(INTERVAL, ends, last, strict=True):
            self.fields[name] = forms.DateTimeField(
                label=label,
                required=False,
                initial=moment and f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
                input_formats=["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%z"],
                help_text=f"UTC. The query's @{name}; as it stands here, that of the last tick."
                if moment
                else f"UTC, such as 2026-01-31 06:00. The query's @{name}.",
            )
        for each in self._declared.values():
            is_truth = each.kind.type == "BOOL" and not each.kind.repeated
            initial = "" if each.default is None else typed(each.default)
            told = {"label": each.name, "required": False, "initial": initial, "help_text": f"{each.kind}. "}
            told["help_text"] += 'A list such as ["a", "b"].' if each.kind.repeated else "Empty: NULL."
            if each.kind.type == "STRING" and not each.kind.repeated:
                told["help_text"] = 'STRING. Empty: NULL; "" is the empty text.'
            if is_truth:
                choices = [("", "NULL"), ("true", "true"), ("false", "false")]
                self.fields[PREFIX + each.name] = forms.ChoiceField(choices=choices, **told)
            else:
                widget = forms.TextInput({"spellcheck": "false", "autocomplete": "off"})
                self.fields[PREFIX + each.name] = forms.CharField(widget=widget, strip=False, **told)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        typed_in = {
            name: read_typed(cleaned[PREFIX + name], each.kind.repeated) for name, each in self._declared.items()
        }
        self.given = giving.check(self._pipeline, RunAction.LOAD, typed_in, cleaned[START], cleaned[END])
        for name, error in self.given.errors.items():
            self.add_error(name if name in self.fields else None, f"{error.message} {error.hint}".strip())
        return cleaned

    def ask_for_force(self, refused: services.RunRefused) -> None:
        """Say what stands against it, and have a person confirm that it shall be."""
        self.fields[FORCE] = forms.BooleanField(label="Append it all the same", required=False)
        self.add_error(FORCE, refused.message)

    def options(self) -> dict[str, Any]:
        """What the run has to know: only what is not as it would be anyhow."""
        other = {name: value for name, value in self.given.values.items() if value != self._declared[name].default}
        return {"parameters": other} if other else {}


@asks
def run_with_values(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Ask what a run shall go by, and start it once that is right."""
    pipeline = get_object_or_404(Pipeline.objects.select_related("source", "destination", "revision"), pk=pk)
    form = ValuesForm(request.POST if request.method == "POST" else None, pipeline=pipeline)
    if form.is_bound and form.is_valid():
        try:
            run, _ = services.request_run(
                pipeline,
                trigger=Trigger.MANUAL,
                by=request.user,
                options=form.options(),
                interval=form.given.interval,
                force=form.force,
            )
        except services.RunRefused as refused:
            if refused.code == "interval_loaded":
                form.ask_for_force(refused)
                return render(request, "run_with_values.html", {"pipeline": pipeline, "form": form})
            messages.error(request, f"{refused.message} {refused.hint}".strip())
            return redirect(pipeline)
        messages.success(request, "The run is on its way.")
        return redirect(run)
    return render(request, "run_with_values.html", {"pipeline": pipeline, "form": form})
