"""Pausing, resuming and archiving pipelines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.db import transaction
from django.db.models import QuerySet

from pipelines import queries
from pipelines.models import Dependency, Pipeline, PipelineState, Schedule
from pipelines.services.ticking import end_schedules
from pipelines.signals import paused


def pause(pipelines: QuerySet[Pipeline] | Iterable[Pipeline], *, by: Any) -> int:
    """Let no schedule start runs; says how many were active. What jitter delays is taken back, all else goes on."""
    return _change_state(pipelines, [PipelineState.ACTIVE], by, "Paused.", state=PipelineState.PAUSED)


def resume(pipelines: QuerySet[Pipeline] | Iterable[Pipeline], *, by: Any) -> int:
    """Let schedules start runs again, from now on; says how many were paused."""
    now = queries.database_now()
    return _change_state(pipelines, [PipelineState.PAUSED], by, "Resumed.", state=PipelineState.ACTIVE, active_from=now)


def archive(pipelines: QuerySet[Pipeline] | Iterable[Pipeline], *, by: Any) -> int:
    """Retire pipelines: schedules end, what waits will not run; name, history and published tables stay theirs."""
    with transaction.atomic():
        chosen = [pipeline.pk for pipeline in pipelines]
        # The schedules of a pipeline change only under the lock of its row.
        list(Pipeline.objects.select_for_update(no_key=True).filter(pk__in=chosen).order_by("pk").values_list("pk"))
        end_schedules(Schedule.objects.filter(pipeline__in=chosen), queries.database_now())
        Dependency.objects.filter(pipeline__in=chosen).delete()
        living = [PipelineState.ACTIVE, PipelineState.PAUSED]
        chosen_ones = Pipeline.objects.filter(pk__in=chosen)
        return _change_state(chosen_ones, living, by, "Archived.", state=PipelineState.ARCHIVED)


def _change_state(
    pipelines: QuerySet[Pipeline] | Iterable[Pipeline],
    allowed_from: list[PipelineState],
    by: Any,
    note: str,
    **changes: Any,
) -> int:
    """Change the state exactly once, however many try; a log entry says who did it."""
    with transaction.atomic():
        changed = [
            pk
            for pk in sorted(pipeline.pk for pipeline in pipelines)
            if Pipeline.objects.filter(pk=pk, state__in=allowed_from).update(**changes)
        ]
        if by is not None and by.is_authenticated and changed:
            LogEntry.objects.log_actions(by.pk, Pipeline.objects.filter(pk__in=changed), CHANGE, note)
        if changed and changes["state"] == PipelineState.PAUSED:
            paused.send(sender=Pipeline, pipelines=changed, by=by)
    return len(changed)
