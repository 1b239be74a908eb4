"""Celery's door: decide nothing, call one function."""

from __future__ import annotations

from celery import Task, shared_task

from runs import doorbell, executor, looking, looking_bell, lookout, presence, watching
from runs.alerts import bell
from runs.alerts.work import work


@shared_task(name=doorbell.RING, bind=True, ignore_result=True)
def ring(self: Task) -> None:
    executor.work_on(process=presence.process_name(), task_id=self.request.id)


@shared_task(name=looking_bell.TASK, ignore_result=True)
def look_at_datasets() -> None:
    looking.look_around()


@shared_task(name=bell.TASK, ignore_result=True)
def alerts(*, watch: bool = False) -> None:
    work(watch=watch)


@shared_task(name=lookout.TASK, ignore_result=True)
def look_at_sources() -> None:
    watching.look_at_sources()
