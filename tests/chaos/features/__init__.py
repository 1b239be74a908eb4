"""Lanes for what pipelines do beyond moving rows: each has its own feed, its own turns and its own oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.chaos.features import (
    approvals,
    backfills,
    deletes,
    dependencies,
    drift,
    histories,
    masks,
    quarantines,
    realtime,
    restarts,
    sql,
    ticks,
    undo,
)
from tests.chaos.features.watched import Watched
from tests.chaos.feeds import Feed
from tests.chaos.points import DIRECT, STAGED
from tests.chaos.stack import Stack

_MODULES = (
    *(approvals, backfills, deletes, dependencies, drift, histories, masks),
    *(quarantines, realtime, restarts, sql, ticks, undo),
)
LANES: dict[str, type[Watched]] = {kind: lane for module in _MODULES for lane in module.LANES for kind in lane.FEEDS}
FEEDS: dict[str, type[Feed]] = {kind: lane.FEEDS[kind] for kind, lane in LANES.items()}


def names() -> list[str]:
    """Every lane: kind of feed and way of loading."""
    return [f"{kind} {way}" for kind in LANES for way in LANES[kind].WAYS]


def chosen(wishes: Sequence[str]) -> list[str]:
    """The lanes whose names begin as somebody wishes; all of them for no wish, or "all"."""
    return [name for name in names() if not wishes or "all" in wishes or name.startswith(tuple(wishes))]


def make(stack: Stack, name: str, **ends: Any) -> Watched:
    """A lane by its name."""
    kind, _, way = name.partition(" ")
    assert way in (DIRECT, STAGED), name
    return LANES[kind](stack, kind, way, **LANES[kind].ends(stack, ends))
