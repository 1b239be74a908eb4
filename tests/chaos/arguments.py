"""What `python -m tests.chaos` is asked for; whatever it does not know is refused before anything is started."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tests.chaos.results import RESULTS

POINTS, SCENES, STORM, FEATURES, LEASES = "points", "scenes", "storm", "features", "leases"
# With settings of their own, so in a process of their own.
PARTS = (POINTS, SCENES, STORM, FEATURES, LEASES)
# Those of `scenes.SCENES` and its like, which cannot be imported before there is a database.
SCENE_NAMES = (
    *("cut", "paused", "broker", "minute", "messages", "disk", "clock", "tickers", "rabbitmq"),
    *("rabbitmq-minute",),
)


def options(arguments: list[str]) -> argparse.Namespace:
    """Ends with status 2 and a sentence for what it does not know."""
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)}, or a scene by its name; all unless named")
    parser.add_argument("--lanes", nargs="*", default=[], help="those of features, by how their names begin")
    parser.add_argument("--short", action="store_true", help="what is worth a minute")
    parser.add_argument("--kills", type=int, default=100, help="how many random strikes are to hit")
    parser.add_argument("--minutes", type=float, default=10, help="after which no more of them come")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="between two of them, on average")
    parser.add_argument("--limit", type=float, default=7200, metavar="SECONDS", help="after which to give up")
    parser.add_argument("--seed", type=int, default=0, help="repeat the same choices; 0 chooses a seed")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--add", action="store_true", help="add to the results of the run before")
    chosen = parser.parse_args(arguments)
    unknown = [part for part in chosen.parts if part not in (*PARTS, *SCENE_NAMES)]
    if unknown:
        known = ", ".join((*PARTS, *SCENE_NAMES))
        parser.error(f"There is no part {', '.join(map(repr, unknown))}; there are {known}.")
    if chosen.lanes and chosen.parts and not {POINTS, FEATURES} & set(chosen.parts):
        parser.error("--lanes chooses among the lanes of features: name points or features with it.")
    if chosen.short:
        # Enough of them hit within seconds; on a machine that is busy they have longer.
        chosen.kills, chosen.minutes = 5, 1.5
    return chosen


def in_turn(chosen: argparse.Namespace) -> list[list[str]]:
    """The arguments of one process for what has leases of its own, and one for the rest; none where one will do."""
    parts = chosen.parts or list(PARTS)
    others = [part for part in parts if part != LEASES]
    if not others or len(others) == len(parts):
        return []
    return [_as_told(chosen, others), _as_told(chosen, [LEASES], add=True)]


def _as_told(chosen: argparse.Namespace, parts: list[str], **changes: Any) -> list[str]:
    told = [*parts]
    for name, value in {**vars(chosen), **changes, "parts": None}.items():
        if value is True or (isinstance(value, list) and value):
            told += [f"--{name}", *(value if isinstance(value, list) else ())]
        elif value not in (None, False, []):
            told.append(f"--{name}={value}")
    return told
