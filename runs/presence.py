"""A worker says that it lives, drains when asked to end, and gives back what a dead child held."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.signals import task_failure, worker_init, worker_process_init, worker_ready, worker_shutting_down
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection, connections

from runs import doorbell, services
from runs.models import Process

log = logging.getLogger(__name__)

NAME = "DATAMANTRI_PROCESS"


def process_name() -> str:
    """The Celery node that this process is, or is a child of; children inherit it."""
    return os.environ.get(NAME, "")


def keep_connections() -> None:
    """A long-lived process keeps its database connection; the web does not."""
    for alias in connections:
        connections.settings[alias]["CONN_MAX_AGE"] = None
        connections.settings[alias]["CONN_HEALTH_CHECKS"] = True


@worker_init.connect
def _name_process(sender: Any, **_: object) -> None:
    """Before the children are spawned: they inherit the name."""
    os.environ[NAME] = sender.hostname
    keep_connections()


@worker_ready.connect
def _announce(sender: Any, **_: object) -> None:
    """Only a worker that takes transfers counts as slots."""
    if doorbell.QUEUE not in {queue.name for queue in sender.task_consumer.queues}:
        return
    slots = sender.controller.concurrency
    threading.Thread(target=_heartbeats, args=(sender.hostname, slots), name="presence", daemon=True).start()


def _heartbeats(name: str, slots: int) -> None:
    begun = False
    while True:
        try:
            if begun:
                services.seen(name, Process.Kind.WORKER, slots=slots)
            else:
                services.start_process(name, Process.Kind.WORKER, slots=slots)
                begun = True
                # What waited while no worker lived.
                doorbell.ring(slots)
        except DatabaseError as error:
            log.warning("The control database does not answer: %s", type(error).__name__)
            connection.close()
        if _ending.wait(settings.HEARTBEAT.total_seconds()):
            return


_ending = threading.Event()


@worker_shutting_down.connect
def _drain(sender: Any, **_: object) -> None:
    """A warm shutdown: children hand back what they hold (this signal fires in the parent only)."""
    _ending.set()
    try:
        services.drain_process(str(sender))
    except DatabaseError as error:
        log.warning("The drain flag could not be written: %s", type(error).__name__)


@task_failure.connect
def _give_back(task_id: str, exception: BaseException, **_: object) -> None:
    """A child died: its lease need not run out first."""
    if isinstance(exception, WorkerLostError):
        services.give_back_lease(task_id)


@worker_process_init.connect
def _warm_up(**_: object) -> None:
    """Load what a transfer needs before the first one: a second of imports is not a run's to pay."""
    keep_connections()
    threading.Thread(target=_import_engine, name="warm-up", daemon=True).start()


def _import_engine() -> None:
    from connectors import registry, transfer  # noqa: F401

    for kind in registry.KINDS.values():
        if kind.source:
            registry.source_type(kind.name)
        if kind.destination:
            registry.destination_type(kind.name)
