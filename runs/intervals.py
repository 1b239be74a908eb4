"""The data interval of runs that no tick made: given by a person, or that of the last tick."""

from __future__ import annotations

from datetime import datetime

from pipelines import given, queries, schedules
from pipelines.models import Pipeline
from runs.models import MOVE_NOTHING, Run
from runs.services.errors import RunRefused

Interval = tuple[datetime | None, datetime | None]
NONE: Interval = (None, None)


def of(run: Run) -> Interval | None:
    """The interval of a run that has one."""
    return (run.data_interval_start, run.data_interval_end) if run.data_interval_end else None


def of_a_run_by_hand(pipeline: Pipeline, action: str) -> Interval:
    """What a run reads that is given no interval: none if it has no use for one, else that of the last tick.

    Raises RunRefused where no schedule says which.
    """
    if action in MOVE_NOTHING or not given.uses_interval(pipeline):
        return NONE
    interval = of_the_last_tick(pipeline)
    if interval is None:
        raise RunRefused(
            "interval_needed",
            f"{pipeline.name} reads a data interval, and no schedule says which.",
            "Give the run one: from when to when.",
        )
    return interval


def of_the_last_tick(pipeline: Pipeline) -> Interval | None:
    """The interval that ended with the last tick of the pipeline's first schedule."""
    schedule = queries.current_schedules().filter(pipeline=pipeline).first()
    if schedule is None:
        return None
    rule = schedules.Rule.of(schedule)
    after = queries.database_now()
    end = schedules.previous_time(rule, after)
    start = end and schedules.previous_time(rule, end)
    return (start, end) if start and end else None
