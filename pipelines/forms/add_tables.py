"""One template for many tables: every ticked table becomes a pipeline of its own."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from connectors.modes import WriteDisposition
from pipelines.forms.pipelines import destinations, say_when_too_long, sources
from pipelines.models import Connection, Pipeline, PipelineState


class WhereForm(forms.Form):
    """Which connection and dataset to list the tables of."""

    source = forms.ModelChoiceField(
        Connection.objects.none(), empty_label="Choose a connection", widget=UnfoldAdminSelectWidget
    )
    dataset = forms.ChoiceField(required=False, widget=UnfoldAdminSelectWidget)

    def __init__(self, *args: Any, datasets: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["source"].queryset = sources()
        if datasets is None:
            del self.fields["dataset"]
        else:
            self.fields["dataset"].choices = [("", "Choose a dataset"), *((name, name) for name in datasets)]


class TemplateForm(forms.ModelForm):
    """What the new pipelines have in common."""

    name_prefix = forms.CharField(
        required=False,
        max_length=100,
        strip=False,
        help_text="Goes before the table's name in the name of its pipeline.",
        widget=UnfoldAdminTextInputWidget({"autocomplete": "off"}),
    )

    class Meta:
        model = Pipeline
        fields = ("destination", "target_schema", "write_disposition", "state")
        widgets = {
            "destination": UnfoldAdminSelectWidget,
            "target_schema": UnfoldAdminTextInputWidget({"list": "desk-schemas", "autocomplete": "off"}),
            "write_disposition": UnfoldAdminSelectWidget,
            "state": UnfoldAdminSelectWidget,
        }

    field_order = ("destination", "target_schema", "name_prefix", "write_disposition", "state")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["destination"].queryset = destinations()
        # Each table has a key of its own.
        modes = self.fields["write_disposition"]
        modes.choices = [
            choice for choice in modes.choices if choice[0] not in (WriteDisposition.MERGE, WriteDisposition.HISTORY)
        ]
        modes.help_text = modes.help_text.partition(" Merge:")[0]
        say_when_too_long(self, "target_schema")
        self.fields["state"].choices = [c for c in PipelineState.choices if c[0] != PipelineState.ARCHIVED]

    def _post_clean(self) -> None:
        """What is common is no whole pipeline yet: each row is checked on its own."""

    def pipeline_for(self, source: Connection, dataset: str, table: str) -> Pipeline:
        data = self.cleaned_data
        return Pipeline(
            name=f"{data['name_prefix']}{table}",
            source=source,
            source_table=f"{dataset}.{table}",
            destination=data["destination"],
            target_schema=data["target_schema"],
            target_table=table,
            write_disposition=data["write_disposition"],
            state=data["state"],
        )
