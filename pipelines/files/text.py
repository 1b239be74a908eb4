"""YAML in and out.

Out: only what every reader of YAML, 1.1 or 1.2, takes for the same text is left without quotes; texts of several lines
are literal blocks. In: `true`, `false`, whole numbers and `null` are what they say, and all else is text: no, 1e3,
2024-01-01.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from pipelines.files.problems import FileRefused, Path, Problem

_DEEPEST = 50
_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"[-+]?[0-9]+\Z"),
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
}
# Numbers and truths of YAML 1.2, and of 1.1 as others read it, that PyYAML takes for text.
_ELSEWHERE = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|0o[0-7]+|[-+]?\.(?:inf|Inf|INF)|y|Y|n|N)\Z"
)
_BREAK = re.compile("[\n\x85\u2028\u2029]")
_NOT_STORED = re.compile("[\0\ud800-\udfff]")
_NOT_IN_A_BLOCK = re.compile("[^\n\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


# Reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Document:
    """What a file says, and on which line it says it."""

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """Of the entry at `path`, or of the nearest one around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases (& and *) are not read", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


for _name, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, None)


def read(text: str | bytes) -> Document:
    """Read one YAML document; raises FileRefused."""
    try:
        node = yaml.SafeLoader.get_single_node(_Loader(text))
        lines: dict[Path, int] = {}
        return Document({} if node is None else _value(node, (), lines), lines)
    except yaml.MarkedYAMLError as error:
        raise _unreadable(error) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        said = "it goes too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise FileRefused([Problem(code="bad_yaml", message=f"This is not YAML: {said}.")]) from error


def _unreadable(error: yaml.MarkedYAMLError) -> FileRefused:
    mark = error.problem_mark or error.context_mark
    said = ", ".join(filter(None, [error.context, error.problem]))
    hint = "Write texts that begin with a sign such as *, &, @ or %, or have “: ” in them, in quotes."
    if "'\\t'" in said:
        hint = "Indent by spaces, not by tabs."
    line = mark.line + 1 if mark else 1
    return FileRefused([Problem(code="bad_yaml", message=f"This is not YAML: {said}.", hint=hint, line=line)])


def _value(node: Any, path: Path, lines: dict[Path, int]) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if len(path) > _DEEPEST:
        raise RecursionError
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, lines)
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, (*path, number), lines) for number, each in enumerate(node.value)]
    kind = node.tag.removeprefix(_TAG)
    if kind == "bool":
        return node.value.lower() == "true"
    if kind == "int":
        return _number(node, path)
    if kind == "null":
        return None
    if kind == "str" and not _NOT_STORED.search(node.value):
        return node.value
    if kind == "str":
        raise _refused(node, path, "bad_yaml", "This text has a character that cannot be stored.", "Take it out.")
    raise _refused(node, path, "bad_yaml", f"The tag {node.tag} is not read.", "Take it out.")


def _number(node: Any, path: Path) -> int:
    if len(node.value) > 20:
        raise _refused(node, path, "bad_yaml", f"{node.value[:20]}… is too long a number.", "Write a text in quotes.")
    return int(node.value)


def _mapping(node: Any, path: Path, lines: dict[Path, int]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = _value(key_node, path, {})
        if not isinstance(key, str):
            said = getattr(key_node, "value", "") if isinstance(key_node, yaml.ScalarNode) else "A list or mapping"
            raise _refused(
                key_node, path, "bad_yaml", f"{said} is no text, and stands for a name.", "Put it in quotes."
            )
        if key in made:
            first = lines[(*path, key)]
            raise _refused(
                key_node, (*path, key), "twice", f"{key} stands twice, first in line {first}.", "Take one out."
            )
        lines[(*path, key)] = key_node.start_mark.line + 1
        made[key] = _value(value_node, (*path, key), lines)
    return made


def _refused(node: Any, path: Path, code: str, message: str, hint: str) -> FileRefused:
    return FileRefused([Problem(code=code, message=message, hint=hint, path=path, line=node.start_mark.line + 1)])


# Writing --------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def analyze_scalar(self, scalar: str) -> Any:
        """Let literal blocks hold tabs and spaces at the ends of lines, which they do: see `_text`."""
        found = super().analyze_scalar(scalar)
        if found.multiline and not _NOT_IN_A_BLOCK.search(scalar):
            found.allow_block = True
        return found


_Dumper.add_implicit_resolver(_TAG + "float", _ELSEWHERE, None)


def _text(dumper: _Dumper, text: str) -> Any:
    style = None
    if _BREAK.search(text):
        style = "|" if _survives_as_block(text) else '"'
    return dumper.represent_scalar(_TAG + "str", text, style=style)


class _Block(str):
    """Written as a literal block."""


def _survives_as_block(text: str) -> bool:
    if text.endswith("\n") or _NOT_IN_A_BLOCK.search(text):
        return False  # the empty lines that `write` puts in would count where a block keeps those at its end
    return read(yaml.dump({"a": _Block(text)}, Dumper=_Dumper, allow_unicode=True)).data == {"a": text}


def _list(dumper: _Dumper, values: list[Any]) -> Any:
    plain = not any(isinstance(value, list | dict) for value in values)
    return dumper.represent_sequence(_TAG + "seq", values, flow_style=plain)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(_Block, lambda dumper, text: dumper.represent_scalar(_TAG + "str", str(text), style="|"))
_Dumper.add_representer(list, _list)


def write(data: dict[str, Any], head: str) -> str:
    """`data` as YAML: `head` first, as a comment; sections and their entries apart by empty lines."""
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9, default_flow_style=False)
    lines: list[str] = [f"# {line}".rstrip() for line in head.splitlines()]
    for line in text.split("\n"):
        before = lines[-1]
        begins_section = line[:1] not in ("", " ")
        begins_entry = line.startswith("  ") and line[2:3] not in ("", " ", ":", "-")
        if (begins_section and not before.startswith("#")) or (begins_entry and before.startswith("  ")):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
