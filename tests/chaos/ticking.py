"""Schedules that tick while something is struck: each tick has one run, and each run's rows are there once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise

from pipelines.models import Pipeline
from runs.models import Run
from runs.states import TERMINAL
from tests.chaos import history, oracle
from tests.chaos.feeds import Rows, Verdict, compare
from tests.chaos.lanes import Lane
from tests.chaos.stack import Stack, insist


def has_ended(pipeline: Pipeline) -> bool:
    return bool(insist(lambda: not pipeline.runs.exclude(status__in=TERMINAL).exists()))


def verdict(stack: Stack, lane: Lane, runs: Sequence[Run], *, every: timedelta) -> Verdict:
    """Of all runs of a lane that appends all rows of its first round each time, in the order of their ticks."""
    with stack.at_warehouse() as cursor:
        found, strange = oracle.rows_of(cursor, lane.place, lane.feed)
        published = oracle.published(cursor, lane.pipeline.pk)
    told = compare(found, [Rows({row: len(runs) for row in lane.feed.held[0]})])
    told.wrong += strange
    gaps = {later.scheduled_for - earlier.scheduled_for for earlier, later in pairwise(runs)}
    if gaps != {every}:
        told.told.append(f"ticks: {[str(run.scheduled_for) for run in runs]}")
    if published != Counter(str(run.pk) for run in runs):
        told.told.append(f"published: {published}")
    for run in runs:
        told.told += history.faults(run)
    return told
