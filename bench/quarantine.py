"""What a quarantine costs a load that has nothing to put there."""

from __future__ import annotations

from typing import Any

from bench.latency import Bench
from bench.place import median, say

ROUNDS = 5
TABLE = "narrow"


def measure(bench: Bench) -> dict[str, float]:
    """Trigger → succeeded of the same replace of a million rows, with a quarantine and without, in turn."""
    plain = bench.pipeline("quarantine_off", TABLE, load_method="direct")
    ready = bench.pipeline("quarantine_on", TABLE, load_method="direct", quarantine=True)
    _seconds(bench, plain), _seconds(bench, ready)  # warm, and both replace a table
    rounds = [(_seconds(bench, plain), _seconds(bench, ready)) for _ in range(ROUNDS)]
    off, on = (median(side) for side in zip(*rounds, strict=True))
    overhead = median([on_s / off_s - 1 for off_s, on_s in rounds])
    say(f"1,000,000 rows: {off:.2f} s, with a quarantine {on:.2f} s, overhead {overhead:.0%}")
    return {"quarantine_off_s": off, "quarantine_on_s": on, "quarantine_overhead": overhead}


def _seconds(bench: Bench, pipeline: Any) -> float:
    run = bench.run(pipeline)
    return float((run.finished_at - run.created_at).total_seconds())
