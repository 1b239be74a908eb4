"""Sections of a pipeline's form that stand folded: what most pipelines leave as it is."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Any

from pipelines.models import Pipeline

FOLDED = (
    "Budget",
    "Changes of the source's columns",
    "Rows that vanish",
    "Guards",
    "Undo",
    "Quarantine",
    "SQL around the load",
    "Key, indexes, partitions",
    "Near real time",
    "Priority and limits",
    "Retries",
    "When the source changes",
    "When ticks meet or are missed",
)
_CLASS = "collapse"


def folded(fieldsets: Iterable[Any], pipeline: Pipeline | None) -> list[Any]:
    """The sections, those of FOLDED folded that this pipeline leaves as usual."""
    folds = {"classes": (_CLASS,)}
    return [
        (name, {**options, **(folds if name in FOLDED and _is_usual(pipeline, options["fields"]) else {})})
        for name, options in fieldsets
    ]


def opened(fieldsets: Iterable[Any], changed: Set[str]) -> list[Any]:
    """The sections, without a fold over what somebody has just typed; one with an error has none anyway."""
    return [
        (name, {**options, "classes": ()} if changed.intersection(options["fields"]) else options)
        for name, options in fieldsets
    ]


def _is_usual(pipeline: Pipeline | None, fields: Iterable[str]) -> bool:
    usual = Pipeline()
    return pipeline is None or all(getattr(pipeline, name) == getattr(usual, name) for name in fields)
