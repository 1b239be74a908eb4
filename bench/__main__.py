"""`python -m bench [engine] [memory] [start] [throughput] [lateness] [log] [footprint]`; all without names."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from bench.place import running_product, say

RESULTS = Path(__file__).parent / "results" / "bench.json"
ALL = ("engine", "memory", "start", "throughput", "lateness", "log", "footprint")


def main(names: list[str]) -> int:
    wanted = names or list(ALL)
    if unknown := set(wanted) - set(ALL):
        say(f"There is no bench called {', '.join(sorted(unknown))}; there are {', '.join(ALL)}.")
        return 2
    figures: dict[str, float] = {}
    if "footprint" in wanted:
        from bench import footprint

        figures |= footprint.measure()
    if set(wanted) - {"footprint"}:
        figures |= _with_product(wanted)
    RESULTS.parent.mkdir(exist_ok=True)
    earlier = json.loads(RESULTS.read_text()) if names and RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**earlier, **{name: round(v, 4) for name, v in figures.items()}}, indent=1) + "\n")
    say(f"Written to {RESULTS}")
    return 0


def _with_product(wanted: list[str]) -> dict[str, float]:
    figures: dict[str, float] = {}
    with running_product() as product:
        from bench import engine, latency, tables

        say("Making tables in the emulator …")
        tables.make(long="memory" in wanted)
        bench = latency.Bench(product)
        steps: dict[str, Callable[[], dict[str, float]]] = {
            "engine": lambda: engine.measure(product, bench.full_run()),
            "memory": lambda: engine.measure_memory(product),
            "start": lambda: latency.measure_start(bench),
            "throughput": lambda: latency.measure_throughput(bench),
            "lateness": lambda: latency.measure_lateness(bench),
            "log": lambda: latency.measure_log(bench),
        }
        for name, step in steps.items():
            if name in wanted:
                figures |= step()
    return figures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
