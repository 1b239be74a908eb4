"""Whether a file says what a file may say: by its schema, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from pipelines.files import fields
from pipelines.files.problems import FileRefused, Path, Problem
from pipelines.files.schema import schema
from pipelines.files.text import Document

_KINDS = {
    "string": "a text",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def check(document: Document) -> None:
    """Raise FileRefused with all that is wrong with the form of a file."""
    errors = Draft202012Validator(schema()).iter_errors(document.data)
    problems = [problem for error in errors for problem in _problems(document, error)]
    if problems:
        raise FileRefused(dict.fromkeys(problems))


def _problems(document: Document, error: ValidationError) -> Iterator[Problem]:
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", ()))
        for name in error.instance:
            if name not in known:
                yield _unknown(document, (*path, name), known)
        return
    yield replace(_in_words(error), path=path, line=document.line(path))


def _unknown(document: Document, path: Path, known: list[str]) -> Problem:
    name, line = str(path[-1]), document.line(path)
    if path[:1] == ("connections",) and path[2:3] == ("options",) and name in _secrets(document, path):
        message = f"{name} is a secret, and no file holds secrets."
        hint = "Take it out, change it where it came from, and enter it in the admin, under Connections."
        return Problem(code="secret_in_file", message=message, hint=hint, path=path, line=line)
    near = get_close_matches(name, known, 1)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
    return Problem(
        code="unknown_field", message=f"There is no entry of the name {name} here.", hint=hint, path=path, line=line
    )


def _secrets(document: Document, path: Path) -> set[str]:
    return {field.name for field in fields.secrets_of(document.data["connections"][path[1]]["kind"])}


def _in_words(error: ValidationError) -> Problem:
    limit, value = error.validator_value, error.instance
    match error.validator:
        case "required":
            missing = [name for name in limit if name not in value]
            is_version = missing == ["version"]
            hint = "Begin the file with: version: 1" if is_version else "Add it."
            return Problem(
                code="required",
                message=f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.",
                hint=hint,
            )
        case "type":
            wanted = " or ".join(_KINDS[kind] for kind in ([limit] if isinstance(limit, str) else limit))
            hint = "Put it in quotes." if "string" in limit and isinstance(value, int) else ""
            return Problem(code="wrong_kind", message=f"This must be {wanted}, and is {_told(value)}.", hint=hint)
        case "enum" | "const":
            choices = ", ".join(str(choice) or '""' for choice in (limit if error.validator == "enum" else [limit]))
            return Problem(
                code="invalid_choice", message=f"{_told(value)} is none of the choices.", hint=f"There are: {choices}."
            )
        case "minimum":
            return Problem(code="min_value", message=f"{value} is too small.", hint=f"It is at least {limit}.")
        case "maximum":
            return Problem(code="max_value", message=f"{value} is too large.", hint=f"It is at most {limit}.")
        case "maxLength":
            return Problem(
                code="max_length", message=f"The text is longer than {limit} characters.", hint="Shorten it."
            )
        case "minLength" | "minItems":
            return Problem(code="blank", message="This must not be empty.")
        case "maxItems":
            return Problem(code="too_many", message=f"These are more than {limit}.", hint="Take some out.")
        case "oneOf":
            return Problem(
                code="bad_rule",
                message="A schedule is either a cron text or an interval.",
                hint="Give cron, or every_s.",
            )
        case "dependentRequired":
            return Problem(code="bad_rule", message="A time zone goes with a cron text.", hint="Take zone out.")
    return Problem(code="invalid", message=error.message)


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "empty"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    text = str(value)
    return f'"{text[:40]}…"' if len(text) > 40 else f'"{text}"'
