"""Inside a worker of the suite: the named points, and what happens to this process at one that is armed."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos import bells
from tests.chaos.points import ANY, UNDO, Strike

FOLDER = "CHAOS_ARMED"
MOST_SKIPPED = 3
WAIT_MOST_S = 30.0


class Points:
    """`at` is called at each point; `claimed` is the run that this process works on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.claimed: Any = None

    def at(self, point: str) -> None:
        for whose in (self.claimed.pipeline.hex if self.claimed else "", ANY):
            for skip in range(MOST_SKIPPED + 1):
                place = self._folder / f"{point}@{whose}#{skip}"
                struck = self._folder / (f"{point}@{whose}#{skip - 1}" if skip else f"striking-{point}@{whose}")
                try:
                    place.rename(struck)
                except FileNotFoundError:
                    continue
                if not skip:
                    self._strike(point, struck, whose)
                return

    def _strike(self, point: str, place: Path, whose: str) -> None:
        do = json.loads(place.read_text())["do"]
        run, attempt = (self.claimed.run.hex, self.claimed.attempt) if self.claimed else ("", 0)
        pipeline = self.claimed.pipeline.hex if self.claimed else ""
        # The worker leads the session; this process is a child of the one that it is a copy of.
        worker = os.getpgrp()
        strike = asdict(Strike(point, os.getpid(), worker, pipeline, run, attempt, 0.0, _part_of(self.claimed)))
        del strike["at"]  # this process's clock may be wrong
        place.write_text(json.dumps(strike))
        struck = place.rename(self._folder / f"struck-{point}@{whose}")
        if do == "wait":
            deadline = time.monotonic() + WAIT_MOST_S
            while struck.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        elif do == "parent":
            os.kill(worker, signal.SIGKILL)
        elif do == "host":
            os.killpg(worker, signal.SIGKILL)
        else:
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[do])


def _part_of(claimed: Any) -> int | None:
    """The number of the part that was claimed; None for a run."""
    number: int | None = getattr(claimed, "number", None)
    return number


def install() -> None:
    """Put the points around what a worker calls and into the engine, once it is there; and a switch before bells."""
    bells.install_if_told()
    if FOLDER not in os.environ:
        return
    from runs import ends, services

    points = Points(Path(os.environ[FOLDER]))
    services.claim = _claiming(points, "claim", services.claim)
    services.claim_part = _claiming(points, "take", services.claim_part)
    services.spread = _between(points, "spread", services.spread)
    services.finish_part = _between(points, "part_end", services.finish_part)
    services.finish = _between(points, "finish", services.finish)
    ends.raise_fence = _between(points, "fence", ends.raise_fence)


def _claiming(points: Points, name: str, claim: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(claim)
    def claiming(*arguments: Any, **options: Any) -> Any:
        points.claimed = None
        points.at(f"{name}.before")
        points.claimed = claim(*arguments, **options)
        if points.claimed is not None:
            points.at(f"{name}.after")
            _install_in_engine(points)
        return points.claimed

    return claiming


def _between(points: Points, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def passing(*arguments: Any, **options: Any) -> Any:
        points.at(f"{name}.before")
        result = function(*arguments, **options)
        points.at(f"{name}.after")
        return result

    return passing


_installed = False


def _install_in_engine(points: Points) -> None:
    """The engine takes a function `crash` where tests want one; here every default is ours."""
    global _installed
    if _installed:
        return
    _installed = True
    from connectors import staged, transfer, undo

    # As many checkpoints as there are messages.
    staged.BATCH_BYTES = 1
    for engine in (staged, transfer):
        engine.refuse_missing = _between(points, "check", engine.refuse_missing)
    for name, module in list(sys.modules.items()):
        if name.startswith("connectors."):
            for function in vars(module).values():
                defaults = getattr(function, "__kwdefaults__", None)
                if defaults and "crash" in defaults:
                    is_undo = function.__module__ == undo.__name__
                    defaults["crash"] = _of_an_undo(points) if is_undo else points.at


def _of_an_undo(points: Points) -> Callable[[str], None]:
    return lambda point: points.at(f"{UNDO}.{point}")
