"""Who may write SQL that runs around loads: it runs in the destination, so it takes a right of its own."""

from __future__ import annotations

from typing import Any

from pipelines.models import Pipeline
from pipelines.objections import PipelineRefused

PERMISSION = "pipelines.sql_pipeline"
FIELDS = ("sql_before", "sql_after", "sql_role", "sql_limit_s")


def may_write(user: Any) -> bool:
    """Whether `user` may write SQL; a command, which has none, may."""
    return user is None or user.has_perm(PERMISSION)


def refuse(before: Pipeline | None, now: Pipeline, by: Any) -> None:
    """Raise PipelineRefused if `by` changes SQL, or where it runs, without the right to."""
    if may_write(by):
        return
    has_sql = bool(now.sql_before or now.sql_after)
    if before is None:
        changed = next((name for name in FIELDS[:3] if getattr(now, name)), None)
    else:
        changed = next((name for name in FIELDS if getattr(now, name) != getattr(before, name)), None)
        if changed is None and has_sql and before.destination_id != now.destination_id:
            changed = "destination"
    if changed is not None:
        raise refused(changed)


def refused(field: str) -> PipelineRefused:
    """SQL that a person wrote reads whatever the connection's role may read."""
    return PipelineRefused(
        "sql_not_allowed",
        "SQL of a pipeline runs in the destination: you may not write it, or have it run elsewhere.",
        "Ask somebody with the permission “Can write SQL that runs around a pipeline's loads”.",
        field,
    )
