"""The named points of a run at which a process can be struck, and how a case arms one."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

CHECKOUT = Path(__file__).resolve().parents[2]
# Those around what the workers' own code calls; `struck.py` puts them there.
AROUND = ("claim", "fence", "check", "finish")
AROUND_PARTS = ("take", "spread", "part_end")
# No run is known at these: whoever comes next is struck.
NOBODYS = ("claim.before", "take.before")
ANY = "any"
# Only where a guard holds what it was to publish.
HELD = "publish.held"
DIRECT, STAGED = "direct", "staged"
WAYS = (DIRECT, STAGED)
# An undo passes points of its own, under the same names as a load's: here they are undo.publish.before_lock, ….
UNDO = "undo"
_RANKS = (
    *("claim", "fence", "plan", "stage", "spread", "take", "part", "checkpoint", "part_end", "load", "check"),
    *("publish", "undo", "finish"),
)


def names(way: str = "") -> list[str]:
    """Every point of this way of loading, or of both, in the order of a run; the engine's are found in its source."""
    found = {f"{name}.{side}": "" for name in AROUND for side in ("before", "after")}
    found |= {f"{name}.{side}": STAGED for name in AROUND_PARTS for side in ("before", "after")}
    for path in sorted((CHECKOUT / "connectors").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _name(node.func) in ("crash", "_crash") and node.args:
                point = node.args[0]
                if isinstance(point, ast.Constant) and isinstance(point.value, str):
                    if path.stem == UNDO:
                        found[f"{UNDO}.{point.value}"] = UNDO
                        continue
                    only = STAGED if path.stem == "staged" else DIRECT if _stem(point.value) in ("plan", "load") else ""
                    found[point.value] = only
    if way == UNDO:
        chosen = [point for point, only in found.items() if only == UNDO]
    else:
        chosen = [point for point, only in found.items() if not way or only in ("", way)]
    return sorted(chosen, key=lambda point: _RANKS.index(_stem(point)) if _stem(point) in _RANKS else 99)


def _name(function: ast.expr) -> str:
    return getattr(function, "id", getattr(function, "attr", ""))


def _stem(point: str) -> str:
    return point.partition(".")[0]


@dataclass(frozen=True)
class Strike:
    """What was struck: where, in which process, which attempt of which run, and when (seconds since 1970)."""

    point: str
    pid: int
    parent: int
    pipeline: str
    run: str
    attempt: int
    at: float
    part: int | None = None


class Armoury:
    """Strikes that lie in wait, as files in a folder that all workers of the suite know.

    Whoever renames a file first is struck, so each strikes once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def arm(self, point: str, do: str, pipeline: UUID | None = None, *, skip: int = 0) -> None:
        """Let the next process that comes to `point` (of this pipeline), after `skip` others, be struck.

        `do`: kill, stop (SIGSTOP), parent, host (the worker with all its children).
        """
        whose = pipeline.hex if pipeline else ANY
        place = self.folder / f"{point}@{whose}#{skip}"
        draft = place.with_name("draft-" + place.name)
        draft.write_text(json.dumps({"do": do}))
        draft.rename(place)

    def disarm(self, point: str, pipeline: UUID | None = None) -> bool:
        """Take it back; says whether it was still there."""
        whose = pipeline.hex if pipeline else ANY
        waiting = list(self.folder.glob(f"{point}@{whose}#*"))
        for place in waiting:
            place.unlink(missing_ok=True)
        return bool(waiting)

    def struck(self, point: str, pipeline: UUID | None = None) -> Strike | None:
        """The strike at this point of this pipeline, which is then forgotten."""
        place = self.folder / f"struck-{point}@{pipeline.hex if pipeline else ANY}"
        try:
            told: dict[str, Any] = json.loads(place.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        os.unlink(place)
        return Strike(**told)
