"""A schedule's rule as a form; the page's script draws the picker over these plain fields."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.forms import PaginationInlineFormSet
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from pipelines import schedules
from pipelines.models import Schedule
from pipelines.services import ScheduleSpec

QUIET = {"autocomplete": "off", "spellcheck": "false"}


class ScheduleForm(forms.ModelForm):
    """Reads a rule; saving is the service's business, because a rule never changes once it has ticked."""

    class Meta:
        model = Schedule
        fields = ("kind", "cron", "zone", "every_s")
        widgets = {
            "kind": UnfoldAdminSelectWidget,
            "cron": UnfoldAdminTextInputWidget({**QUIET, "placeholder": "30 6 * * 1-5"}),
            "zone": UnfoldAdminTextInputWidget({**QUIET, "list": "desk-zones"}),
            "every_s": UnfoldAdminIntegerFieldWidget({"min": 1}),
        }
        labels = {"cron": "Cron text"}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("kind") == Schedule.Kind.INTERVAL:
            cleaned["cron"] = ""
        else:
            cleaned["every_s"] = None
        cleaned["cron"] = " ".join(cleaned.get("cron", "").split())
        if not self.errors:
            self._check_rule()
        return cleaned

    @property
    def spec(self) -> ScheduleSpec:
        data = self.cleaned_data
        return ScheduleSpec(kind=data["kind"], cron=data["cron"], zone=data["zone"], every_s=data["every_s"])

    def _check_rule(self) -> None:
        data = self.cleaned_data
        try:
            schedules.check(schedules.Rule(data["kind"], data["cron"], data["zone"], data["every_s"]))
        except schedules.RuleError as error:
            field = error.field if error.field in self.fields else None
            self.add_error(field, f"{error.message} {error.hint}".strip())


class ScheduleFormSet(PaginationInlineFormSet):
    """A pipeline's schedules, read as rules."""

    def clean(self) -> None:
        super().clean()
        if any(self.errors):
            return
        specs = self.specs()
        if len(set(specs)) < len(specs):
            raise forms.ValidationError("The same schedule is there twice.")

    def specs(self) -> list[ScheduleSpec]:
        return [
            form.spec
            for form in self.forms
            if form.is_valid()
            and (form.has_changed() or form.instance.pk)
            and not self._is_deleted(form)
            and "kind" in form.cleaned_data
        ]

    def _is_deleted(self, form: forms.ModelForm) -> bool:
        return self.can_delete and self._should_delete_form(form)
