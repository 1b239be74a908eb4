"""Rows that a pipeline puts into quarantine: what its definition says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.quarantine import Beyond, QuarantineRule
from pipelines.models import Pipeline

FIELDS = ("quarantine", "quarantine_rows", "quarantine_percent", "quarantine_beyond", "quarantine_days")
USUAL = {name: Pipeline._meta.get_field(name).get_default() for name in FIELDS}


def fields(pipeline: Pipeline) -> dict[str, Any]:
    return {name: getattr(pipeline, name) for name in FIELDS}


def said(pipeline: Pipeline) -> dict[str, Any]:
    """What a definition says of it: only what is not as usual, as definitions from before it could be chosen."""
    told = {name: value for name, value in fields(pipeline).items() if value != USUAL[name]}
    return {name: str(value) if name == "quarantine_beyond" else value for name, value in told.items()}


def rule_of(definition: Mapping[str, Any]) -> QuarantineRule:
    """What the engine goes by."""
    given = {name: definition.get(name, usual) for name, usual in USUAL.items()}
    return QuarantineRule(
        is_on=given["quarantine"],
        most_rows=given["quarantine_rows"],
        most_percent=given["quarantine_percent"],
        beyond=Beyond(given["quarantine_beyond"]),
        keep_days=given["quarantine_days"],
    )
