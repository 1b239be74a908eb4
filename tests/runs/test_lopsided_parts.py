"""A table with most of its rows in one part: the run takes as long as that part, and nobody else does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections

from pipelines.models import LoadMethod, Pipeline
from runs import actions, executor
from runs.models import PartLoad, Process
from runs.states import PartStatus, RunStatus, Step
from tests.connectors.memory import in_thread
from tests.runs.memory import Script, nothing
from tests.runs.test_parts import log_of, plan, start, statuses, take_part, work


def test_the_largest_part_holds_up_its_own_run_only(
    moving: Callable[..., Pipeline], script: Script, rows_of: Callable[[Pipeline], int | None]
) -> None:
    script.shares = (9000, 100, 100, 100)
    lopsided, other = moving(load_method=LoadMethod.STAGED), moving(load_method=LoadMethod.STAGED)
    run = start(lopsided)
    plan(run)
    begun, go_on = threading.Event(), threading.Event()

    def read_for_long(stop: Any) -> None:
        begun.set()
        go_on.wait(60)

    script.on_read = [read_for_long, nothing]
    largest = take_part()
    assert largest is not None
    assert largest.number == 0

    def load() -> None:
        try:
            executor.execute_part(largest, granted=time.monotonic(), process="")
        finally:
            connections.close_all()

    thread, _ = in_thread(load)
    try:
        assert begun.wait(30)
        later = start(other)
        work()  # the other worker: what is left of this run, and all of the one that came later
        later.refresh_from_db()
        run.refresh_from_db()
        assert later.status == RunStatus.SUCCEEDED, log_of(later)
        assert (run.status, run.step) == (RunStatus.RUNNING, Step.PARTS)
        assert statuses(run) == [PartStatus.RUNNING, *[PartStatus.DONE] * 3]
        # Nothing of a part is given to who has nothing to do.
        assert take_part() is None
        assert PartLoad.objects.filter(run=run).count() == 4
    finally:
        go_on.set()
        thread.join(60)
    work()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, log_of(run)
    assert rows_of(lopsided) == rows_of(other) == 9300


@pytest.mark.django_db
@pytest.mark.parametrize(("slots", "parts"), [(1, 8), (4, 12), (66, 198), (67, 200), (500, 200)])
def test_more_parts_are_asked_for_than_there_are_slots(
    worker_alive: Callable[..., Process], slots: int, parts: int
) -> None:
    worker_alive(slots=slots)
    assert actions._parts() == parts
