"""The checks of a pipeline in its form."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from unfold.forms import PaginationInlineFormSet
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from connectors import check_rules
from connectors.checks import Check as Spec
from connectors.checks import CheckKind
from pipelines import checks
from pipelines.forms.pipelines import sentence
from pipelines.models import Check

# Which fields each kind goes by: the script hides the others.
USES = {kind.value: sorted(check_rules.uses(kind)) for kind in CheckKind}


class LinesField(forms.CharField):
    """A list of texts, one on each line."""

    def __init__(self, **kwargs: Any) -> None:
        widget = UnfoldAdminTextareaWidget({"rows": 3, "spellcheck": "false", "class": "font-mono"})
        super().__init__(required=False, widget=widget, **kwargs)

    def to_python(self, value: Any) -> list[str]:
        return [line.strip() for line in (value or "").splitlines() if line.strip()]

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) else "\n".join(value or ())

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(data) != list(initial or ())


class CheckForm(forms.ModelForm):
    """Reads a check; the service saves all of them at once."""

    values = LinesField(label="Accepted values", help_text="One on each line.")

    class Meta:
        model = Check
        fields = checks.NAMES
        widgets = {
            "columns": UnfoldAdminTextInputWidget({"autocomplete": "off"}),
            "table_columns": UnfoldAdminTextInputWidget({"autocomplete": "off"}),
            "pattern": UnfoldAdminTextInputWidget({"autocomplete": "off", "spellcheck": "false", "class": "font-mono"}),
            "query": UnfoldAdminTextareaWidget({"rows": 4, "spellcheck": "false", "class": "font-mono"}),
            **{
                name: UnfoldAdminIntegerFieldWidget({"min": 1})
                for name in ("percent", "runs", "max_age_s", "time_limit_s")
            },
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "kind" in self.fields:  # not where it is only looked at
            self.fields["kind"].widget.attrs["data-desk-uses"] = json.dumps(USES)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            for error in check_rules.objections(self.spec):
                self.add_error(
                    error.field if error.field in self.fields else None, f"{error.message} {error.hint}".strip()
                )
        return cleaned

    def _get_validation_exclusions(self) -> set[str]:
        # The set as a whole is checked, with better words than a constraint has.
        return {*super()._get_validation_exclusions(), "pipeline"}

    @property
    def spec(self) -> Spec:
        """Without what is left over from another kind, which is no mistake."""
        return check_rules.only_used(checks.from_values(self.cleaned_data))


class CheckFormSet(PaginationInlineFormSet):
    """What a pipeline's rows must pass, as a whole."""

    def clean(self) -> None:
        super().clean()
        if any(self.errors):
            return
        used = self._used()
        for number, refused in checks.against(self.instance, [form.spec for form in used]):
            form = used[min(number, len(used) - 1)]
            form.add_error(refused.field if refused.field in form.fields else None, sentence(refused))

    def specs(self) -> list[Spec]:
        return [form.spec for form in self._used() if form.is_valid()]

    def _used(self) -> list[CheckForm]:
        return [
            form
            for form in self.forms
            if (form.has_changed() or form.instance.pk)
            and not (self.can_delete and self._should_delete_form(form))
            and form.cleaned_data.get("kind")
        ]
