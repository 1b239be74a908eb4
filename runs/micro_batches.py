"""Lists of runs in which micro-batches that follow one another are one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode

from django.urls import reverse

from runs import charts
from runs.models import Run, Trigger
from runs.states import RunStatus

LEAST = 3


@dataclass(frozen=True)
class MicroBatches:
    """Some of one pipeline that went well, newest first."""

    runs: Sequence[Run]

    @property
    def first(self) -> Run:
        return self.runs[-1]

    @property
    def last(self) -> Run:
        return self.runs[0]

    @property
    def seconds(self) -> float:
        """How long they took together."""
        return sum(charts.seconds_taken(run) for run in self.runs)

    @property
    def address(self) -> str:
        """The list that begins with the newest of them, one by one."""
        position = f"{(self.last.created_at + timedelta(microseconds=1)).isoformat()}_{self.last.pk}"
        asked = {"pipeline": self.last.pipeline_id, "trigger": Trigger.REALTIME.value, "before": position}
        return f"{reverse('runs')}?{urlencode(asked)}"

    @property
    def rows(self) -> int:
        return sum(run.rows for run in self.runs)


def grouped(runs: Iterable[Run]) -> list[Run | MicroBatches]:
    """The runs in their order; three or more micro-batches of a pipeline in a row that went well are one entry."""
    found: list[Run | MicroBatches] = []
    row: list[Run] = []

    def close() -> None:
        found.extend([MicroBatches(tuple(row))] if len(row) >= LEAST else row)
        row.clear()

    for run in runs:
        if row and (not _went_well(run) or run.pipeline_id != row[0].pipeline_id):
            close()
        if _went_well(run):
            row.append(run)
        else:
            found.append(run)
    close()
    return found


def _went_well(run: Run) -> bool:
    return run.trigger == Trigger.REALTIME and run.status == RunStatus.SUCCEEDED
