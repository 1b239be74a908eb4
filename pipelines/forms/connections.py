"""The form of a connection, drawn from its connector's options.

Secrets are write-only: they are never put into a page, and an empty field keeps what is stored.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, get_type_hints

from django import forms
from django.utils.functional import cached_property
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
    UnfoldBooleanWidget,
)

from connectors import registry
from connectors.errors import ConnectorError
from connectors.options import build, sent_secrets
from pipelines import lookups
from pipelines.models import Connection

OPTION = "option_"
CLEAR = "clear_"
# Nobody tried the options: the person may know better.
UNANSWERED = frozenset({"lookup_timeout", "no_worker", "broker_down"})


class SecretTextarea(UnfoldAdminTextareaWidget):
    """A text area that never shows what it was given."""

    def format_value(self, value: Any) -> None:
        return None


class ConnectionForm(forms.ModelForm):
    """One kind's options as fields `option_<name>`; see `connection_form`.

    A change of options or secrets is tested before it is accepted, unless `tests_on_save` is off.
    After a test that failed, `steps` holds what was tried and `undecided` says whether nobody answered.
    """

    kind: ClassVar[str] = ""
    tests_on_save: ClassVar[bool] = True

    save_anyway = forms.BooleanField(
        required=False,
        label="Save anyway, without a test that passed",
        help_text="For a system that is down just now. Enter a new secret again: it is never sent back to this page.",
        widget=UnfoldBooleanWidget,
    )

    class Meta:
        model = Connection
        fields = ("name", "max_running")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[dict[str, Any]] = []
        self.undecided = False
        if self.instance._state.adding:
            self.instance.kind = self.kind
        for option in dataclasses.fields(self.options_type):
            if not option.metadata.get("secret"):
                self.initial.setdefault(OPTION + option.name, self.instance.options.get(option.name, _default(option)))
            else:
                self._tell_what_is_stored(option)

    @property
    def options_type(self) -> type:
        return registry.options_type(self.kind)

    @property
    def option_names(self) -> list[str]:
        """Names of the fields of options, in the connector's order, each followed by its "remove" box."""
        names: list[str] = []
        for option in dataclasses.fields(self.options_type):
            names.append(OPTION + option.name)
            if CLEAR + option.name in self.fields:
                names.append(CLEAR + option.name)
        return names

    @cached_property
    def entered(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options and secrets as they would be stored; only after the fields were cleaned."""
        secrets = dict(self.instance.secrets or {})
        options: dict[str, Any] = {}
        for option in dataclasses.fields(self.options_type):
            value = self.cleaned_data.get(OPTION + option.name)
            if not option.metadata.get("secret"):
                if value not in (None, ""):
                    options[option.name] = value
            elif value:
                secrets[option.name] = value
            elif self.cleaned_data.get(CLEAR + option.name):
                secrets.pop(option.name, None)
        return options, secrets

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.option_errors():
            return cleaned
        options, secrets = self.entered
        if not self._is_changed(options, secrets):
            return cleaned
        if self._lacks_lost_secrets() or self._sends_stored_secrets_elsewhere(options):
            return cleaned
        try:
            build(self.options_type, {**options, **secrets})
        except ConnectorError as error:
            self.add_error(self._field(error.field), _sentence(error.message, error.hint))
            return cleaned
        if self.tests_on_save:
            self._test(cleaned.get("save_anyway", False))
        return cleaned

    def save(self, commit: bool = True) -> Connection:
        options, secrets = self.entered
        if self._is_changed(options, secrets):
            self.instance.options, self.instance.secrets = options, secrets
        return super().save(commit)

    def option_errors(self) -> dict[str, list[str]]:
        """Errors of the options alone, by field: what stands in the way of a test."""
        return {name: list(errors) for name, errors in self.errors.items() if name.startswith((OPTION, CLEAR))}

    def run_test(self) -> None:
        """Try what was entered against the live system; fills `steps`, `undecided` and, on failure, the errors."""
        options, secrets = self.entered
        try:
            self.steps = lookups.test_connection(self.kind, {**options, **secrets})
        except lookups.LookupFailed as failure:
            self.undecided = failure.code in UNANSWERED
            self.add_error(self._field(failure.field), _sentence(failure.message, failure.hint))
            return
        failed = next((step for step in self.steps if step["passed"] is False), None)
        if failed is not None:
            self.undecided = failed["transient"]
            self.add_error(
                self._field(failed["field"]), _sentence(f"{failed['name']}: {failed['detail']}", failed["hint"])
            )

    def _test(self, save_anyway: bool) -> None:
        before = {name: list(errors) for name, errors in self._errors.items()}
        self.run_test()
        if self.undecided and save_anyway:
            for name in set(self._errors) - set(before):
                del self._errors[name]

    def _is_changed(self, options: dict[str, Any], secrets: dict[str, Any]) -> bool:
        if self.instance._state.adding:
            return True
        if self.instance.has_lost_secrets:
            removed = any(self.cleaned_data.get(name) for name in self.fields if name.startswith(CLEAR))
            return bool(secrets) or removed or options != self.instance.options
        return options != self.instance.options or secrets != self.instance.secrets

    def _lacks_lost_secrets(self) -> bool:
        """Ask again for every secret that can no longer be read; those are not half-replaced."""
        if not self.instance.has_lost_secrets:
            return False
        missing = False
        for name in sent_secrets(self.options_type):
            if not self.cleaned_data.get(OPTION + name) and not self.cleaned_data.get(CLEAR + name):
                self.add_error(OPTION + name, "Enter it again, or remove it: the stored one can no longer be read.")
                missing = True
        return missing

    def _sends_stored_secrets_elsewhere(self, options: dict[str, Any]) -> bool:
        """Ask again for stored secrets when the address changed: who may edit a connection may not read its secrets."""
        before = {} if self.instance._state.adding else self.instance.options
        moved = any(
            options.get(option.name) != before.get(option.name)
            for option in dataclasses.fields(self.options_type)
            if option.metadata.get("address")
        )
        kept = [
            name
            for name in sorted(sent_secrets(self.options_type) & set(self.instance.secrets or {}))
            if not self.cleaned_data.get(OPTION + name) and not self.cleaned_data.get(CLEAR + name)
        ]
        for name in kept if moved else ():
            self.add_error(OPTION + name, "Enter it again: the address that it is sent to has changed.")
        return moved and bool(kept)

    def _tell_what_is_stored(self, option: dataclasses.Field[Any]) -> None:
        field, lost = self.fields[OPTION + option.name], self.instance.has_lost_secrets
        stored = option.name in (self.instance.secrets or {})
        if lost:
            state = "The stored value was encrypted with a key that is no longer set: enter it again."
        elif stored:
            state = "A value is stored. Leave empty to keep it."
        else:
            state = ""
        if state:
            field.required = field.widget.is_required = False
            field.help_text = f"{field.help_text} {state}".strip()
            field.widget.attrs["placeholder"] = "lost" if lost else "stored"
        if not state or option.default is dataclasses.MISSING:
            self.fields.pop(CLEAR + option.name, None)

    def _field(self, option: str) -> str | None:
        return OPTION + option if OPTION + option in self.fields else None


def connection_form(kind: str) -> type[ConnectionForm]:
    """The form for one kind of connection; raises ConnectorError for a kind that is not there."""
    options = registry.options_type(kind)
    hints = get_type_hints(options)
    declared: dict[str, Any] = {"kind": kind}
    for option in dataclasses.fields(options):
        declared[OPTION + option.name] = _form_field(option, hints[option.name])
        if option.metadata.get("secret"):
            declared[CLEAR + option.name] = forms.BooleanField(
                required=False,
                label=f"Remove the stored {_label(option)[:1].lower()}{_label(option)[1:]}",
                widget=UnfoldBooleanSwitchWidget,
            )
    return type(f"{kind.title()}ConnectionForm", (ConnectionForm,), declared)


def _form_field(option: dataclasses.Field[Any], kind: type) -> forms.Field:
    mark = option.metadata
    common: dict[str, Any] = {
        "label": _label(option),
        "help_text": mark.get("help", ""),
        "required": option.default is dataclasses.MISSING and option.default_factory is dataclasses.MISSING,
    }
    quiet = {"autocomplete": "off", "spellcheck": "false"}
    if kind is bool:
        return forms.BooleanField(**{**common, "required": False}, widget=UnfoldBooleanSwitchWidget)
    if kind is int:
        return forms.IntegerField(**common, widget=UnfoldAdminIntegerFieldWidget(quiet))
    if mark.get("choices"):
        choices = [(choice, choice or "Automatic") for choice in mark["choices"]]
        return forms.ChoiceField(**common, choices=choices, widget=UnfoldAdminSelectWidget)
    if mark.get("secret") and mark.get("multiline"):
        return forms.CharField(**common, widget=SecretTextarea({**quiet, "rows": 6}))
    if mark.get("secret"):
        return forms.CharField(
            **common, strip=False, widget=UnfoldAdminPasswordWidget({"autocomplete": "new-password"})
        )
    if mark.get("multiline"):
        return forms.CharField(**common, widget=UnfoldAdminTextareaWidget({**quiet, "rows": 6}))
    return forms.CharField(**common, widget=UnfoldAdminTextInputWidget(quiet))


def _default(option: dataclasses.Field[Any]) -> Any:
    return "" if option.default is dataclasses.MISSING else option.default


def _label(option: dataclasses.Field[Any]) -> str:
    return str(option.metadata.get("label") or option.name)


def _sentence(message: str, hint: str) -> str:
    return f"{message} {hint}".strip()
