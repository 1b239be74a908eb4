"""The forms of alert channels and rules. A channel's address is write-only: an empty field keeps what is stored."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminSingleTimeWidget,
    UnfoldAdminTextInputWidget,
)

from pipelines import alert_urls
from pipelines.alert_definitions import against_channel, against_rule
from pipelines.alert_words import Said, in_words
from pipelines.models import AlertChannel, AlertKind, AlertRule
from pipelines.objections import PipelineRefused

# Nothing of a browser's own helps with these.
PLAIN = {"autocomplete": "off", "spellcheck": "false"}


class AlertChannelForm(forms.ModelForm):
    url = forms.CharField(
        label="Address",
        required=False,
        max_length=alert_urls.MAX_LENGTH,
        widget=UnfoldAdminPasswordWidget({**PLAIN, "autocomplete": "new-password"}),
    )

    class Meta:
        model = AlertChannel
        fields = ("name", "enabled", "quiet_from", "quiet_until", "quiet_zone", "quiet_mode")
        widgets = {
            "quiet_from": UnfoldAdminSingleTimeWidget,
            "quiet_until": UnfoldAdminSingleTimeWidget,
            "quiet_zone": UnfoldAdminTextInputWidget({**PLAIN, "list": "desk-zones"}),
            "quiet_mode": UnfoldAdminSelectWidget,
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        services = ", ".join(sorted(set(alert_urls.SERVICES.values()), key=str.lower))
        stored = ""
        if self.instance.has_lost_secrets:
            stored = "What is stored cannot be read: its key is lost. Enter it again. "
        elif self.instance.secrets:
            stored = f"An address of {self.instance.service} is stored. Leave this empty to keep it. "
        self.fields["url"].help_text = f"{stored}{alert_urls.HELP} Services: {services}."
        self.fields["url"].required = not stored

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            for name in self.Meta.fields:
                setattr(self.instance, name, cleaned[name])
            _add(self, against_channel(self.instance, self.typed_url))
        return cleaned

    @property
    def typed_url(self) -> str | None:
        return (self.cleaned_data.get("url") or "").strip() or None


class AlertRuleForm(forms.ModelForm):
    kinds = forms.MultipleChoiceField(
        label="Tell when",
        choices=AlertKind.choices,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text=AlertRule._meta.get_field("kinds").help_text,
    )

    class Meta:
        model = AlertRule
        fields = (
            "name", "enabled", "kinds", "channels", "every_pipeline", "pipelines", "late_after_min", "stale_after_h",
            "distance", "remind_after_h", "urgent",
        )  # fmt: skip
        widgets = {"channels": UnfoldAdminCheckboxSelectMultipleWidget}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            rule = AlertRule(kinds=cleaned["kinds"], every_pipeline=cleaned["every_pipeline"])
            _add(self, against_rule(rule, cleaned["channels"], cleaned["pipelines"]))
        return cleaned

    def words(self) -> str:
        """What the rule says as it is typed now, whether or not all of it is right."""
        self.is_valid()
        typed = self.cleaned_data
        numbers = ("late_after_min", "stale_after_h", "distance")
        given = {name: typed[name] for name in numbers if typed.get(name)}
        return in_words(
            Said(
                kinds=typed.get("kinds", ()),
                channels=[channel.name for channel in typed.get("channels", ())],
                pipelines=None if typed.get("every_pipeline") else [each.name for each in typed.get("pipelines", ())],
                enabled=typed.get("enabled", False),
                remind_after_h=typed.get("remind_after_h"),
                urgent=typed.get("urgent", False),
                **given,
            )
        )


def _add(form: forms.ModelForm, found: list[PipelineRefused]) -> None:
    for refused in found:
        form.add_error(refused.field if refused.field in form.fields else None, str(refused) + _after(refused.hint))


def _after(hint: str) -> str:
    return f" {hint}" if hint else ""
