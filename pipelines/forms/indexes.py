"""Indexes as a person types them: one on each line, its columns separated by commas."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextareaWidget

UNIQUE = "unique:"
HELP = (
    "One index on each line: its columns, separated by commas. Begin with “unique:” where no two rows may be "
    "the same in them, for example: unique: order_id, line. They are made after the rows are loaded."
)

Written = list[dict[str, Any]]


class IndexesField(forms.CharField):
    """A list of {columns, unique} as lines of text."""

    def __init__(self, **kwargs: Any) -> None:
        widget = UnfoldAdminTextareaWidget({"rows": 2, "spellcheck": "false", "class": "font-mono"})
        super().__init__(required=False, help_text=HELP, widget=widget, **kwargs)

    def to_python(self, value: Any) -> Written:
        return [_index(line) for line in (value or "").splitlines() if line.strip()]

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) else "\n".join(map(_line, value or ()))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(data) != list(initial or ())


def _index(line: str) -> dict[str, Any]:
    text = line.strip()
    is_unique = text.lower().startswith(UNIQUE)
    columns = (text[len(UNIQUE) :] if is_unique else text).split(",")
    return {"columns": [name.strip().strip("`") for name in columns if name.strip()], "unique": is_unique}


def _line(index: dict[str, Any]) -> str:
    columns = ", ".join(index["columns"])
    return f"{UNIQUE} {columns}" if index.get("unique") else columns
