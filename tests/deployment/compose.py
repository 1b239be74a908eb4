"""docker-compose.yml as an engine would read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
FILE = CHECKOUT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<sign>[-?])(?P<rest>[^}]*))?\}")


def services() -> dict[str, dict[str, Any]]:
    """The services as they are written, with YAML's own references resolved."""
    return yaml.safe_load(FILE.read_text())["services"]


def variables() -> dict[str, str | None]:
    """Every variable that the file takes from the environment, with its default; None: it must be set."""
    found: dict[str, str | None] = {}
    for match in _VARIABLE.finditer(FILE.read_text()):
        found[match["name"]] = match["rest"] if match["sign"] == "-" else None
    return found


def environment(service: str, values: Mapping[str, str]) -> dict[str, str]:
    """The environment that a service's containers get, with `values` in compose's own environment."""

    def fill(match: re.Match[str]) -> str:
        default = match["rest"] if match["sign"] == "-" else None
        value = values.get(match["name"]) or default
        assert value is not None, f"{match['name']} must be set"
        return value

    return {name: _VARIABLE.sub(fill, str(value)) for name, value in services()[service]["environment"].items()}
