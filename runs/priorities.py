"""In what order runs are taken: the smaller number goes first.

A run gets its pipeline's priority (10 high, 20 normal, 30 low). Between those there is room for who asks: 5 less for
what a person or program asked for. Backfills have 100 more: behind every live run whatever its priority, and among
themselves in the order of their pipelines. A pipeline's change of priority moves its unfinished runs by as much.
"""

from __future__ import annotations

from pipelines.models import Pipeline

PEOPLE_FIRST = -5
BACKFILL = 100


def scheduled(pipeline: Pipeline) -> int:
    return pipeline.priority


def asked_for(pipeline: Pipeline) -> int:
    return pipeline.priority + PEOPLE_FIRST


def backfill(pipeline: Pipeline) -> int:
    return pipeline.priority + BACKFILL
