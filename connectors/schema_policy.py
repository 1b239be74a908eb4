"""What a pipeline makes of a source whose columns change."""

from __future__ import annotations

from enum import StrEnum


class SchemaPolicy(StrEnum):
    """Follow what a target can follow in place, write it anew where it cannot, fail, or do not read new columns."""

    EVOLVE = "evolve"
    REFRESH = "refresh"
    FREEZE = "freeze"
    IGNORE_NEW = "ignore_new"
