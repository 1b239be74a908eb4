"""What the suite found: a table for people, a file for comparisons."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.place import percentile

if TYPE_CHECKING:
    from tests.chaos.lanes import Outcome

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results" / "chaos.json"


@dataclass
class Line:
    """One kind of fault: how often it was tried, how often it hit, and what came of it."""

    times: int = 0
    hit: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    recovery_s: list[float] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("times", "hit", "lost", "doubled", "wrong")},
            "vacuous": self.times - self.hit,
            "recovery_s": [round(seconds, 2) for seconds in self.recovery_s],
        }


class Results:
    """Sums over all faults of one group, such as those with short leases; safe to use from any thread.

    Where `all_must_hit`, a fault that never hit anything is a failure: what was to be shown was not.
    """

    def __init__(self, *, all_must_hit: bool = False) -> None:
        self.all_must_hit = all_must_hit
        self.lines: dict[str, Line] = {}
        self.totals = dict.fromkeys(("runs", "lost", "doubled", "wrong", "wrong_success", "failed_with_rows"), 0)
        self.failures: list[str] = []
        # How many turns each lane of a storm had.
        self.turns: Counter[str] = Counter()
        # What could not be tried here, and why.
        self.skipped: dict[str, str] = {}
        # What else was measured, by what it was measured of.
        self.figures: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()

    def tried(self, fault: str, *, hit: bool, recovery_s: float | None = None) -> None:
        with self._lock:
            line = self.lines.setdefault(fault, Line())
            line.times += 1
            line.hit += hit
            if recovery_s is not None:
                line.recovery_s.append(recovery_s)

    def recovered(self, fault: str, recovery_s: float) -> None:
        with self._lock:
            self.lines[fault].recovery_s.append(recovery_s)

    def judged(self, outcome: Outcome, faults: Iterable[str], how: str) -> None:
        """Count a run once; each fault that struck it answers for what became of its rows."""
        verdict = outcome.verdict
        with self._lock:
            self.totals["runs"] += 1
            self.totals["wrong_success"] += outcome.is_wrong_success
            self.totals["failed_with_rows"] += outcome.is_failed_with_rows
            counts = {"lost": verdict.lost, "doubled": verdict.doubled, "wrong": verdict.wrong + len(verdict.told)}
            for name, count in counts.items():
                self.totals[name] += count
                for fault in set(faults):
                    line = self.lines.setdefault(fault, Line())
                    setattr(line, name, getattr(line, name) + count)
            if not verdict.is_right:
                self.failures.append(f"{how}: run {outcome.run.pk} is {outcome.run.status}; {verdict}")

    def measured(self, what: str, **figures: float) -> None:
        with self._lock:
            self.figures[what] = {name: round(figure, 2) for name, figure in figures.items()}

    def turned(self, lane: str) -> None:
        with self._lock:
            self.turns[lane] += 1

    def failed(self, how: str) -> None:
        with self._lock:
            self.failures.append(how)

    def require(self, *, hits: int, recovery_p95_s: float) -> None:
        """Fail with fewer hits, or where what was struck waited longer."""
        if self.hits < hits:
            self.failed(f"{self.hits} strikes hit, {hits} had to")
        found = _rounded(self._recoveries(), 0.95)
        if found is None or found > recovery_p95_s:
            self.failed(f"what was struck waited {found} s (p95), {recovery_p95_s:g} s at most were to be")

    @property
    def hits(self) -> int:
        return sum(line.hit for line in self.lines.values())

    @property
    def vacuous(self) -> list[str]:
        """The faults that never hit anything."""
        return [name for name, line in sorted(self.lines.items()) if not line.hit]

    @property
    def complaints(self) -> list[str]:
        """Why this group is not good."""
        never = self.vacuous if self.all_must_hit else []
        return [*self.failures, *(f"{name}: hit nothing in {self.lines[name].times} tries" for name in never)]

    @property
    def is_good(self) -> bool:
        return not self.complaints

    def _recoveries(self) -> list[float]:
        return [seconds for line in self.lines.values() for seconds in line.recovery_s]

    def told(self) -> dict[str, Any]:
        recoveries = self._recoveries()
        return {
            "kills": self.hits,
            "vacuous": sum(line.times - line.hit for line in self.lines.values()),
            **self.totals,
            "recovery_p50_s": _rounded(recoveries, 0.5),
            "recovery_p95_s": _rounded(recoveries, 0.95),
            "recovery_max_s": _rounded(recoveries, 1.0),
            "failures": self.failures,
            "all_must_hit": self.all_must_hit,
            "never_hit": self.vacuous,
            "skipped": self.skipped,
            "figures": self.figures,
            "turns": dict(sorted(self.turns.items())),
            "faults": {name: line.told() for name, line in sorted(self.lines.items())},
        }

    def add(self, earlier: dict[str, Any]) -> None:
        """Add the results of an earlier run."""
        for name, told in earlier["faults"].items():
            line = self.lines.setdefault(name, Line())
            for key in ("times", "hit", "lost", "doubled", "wrong"):
                setattr(line, key, getattr(line, key) + told[key])
            line.recovery_s += told["recovery_s"]
        for name in self.totals:
            self.totals[name] += earlier[name]
        self.turns.update(earlier.get("turns", {}))
        self.failures = [*earlier["failures"], *self.failures]
        self.skipped = {**earlier["skipped"], **self.skipped}
        self.figures = {**earlier.get("figures", {}), **self.figures}
        self.all_must_hit |= earlier.get("all_must_hit", False)

    def table(self, title: str) -> str:
        wide = max(46, *(len(name) + 2 for name in [*self.lines, *self.skipped, ""]))
        counts = f"{'times':>6}{'hit':>6}{'lost':>6}{'doubled':>9}{'wrong':>7}"
        head = f"{title:<{wide}}{counts}{'p50 s':>8}{'p95 s':>8}{'max s':>8}"
        rows = [head, "-" * len(head)]
        for name, line in sorted(self.lines.items()):
            shown = [
                f"{_rounded(line.recovery_s, share):>8}" if line.recovery_s else f"{'':>8}"
                for share in (0.5, 0.95, 1.0)
            ]
            vacuous = "  vacuous" if not line.hit else ""
            rows.append(
                f"{name:<{wide}}{line.times:>6}{line.hit:>6}{line.lost:>6}{line.doubled:>9}{line.wrong:>7}{''.join(shown)}{vacuous}"
            )
        rows += [f"{name:<{wide}}skipped: {why}" for name, why in self.skipped.items()]
        return "\n".join(rows)


def _rounded(values: list[float], share: float) -> float | None:
    return round(percentile(values, share), 2) if values else None


def write(path: Path, groups: dict[str, Results], *, seed: int, add: bool) -> None:
    """The groups, and over all of them the figures that the suite stands for."""
    earlier = json.loads(path.read_text()) if add and path.exists() else {}
    for name, told in earlier.get("groups", {}).items():
        groups.setdefault(name, Results()).add(told)
    told = {name: results.told() for name, results in groups.items()}
    total = {
        key: sum(one[key] for one in told.values())
        for key in ("kills", "vacuous", "runs", "lost", "doubled", "wrong", "wrong_success", "failed_with_rows")
    }
    default = told.get("default leases") or {}
    default_lines = default.get("faults", {}).items()
    everything = [s for one in told.values() for line in one["faults"].values() for s in line["recovery_s"]]
    # What an installation with its usual settings may expect, where that was measured.
    recovery = default.get("recovery_p95_s") or _rounded(everything, 0.95)
    content = {
        **total,
        "recovery_p95_s": recovery,
        # The longest that a run waited with default leases, by what was killed.
        "recovery_max_s": {name: max(line["recovery_s"]) for name, line in default_lines if line["recovery_s"]},
        "seeds": [*earlier.get("seeds", []), seed],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "groups": told,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
