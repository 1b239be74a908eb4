"""Marks on the fields of a connector's options: forms, storage and redaction follow from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from connectors.errors import ConnectorError

T = TypeVar("T")


def option(
    label: str,
    *,
    default: Any = dataclasses.MISSING,
    help: str = "",
    secret: bool = False,
    multiline: bool = False,
    choices: tuple[str, ...] = (),
    address: bool = False,
    stays: bool = False,
) -> Any:
    """A dataclass field that a form can draw.

    A secret is encrypted, write-only and redacted everywhere. An address decides who is sent the
    secrets: when it changes, stored secrets must be entered again, but for those that stay here.
    """
    metadata = {
        **{"label": label, "help": help, "secret": secret, "multiline": multiline},
        **{"choices": choices, "address": address, "stays": stays},
    }
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


def secret_names(options: type) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(options) if f.metadata.get("secret"))


def sent_secrets(options: type) -> frozenset[str]:
    """The secrets that the system at the address gets to know."""
    stay = {f.name for f in dataclasses.fields(options) if f.metadata.get("stays")}
    return secret_names(options) - stay


def build(options: type[T], values: Mapping[str, Any]) -> T:
    """Make a connector's options from stored values; raises ConnectorError for missing or unknown ones."""
    fields = {f.name: f for f in dataclasses.fields(options)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            message = f"{name} is not an option of this kind of connection."
            raise ConnectorError(message, code="unknown_option", field=name)
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and values.get(name) in (None, ""):
            raise ConnectorError(f"{f.metadata.get('label', name)} is required.", code="required", field=name)
    return options(**values)
