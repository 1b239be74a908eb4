"""A worker whose machine stood still, clocks and all, wakes up as the owner of a run that is long over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from django.db.models.functions import Now

from pipelines.models import Pipeline
from runs import services
from runs.models import Run, Trigger
from runs.states import RunStatus
from tests.runs.memory import Script, nothing
from tests.waiting import until

Moving = Callable[..., Pipeline]
Work = Callable[..., int]
RowsOf = Callable[[Pipeline], "int | None"]


def is_swept(run: Run) -> bool:
    """Not while its owner renews the lease, or writes its log: those who sweep pass over rows that are in use."""
    Run.objects.filter(pk=run.pk).update(lease_until=Now() - timedelta(seconds=1))
    return services.sweep() == 1


def test_a_former_owner_that_raises_the_fence_late_publishes_nothing(
    moving: Moving, work: Work, rows_of: RowsOf, script: Script
) -> None:
    pipeline = moving()
    run, _ = services.request_run(pipeline, trigger=Trigger.MANUAL, by=None)

    def stand_still() -> None:
        """Meanwhile the lease runs out, and another worker finds nothing published and ends the run."""
        until(lambda: is_swept(run))
        newer = services.claim(process="worker@b:1", worker="worker@b:1:2", task_id="task-2")
        assert newer is not None
        services.finish(newer, RunStatus.CANCELLED)

    script.on_fence = [stand_still, nothing]
    work()
    run.refresh_from_db()
    assert (run.status, run.token) == (RunStatus.CANCELLED, 2)
    assert (script.reads, rows_of(pipeline)) == (0, None)
