"""Where the bars of a chart of runs lie; templates draw them as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from runs.models import Run
from runs.states import RunStatus

LEAST_HEIGHT = 2.0


@dataclass(frozen=True)
class Bar:
    run: Run
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True)
class Chart:
    """Bars from the oldest run on the left to the newest on the right, in a box of `width` × `height`."""

    bars: Sequence[Bar]
    free: Sequence[float]  # where further bars would begin
    thick: float
    width: float
    height: float
    summary: str


def seconds_taken(run: Run, now: datetime | None = None) -> float:
    """How long a run took, or has taken so far; 0 for one that never started."""
    if run.started_at is None:
        return 0.0
    return max(0.0, ((run.finished_at or now or timezone.now()) - run.started_at).total_seconds())


def rows_moved(run: Run) -> float:
    return float(run.rows)


def longest(runs: Iterable[Run]) -> float:
    """The longest that a run took; the time that a person took to decide counts only where there is no other."""
    decided, own = [], []
    for run in runs:
        (decided if run.decision or run.status == RunStatus.HELD else own).append(seconds_taken(run))
    return max(own or decided, default=0.0)


def draw(
    runs: Sequence[Run], value: Callable[[Run], float], *, places: int, width: float, height: float, gap: float = 0.3
) -> Chart:
    """Bars for the newest `places` runs, given oldest first; the highest value fills the height."""
    runs = runs[-places:]
    values = [value(run) for run in runs]
    highest = longest(runs) if value is seconds_taken else max(values, default=0.0)
    step = width / places
    thick = round(step * (1 - gap), 2)
    at = [round(place * step + step * gap / 2, 2) for place in range(places)]
    bars = []
    for x, run, amount in zip(at, runs, values, strict=False):
        tall = min(height, max(LEAST_HEIGHT, height * amount / highest)) if highest else LEAST_HEIGHT
        bars.append(Bar(run, x, round(height - tall, 2), thick, round(tall, 2)))
    return Chart(bars, at[len(runs) :], thick, width, height, summary(runs))


def summary(runs: Sequence[Run]) -> str:
    """What a chart says to someone who cannot see it."""
    if not runs:
        return "No runs yet"
    counts = ((status.label.lower(), sum(run.status == status for run in runs)) for status in RunStatus)
    of = "The last run" if len(runs) == 1 else f"Last {len(runs)} runs"
    return f"{of}: " + ", ".join(f"{count} {label}" for label, count in counts if count)
