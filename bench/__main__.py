"""`python -m bench [engine] [nested] [merge] [staged] [checks] [quarantine] [memory] [start] [throughput] [lateness]
[log] [realtime] [footprint]`.

Without names it measures all.

`python -m bench scale` is apart: see bench/scale.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from bench.place import running_product, say

RESULTS = Path(__file__).parent / "results" / "bench.json"
ALL = (
    "engine",
    "nested",
    "merge",
    "staged",
    "checks",
    "quarantine",
    "memory",
    "start",
    "throughput",
    "lateness",
    "log",
    "realtime",
    "footprint",
)


def main(names: list[str]) -> int:
    if names == ["scale"]:
        from bench import scale

        return scale.measure()
    wanted = names or list(ALL)
    if unknown := set(wanted) - set(ALL):
        say(f"There is no bench called {', '.join(sorted(unknown))}; there are {', '.join(ALL)}.")
        return 2
    if not names:
        RESULTS.unlink(missing_ok=True)
    if "footprint" in wanted:
        from bench import footprint

        _keep(footprint.measure())
    if set(wanted) - {"footprint"}:
        _with_product(wanted)
    say(f"Written to {RESULTS}")
    return 0


def _keep(figures: dict[str, float]) -> None:
    """Add figures to the results as soon as they are measured."""
    RESULTS.parent.mkdir(exist_ok=True)
    earlier = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rounded = {name: round(value, 4) for name, value in figures.items()}
    RESULTS.write_text(json.dumps({**earlier, **rounded}, indent=1) + "\n")


def _with_product(wanted: list[str]) -> None:
    with running_product() as product:
        from bench import checks, engine, latency, merge, nested, quarantine, realtime, staged, tables

        say("Making tables in the emulator …")
        tables.make(long="memory" in wanted or "staged" in wanted)
        bench = latency.Bench(product)
        steps: dict[str, Callable[[], dict[str, float]]] = {
            "engine": lambda: engine.measure(product, bench.full_run()),
            "nested": lambda: nested.measure(product),
            "merge": lambda: merge.measure(product),
            "staged": lambda: staged.measure(product, bench),
            "checks": lambda: checks.measure(bench),
            "quarantine": lambda: quarantine.measure(bench),
            "memory": lambda: engine.measure_memory(product),
            "start": lambda: latency.measure_start(bench),
            "throughput": lambda: latency.measure_throughput(bench),
            "lateness": lambda: latency.measure_lateness(bench),
            "log": lambda: latency.measure_log(bench),
            "realtime": lambda: realtime.measure(bench),
        }
        for name, step in steps.items():
            if name in wanted:
                _keep(step())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
