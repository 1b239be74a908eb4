"""A rule for tables that appear in a dataset, as a form."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextInputWidget

from pipelines import dataset_rules
from pipelines.forms.pipelines import sentence, sources
from pipelines.models import DatasetRule, Pipeline, PipelineState

QUIET = {"autocomplete": "off", "spellcheck": "false"}


class DatasetRuleForm(forms.ModelForm):
    class Meta:
        model = DatasetRule
        fields = (
            "name", "enabled", "source", "dataset", "include", "exclude", "views", "take_existing", "template",
            "name_prefix", "new_state", "most_at_once", "every_s",
        )  # fmt: skip
        widgets = {name: UnfoldAdminTextInputWidget(QUIET) for name in ("dataset", "include", "exclude", "name_prefix")}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "name_prefix" in self.fields:
            # A blank at its end is meant.
            self.fields["name_prefix"].strip = False
        if "source" in self.fields:
            self.fields["source"].queryset = sources()
        if "template" in self.fields:
            self.fields["template"].queryset = Pipeline.objects.exclude(source_table="").order_by("name")
            self.fields["template"].label_from_instance = _named

    def add_prefix(self, field_name: str) -> str:
        """unfold takes whatever has something called "dataset" for an action of its own."""
        return super().add_prefix("source_dataset" if field_name == "dataset" else field_name)

    def clean_dataset(self) -> str:
        return self.cleaned_data["dataset"].strip().strip("`")

    def clean_include(self) -> list[str]:
        return [pattern.strip() for pattern in self.cleaned_data["include"] if pattern.strip()]

    def clean_exclude(self) -> list[str]:
        return [pattern.strip() for pattern in self.cleaned_data["exclude"] if pattern.strip()]

    def _post_clean(self) -> None:
        super()._post_clean()
        if not self.errors:
            for refused in dataset_rules.against(self.instance):
                self.add_error(refused.field, sentence(refused))


def _named(pipeline: Pipeline) -> str:
    return f"{pipeline.name} (archived)" if pipeline.state == PipelineState.ARCHIVED else pipeline.name
