"""What a look-ups' worker answers about what a destination keeps: former states, rows in quarantine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from connectors.postgres.quarantined import Wanted
from pipelines import look_ends
from pipelines.look_ends import System


def former_states(system: System, pipeline: str) -> list[dict[str, Any]]:
    with look_ends.destination(system) as destination:
        found = destination.former_states(UUID(pipeline))
    return [
        {
            **asdict(state),
            "run": str(state.run),
            "kept_at": state.kept_at.isoformat(),
            "made_by": state.made_by and str(state.made_by),
            "last_run": state.last_run and str(state.last_run),
        }
        for state in found
    ]


def drop_former(system: System, pipeline: str) -> dict[str, Any]:
    with look_ends.destination(system) as destination:
        done: dict[str, Any] = destination.drop_former(UUID(pipeline))
    return done


def quarantined(system: System, pipeline: str, wanted: dict[str, Any]) -> dict[str, Any]:
    with look_ends.destination(system) as destination:
        found: dict[str, Any] = destination.quarantined(UUID(pipeline), Wanted.from_json(wanted))
    return found


def discard_quarantined(system: System, pipeline: str, wanted: dict[str, Any], by: str, note: str) -> dict[str, int]:
    with look_ends.destination(system) as destination:
        done: dict[str, int] = destination.discard_quarantined(
            UUID(pipeline), Wanted.from_json(wanted), by=by, note=note
        )
        return done
