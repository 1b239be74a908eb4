"""The dependencies of a pipeline in its form."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.forms import PaginationInlineFormSet
from unfold.widgets import UnfoldAdminIntegerFieldWidget

from pipelines import dependencies
from pipelines.dependencies import DependencySpec
from pipelines.models import Dependency, DependencyRule


class DependencyForm(forms.ModelForm):
    """Reads a dependency; the service saves all of them at once."""

    class Meta:
        model = Dependency
        fields = ("upstream", "rule", "offset_s", "give_up_hours", "on_give_up")
        widgets = {
            "offset_s": UnfoldAdminIntegerFieldWidget({"min": 1}),
            "give_up_hours": UnfoldAdminIntegerFieldWidget({"min": 1}),
        }

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("rule") != DependencyRule.OFFSET:
            # What is left over from another rule is no mistake.
            cleaned["offset_s"] = None
        elif cleaned.get("offset_s") is None and "offset_s" not in self.errors:
            self.add_error("offset_s", "Give the seconds by which the data interval is earlier.")
        return cleaned

    def _get_validation_exclusions(self) -> set[str]:
        # The set as a whole is checked, with better words than a constraint has.
        return {*super()._get_validation_exclusions(), "pipeline"}

    @property
    def spec(self) -> DependencySpec:
        data = self.cleaned_data
        names = ("rule", "offset_s", "give_up_hours", "on_give_up")
        return DependencySpec(data["upstream"].pk, **{name: data[name] for name in names})


class DependencyFormSet(PaginationInlineFormSet):
    """What a pipeline waits for, as a whole."""

    def clean(self) -> None:
        super().clean()
        if any(self.errors):
            return
        refused = dependencies.against(self.instance, self.specs())
        if refused:
            raise forms.ValidationError([f"{each.message} {each.hint}" for each in refused])

    def specs(self) -> list[DependencySpec]:
        return [
            form.spec
            for form in self.forms
            if form.is_valid()
            and (form.has_changed() or form.instance.pk)
            and not (self.can_delete and self._should_delete_form(form))
            and form.cleaned_data.get("upstream") is not None
        ]
