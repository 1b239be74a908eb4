"""Numbers of the advisory locks that are taken in the control database: one place, so that no two mean the same."""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class AdvisoryLock(IntEnum):
    """What is done one at a time, on all processes together; held to the end of the transaction."""

    CLAIMS = 0x6D616E747269
    FILES = 7_305_801_140_426
    DEPENDENCIES = 7_305_801_140_427
    UPSTREAMS = 7_305_801_140_428
    ALERTS = 7_305_801_140_429
    BACKFILLS = 7_305_801_140_430
