"""Priority and pool for many pipelines at once."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminSelectWidget

from pipelines.models import Pool, Priority

KEEP = ""
NONE = "none"


class LimitsForm(forms.Form):
    priority = forms.TypedChoiceField(
        choices=[(KEEP, "As it is"), *Priority.choices],
        coerce=int,
        empty_value=None,
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="Whose runs go first when workers or slots are scarce.",
    )
    pool = forms.ChoiceField(
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="Of the pipelines in one pool, only so many run at once as it has slots.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        pools = [(str(pool.pk), f"{pool.name} ({pool.slots})") for pool in Pool.objects.all()]
        self.fields["pool"].choices = [(KEEP, "As it is"), (NONE, "No pool"), *pools]  # type: ignore[attr-defined]

    @property
    def chosen(self) -> dict[str, Any]:
        """As services.set_limits takes it."""
        pool = self.cleaned_data["pool"]
        moved = {KEEP: False, NONE: None}.get(pool, False) if pool in (KEEP, NONE) else Pool.objects.get(pk=pool)
        return {"priority": self.cleaned_data["priority"], "pool": moved}
