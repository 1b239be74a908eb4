"""Parameters as a person types them: one on each line, `name TYPE = default`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextareaWidget

from connectors.errors import ConnectorError
from connectors.parameters import kind_of, value_of

# As markup, which the admin takes help for.
HELP = (
    "One parameter on each line: its name, its type and what a run takes that is given nothing else, for example: "
    "country STRING = DE. Types are STRING, INT64, FLOAT64, NUMERIC, BOOL, DATE, DATETIME, TIMESTAMP, and "
    'ARRAY&lt;…&gt; of these with a list: tags ARRAY&lt;STRING&gt; = ["a", "b"]. Without a default it is NULL. A query '
    "names it as @country."
)
_LINE = re.compile(r"(?P<name>\S+)\s+(?P<type>ARRAY\s*<[^>]*>|\w+)\s*(?:=\s*(?P<default>.*))?", re.IGNORECASE)


class ParametersField(forms.CharField):
    """{name: {type, default}} as lines of text."""

    def __init__(self, **kwargs: Any) -> None:
        widget = UnfoldAdminTextareaWidget({"rows": 3, "spellcheck": "false", "class": "font-mono"})
        super().__init__(required=False, help_text=HELP, widget=widget, **kwargs)

    def to_python(self, value: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for line in (value or "").splitlines():
            if line.strip():
                name, declared = _read(line.strip())
                if name in found:
                    raise forms.ValidationError(f"Parameter {name} is declared twice.", code="parameter")
                found[name] = declared
        return found

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(_line(*each) for each in value.items()) if isinstance(value, Mapping) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return self.to_python(data) != dict(initial or {})
        except forms.ValidationError:
            return True


def _read(line: str) -> tuple[str, dict[str, Any]]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise forms.ValidationError(f"{line[:80]} is no parameter. Write for example: country STRING = DE", "parameter")
    try:
        kind = kind_of(match["type"])
        default = None if match["default"] is None else value_of(_typed(match["default"].strip(), kind.repeated), kind)
    except ConnectorError as error:
        raise forms.ValidationError(f"{match['name']}: {error.message} {error.hint}", "parameter") from error
    declared: dict[str, Any] = {"type": str(kind)}
    return match["name"], declared if default is None else {**declared, "default": default}


def _typed(text: str, repeated: bool) -> Any:
    """What was typed: a list as JSON has it, the rest as it stands. Nothing, and the word NULL, are NULL."""
    if text in ("", "NULL"):
        return None
    if text[0] in '["':
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _line(name: str, declared: Mapping[str, Any]) -> str:
    value = declared.get("default")
    return f"{name} {declared['type']}" + ("" if value is None else f" = {typed(value)}")


def typed(value: Any) -> str:
    """A value as a person would type it: texts bare, unless they would be read as something else."""
    if isinstance(value, str) and value not in ("", "NULL") and value[0] not in '["' and value == value.strip():
        return value if "\n" not in value and "\r" not in value else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


def read_typed(text: str, repeated: bool) -> Any:
    return _typed(text.strip(), repeated)
