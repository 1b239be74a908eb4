"""With leases as an installation has them: how long a lost worker keeps its run waiting."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.chaos import lanes, points
from tests.chaos.cases import Case
from tests.chaos.faults import Fault, KillChild, KillHost, KillNursery, KillParent
from tests.chaos.results import Results
from tests.chaos.scenes import Stage, pause
from tests.chaos.stack import Stack
from tests.chaos.storm import Storm

EVERY_S = 4.0
PAUSED_S = 120.0
# A child's end is told by its parent, a host's by its lease alone.
LOST: tuple[type[Fault], ...] = (KillChild, KillHost, KillParent, KillNursery)


def lose_workers(stack: Stack, results: Results, *, kills: int, seed: int, say: Callable[[str], None]) -> None:
    """Kill children and whole workers at random, several pipelines being under way."""
    ends = lanes.connections(stack)
    kinds = ("append", "replace", "merge")
    made = [lanes.Lane(stack, kind, way, **ends) for kind in kinds for way in points.WAYS]
    chance = random.Random(seed)
    faults = [fault(stack, chance) for fault in LOST]
    weights = [3, 3, 1, 1]
    Storm(stack, made, faults, results, seed, weights).rage(kills=kills, limit_s=600, every_s=EVERY_S, say=say)


def pause_for_minutes(stack: Stack, results: Results) -> None:
    """A process stands still for two minutes just before its COMMIT, and must then find it refused."""
    stage = Stage(stack, results)
    case = Case("publish.before_commit", "stop")
    # Of four children two must be awake.
    chosen = [lanes.Lane(stack, kind, way, **stage.ends) for kind, way in (("append", "direct"), ("replace", "staged"))]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(partial(pause, stage, lane, case, still_s=PAUSED_S)) for lane in chosen]:
            done.result()
