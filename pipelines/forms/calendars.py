"""A calendar as a form: what it closes, one line each."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from pipelines import schedules
from pipelines.models import Calendar


class LinesField(forms.CharField):
    """A list of texts as lines."""

    def to_python(self, value: Any) -> list[str]:
        return [line.strip() for line in (value or "").splitlines() if line.strip()]

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) else "\n".join(value or ())

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(data) != list(initial or ())


class CalendarForm(forms.ModelForm):
    closed = LinesField(
        required=False,
        label="Times without runs",
        help_text=Calendar._meta.get_field("closed").help_text,
        widget=UnfoldAdminTextareaWidget({"rows": 12, "spellcheck": "false", "class": "font-mono"}),
    )

    class Meta:
        model = Calendar
        fields = ("name", "zone", "closed", "description")
        widgets = {
            "zone": UnfoldAdminTextInputWidget({"list": "desk-zones", "autocomplete": "off", "spellcheck": "false"}),
            "description": UnfoldAdminTextareaWidget({"rows": 2}),
        }

    def clean_zone(self) -> str:
        try:
            schedules.zone_of(self.cleaned_data["zone"])
        except schedules.RuleError as error:
            raise forms.ValidationError(f"{error.message} {error.hint}") from None
        return self.cleaned_data["zone"]

    def clean_closed(self) -> list[str]:
        """All lines that are none, each with what is wrong with it."""
        wrong = []
        for line in self.cleaned_data["closed"]:
            try:
                schedules.tidy_lines("UTC", [line])
            except schedules.RuleError as error:
                wrong.append(f"{error.message} {error.hint}")
        if wrong:
            raise forms.ValidationError(wrong[:10])
        try:
            return schedules.tidy_lines("UTC", self.cleaned_data["closed"])
        except schedules.RuleError as error:
            raise forms.ValidationError(f"{error.message} {error.hint}") from None
