"""A number of bytes as a person types it: 500 GiB, 1.5 TB, 1000000."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextInputWidget

_UNITS = {
    **{name: 1000**power for power, name in enumerate(("b", "kb", "mb", "gb", "tb", "pb"))},
    **{name: 1024**power for power, name in enumerate(("kib", "mib", "gib", "tib", "pib"), 1)},
}
_EXACT = ("PiB", "TiB", "GiB", "MiB", "PB", "TB", "GB", "MB")
_TYPED = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,6})?)\s*([a-z]{0,3})", re.IGNORECASE)


class BytesField(forms.IntegerField):
    """Whole bytes, typed with a unit or without."""

    widget = UnfoldAdminTextInputWidget

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "widget": UnfoldAdminTextInputWidget({"autocomplete": "off"})})

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        """None of a number's: it is text."""
        return {}

    def to_python(self, value: Any) -> int | None:
        if value in self.empty_values or isinstance(value, int):
            return value if isinstance(value, int) else None
        typed = _TYPED.fullmatch(str(value).replace(",", "").strip())
        unit = _UNITS.get((typed[2] or "b").lower()) if typed else None
        if typed is None or unit is None:
            raise forms.ValidationError("Write bytes with a unit, such as 500 GiB or 2 TB.", code="invalid")
        return int(Decimal(typed[1]) * unit)

    def prepare_value(self, value: Any) -> Any:
        return with_unit(value) if isinstance(value, int) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != initial)
        except forms.ValidationError:
            return True


def with_unit(value: int) -> str:
    """The bytes in the largest unit that says them as a whole number."""
    for name in _EXACT:
        if value and value % _UNITS[name.lower()] == 0:
            return f"{value // _UNITS[name.lower()]} {name}"
    return str(value)
