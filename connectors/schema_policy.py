"""What a pipeline makes of a source whose columns change."""

from __future__ import annotations

from enum import StrEnum


class SchemaPolicy(StrEnum):
    EVOLVE = "evolve"
    FREEZE = "freeze"
    IGNORE_NEW = "ignore_new"
