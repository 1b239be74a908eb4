"""How much later than its tick a run starts."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from uuid import UUID

MAX_JITTER_S = 6 * 3600


def start_of(schedule: UUID, tick: datetime, jitter_s: float) -> datetime:
    """When the run of a tick starts: the same whoever asks, another for every schedule and tick."""
    if not jitter_s:
        return tick
    seed = hashlib.sha256(schedule.bytes + int(tick.timestamp()).to_bytes(8, "big", signed=True)).digest()
    return tick + timedelta(seconds=jitter_s * int.from_bytes(seed[:6], "big") / 2**48)
