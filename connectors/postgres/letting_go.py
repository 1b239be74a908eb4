"""Former states of a pipeline that a person lets go of, outside of any run."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from connectors.postgres import kept
from connectors.postgres.client import Session
from connectors.postgres.control import target_key
from connectors.postgres.control_schema import SCHEMA

LOCK_TIMEOUT_MS = 2_000


def drop_former(session: Session, pipeline: UUID) -> dict[str, Any]:
    """Drop what is kept of a pipeline's targets: how many were `dropped`, and which are `left`, with the reason."""
    states = kept.former_states(session, pipeline)
    dropped, left = 0, []
    try:
        session.execute(f"BEGIN; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        for target in dict.fromkeys(state.target for state in states):
            # Whoever publishes to it, or puts a state back, ends before or after this.
            session.execute(f"SELECT FROM {SCHEMA}.head WHERE target = %s FOR SHARE", (target_key(target),))
            for one in kept.read(session, target):
                why = kept.drop(session, one) if _is_of(states, one.run) else ""
                if why:
                    left.append({"table": str(one.table), "why": why})
                else:
                    dropped += _is_of(states, one.run)
        session.commit()
    finally:
        session.rollback()
    return {"dropped": dropped, "left": left}


def _is_of(states: list[Any], run: UUID) -> bool:
    return any(state.run == run for state in states)
