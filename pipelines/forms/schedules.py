"""A schedule's rule as a form; the page's script draws the picker over these plain fields."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from unfold.forms import PaginationInlineFormSet
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from pipelines import schedules
from pipelines.models import Schedule
from pipelines.specs import WINDOW, ScheduleSpec

QUIET = {"autocomplete": "off", "spellcheck": "false"}


class WallTimeField(forms.CharField):
    """A date and time on a wall clock: whose clock it is, another field says."""

    def __init__(self, **more: Any) -> None:
        # Any step: a second that a program gave stays.
        widget = UnfoldAdminTextInputWidget({"type": "datetime-local", "step": "any"})
        super().__init__(required=False, widget=widget, empty_value=None, **more)

    def to_python(self, value: Any) -> datetime | None:
        text = super().to_python(value)
        if text is None:
            return None
        try:
            moment = datetime.fromisoformat(text).replace(tzinfo=None)
        except ValueError:
            raise forms.ValidationError("Write a date and a time, for example 2026-12-01T06:00.") from None
        if schedules.is_outside(moment):
            raise forms.ValidationError(schedules.OUTSIDE)
        return moment

    def prepare_value(self, value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime) else value

    def run_validators(self, value: Any) -> None:
        """Those of a text have nothing to say about it."""


def _wall_time(name: str) -> WallTimeField:
    field = Schedule._meta.get_field(name)
    return WallTimeField(label=str(field.verbose_name).capitalize(), help_text=field.help_text)


class ScheduleForm(forms.ModelForm):
    """Reads a rule; saving is the service's business, because a rule never changes once it has ticked."""

    active_from = _wall_time("active_from")
    active_until = _wall_time("active_until")

    class Meta:
        model = Schedule
        fields = ("kind", "cron", "every_s", "zone", "active_from", "active_until", "calendar", "jitter_s")
        widgets = {
            "kind": UnfoldAdminSelectWidget,
            "cron": UnfoldAdminTextInputWidget({**QUIET, "placeholder": "30 6 * * 1-5"}),
            "zone": UnfoldAdminTextInputWidget({**QUIET, "list": "desk-zones"}),
            "every_s": UnfoldAdminIntegerFieldWidget({"min": 1}),
            "calendar": UnfoldAdminSelectWidget,
            "jitter_s": UnfoldAdminIntegerFieldWidget({"min": 0, "max": schedules.MAX_JITTER_S}),
        }
        labels = {"cron": "Cron text"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zone = _known_zone(self.instance.zone)
        for name in WINDOW:
            moment = getattr(self.instance, name)
            self.initial[name] = moment.astimezone(zone).replace(tzinfo=None) if moment else None
        if "calendar" in self.fields:
            self.fields["calendar"].empty_label = "None"
        if "jitter_s" in self.fields:
            # Empty says the same as 0, and a form that nobody touched is not changed.
            self.fields["jitter_s"].required = False
            self.initial["jitter_s"] = self.instance.jitter_s or None

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("kind") == Schedule.Kind.INTERVAL:
            cleaned["cron"] = ""
            cleaned["zone"] = "UTC"
        else:
            cleaned["every_s"] = None
        cleaned["cron"] = " ".join(cleaned.get("cron", "").split())
        cleaned["jitter_s"] = cleaned.get("jitter_s") or 0
        zone = _known_zone(cleaned.get("zone", "UTC"))
        for name in WINDOW:
            if cleaned.get(name) is not None:
                cleaned[name] = schedules.instant_of(cleaned[name], zone)
        if not self.errors:
            self._check_rule()
        return cleaned

    @property
    def spec(self) -> ScheduleSpec:
        data = dict(self.cleaned_data)
        calendar = data["calendar"].name if data["calendar"] else ""
        plain = ("kind", "cron", "zone", "every_s", "jitter_s", *WINDOW)
        return ScheduleSpec(**{name: data[name] for name in plain}, calendar=calendar)

    def _check_rule(self) -> None:
        try:
            self.spec.tidy()
        except schedules.RuleError as error:
            field = error.field if error.field in self.fields else None
            self.add_error(field, f"{error.message} {error.hint}".strip())


def _known_zone(name: str) -> ZoneInfo:
    """The zone, or UTC where there is none of this name, which is said elsewhere."""
    try:
        return schedules.zone_of(name)
    except schedules.RuleError:
        return ZoneInfo("UTC")


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
