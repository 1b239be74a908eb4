"""The filters above lists; a value that is none of the choices filters nothing."""

from __future__ import annotations

from typing import Any

from django import forms

from connectors.errors import ConnectorError
from pipelines.models import Connection, Pipeline, PipelineState
from runs.asking import checked_watermark
from runs.comparisons import Cost
from runs.models import RunAction, Trigger
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


class ComparisonForm(forms.Form):
    """What to compare; `limit` is the cost that the page told."""

    at = forms.ChoiceField(
        label="The source",
        choices=[("snapshot", "as it was when the last run read it"), ("now", "as it is now")],
        widget=forms.RadioSelect,
        initial="snapshot",
    )
    keys = forms.BooleanField(label="Look for the keys that differ, if anything does", required=False, initial=True)
    limit = forms.IntegerField(required=False, min_value=1, widget=forms.HiddenInput)

    def __init__(self, data: Any = None, *, pipeline: Pipeline, cost: Cost | None = None) -> None:
        super().__init__(
            data, initial={"limit": cost.billed, "at": "now" if cost.is_gone else "snapshot"} if cost else {}
        )
        if cost and cost.no_snapshot:
            # Nothing to choose: what cannot be pinned is read as it is, whatever was asked for.
            self.fields["at"].widget = forms.HiddenInput()
        if not pipeline.merge_key:
            del self.fields["keys"]

    def options(self) -> dict[str, Any]:
        """What the run has to know."""
        told = {"at": self.cleaned_data["at"], "keys": self.cleaned_data.get("keys", False)}
        limit = self.cleaned_data["limit"]
        return {**told, "maximum_bytes_billed": limit} if limit else told


class RunsFilter(Filter):
    text = forms.CharField(
        label="Pipeline",
        required=False,
        max_length=200,
        widget=forms.TextInput({"type": "search", "placeholder": "Pipeline's name"}),
    )
    status = forms.ChoiceField(required=False, choices=_choices("Any status", RunStatus.choices))
    action = forms.ChoiceField(label="What", required=False, choices=_choices("Anything", RunAction.choices))
    trigger = forms.ChoiceField(label="Started by", required=False, choices=_choices("Anything", Trigger.choices))
    pipeline = forms.ModelChoiceField(Pipeline.objects.all(), required=False, widget=forms.HiddenInput)


class ConfirmForm(forms.Form):
    """A tick without which something that cannot be brought back is not done."""

    confirm = forms.BooleanField()

    def __init__(self, data: Any = None, *, label: str) -> None:
        super().__init__(data)
        self.fields["confirm"].label = label


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
