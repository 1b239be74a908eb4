"""The named points of a run at which a process can be struck, and how a case arms one."""

from __future__ import annotations

import ast
import json
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
# Only of parts that are ranges of a table, which those of the suite are too small for: struck in
# tests/connectors/postgres/test_staged.py.
OF_RANGES = tuple(f"checkpoint.{side}_{what}" for what in ("done", "start_over") for side in ("before", "after"))
DIRECT, STAGED = "direct", "staged"
WAYS = (DIRECT, STAGED)
# Where rows are on their way.
MIDDLE = {DIRECT: "load.middle", STAGED: "part.middle"}
# What a process passes several times: there it is struck later as well, at so many others' expense.
AGAIN = {
    DIRECT: (("load.middle", 2),),
    STAGED: (
        *(("take.after", 1), ("part.taken", 1), ("part.middle", 2), ("checkpoint.before_commit", 1)),
        *(("checkpoint.before_commit", 3), ("checkpoint.after_commit", 1), ("part_end.before", 1)),
        *(("part_end.after", 1),),
    ),
}
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
        chosen = [point for point, only in found.items() if (not way or only in ("", way)) and point not in OF_RANGES]
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

        `do`: kill, stop (SIGSTOP), parent, host (the worker with all its children), wait (until somebody has `taken`
        the strike, half a minute at most).
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
        """The strike at this point of this pipeline, if there was one."""
        place = self._struck(point, pipeline)
        try:
            told: dict[str, Any] = json.loads(place.read_text())
            # By this machine's clock, whatever the clock of who was struck.
            return Strike(**told, at=place.stat().st_mtime)
        except FileNotFoundError:
            return None

    def taken(self, point: str, pipeline: UUID | None = None) -> Strike | None:
        """The same, which is then forgotten; None, and nobody is struck any more, where nobody was."""
        if self.disarm(point, pipeline):
            return None
        strike = self.struck(point, pipeline)
        self._struck(point, pipeline).unlink(missing_ok=True)
        return strike

    def _struck(self, point: str, pipeline: UUID | None) -> Path:
        return self.folder / f"struck-{point}@{pipeline.hex if pipeline else ANY}"
