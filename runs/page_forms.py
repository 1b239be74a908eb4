"""The filters above lists; a value that is none of the choices filters nothing."""

from __future__ import annotations

from typing import Any

from django import forms

from connectors.errors import ConnectorError
from pipelines.models import Connection, Pipeline, PipelineState
from runs.asking import checked_watermark
from runs.models import Trigger
from runs.states import TERMINAL, RunStatus


def _choices(every: str, choices: Any) -> list[tuple[str, str]]:
    return [("", every), *choices]


class Filter(forms.Form):
    def wanted(self) -> dict[str, Any]:
        """The filters that were set, to be passed to a query."""
        self.is_valid()
        return {name: value for name, value in self.cleaned_data.items() if value not in (None, "")}

    @property
    def is_set(self) -> bool:
        return bool(self.wanted())


class PipelinesFilter(Filter):
    text = forms.CharField(
        label="Search",
        required=False,
        max_length=200,
        widget=forms.TextInput({"type": "search", "placeholder": "Name or table"}),
    )
    state = forms.ChoiceField(required=False, choices=_choices("Not archived", PipelineState.choices))
    last = forms.ChoiceField(
        label="Last run",
        required=False,
        choices=_choices(
            "However it ended", [(status.value, status.label) for status in RunStatus if status in TERMINAL]
        ),
    )
    connection = forms.ModelChoiceField(Connection.objects.all(), required=False, empty_label="Any connection")


class RunsFilter(Filter):
    text = forms.CharField(
        label="Pipeline",
        required=False,
        max_length=200,
        widget=forms.TextInput({"type": "search", "placeholder": "Pipeline's name"}),
    )
    status = forms.ChoiceField(required=False, choices=_choices("Any status", RunStatus.choices))
    trigger = forms.ChoiceField(label="Started by", required=False, choices=_choices("Anything", Trigger.choices))
    pipeline = forms.ModelChoiceField(Pipeline.objects.all(), required=False, widget=forms.HiddenInput)


class WatermarkForm(forms.Form):
    """A new watermark, as a value of the pipeline's cursor."""

    watermark = forms.CharField(
        required=False, max_length=100, help_text="Like the one that stands here, or empty to read all rows."
    )

    def __init__(self, *args: Any, pipeline: Pipeline, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pipeline = pipeline

    def clean_watermark(self) -> str:
        try:
            return checked_watermark(self._pipeline, self.cleaned_data["watermark"])
        except ConnectorError as error:
            raise forms.ValidationError(f"{error.message} {error.hint}", code=error.code) from error
