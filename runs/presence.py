"""A worker says that it lives, drains when asked to end, and gives back what a dead child held."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.signals import (
    task_failure,
    worker_init,
    worker_process_init,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection, connections

from runs import doorbell, live, services
from runs.models import Process

log = logging.getLogger(__name__)

NAME = "DATAMANTRI_PROCESS"
RETRY_S = 1.0
JOIN_S = 5
# A claim that was on its way when a child died is committed by then.
LAST_CLAIM_S = 2.0


def process_name() -> str:
    """The worker that this process is, or is a child of; children inherit it."""
    return os.environ.get(NAME, "")


def worker_name(process: str, pid: int) -> str:
    """What a child of a worker calls itself in leases."""
    return f"{process or socket.gethostname()}:{pid}"


def keep_connections() -> None:
    """A long-lived process keeps its database connection; the web does not."""
    for alias in connections:
        connections.settings[alias]["CONN_MAX_AGE"] = None
        connections.settings[alias]["CONN_HEALTH_CHECKS"] = True


class Presence:
    """One thread of the worker's parent process does what Celery's signals only note down.

    Signals arrive in the loop that hands out messages, or between any two of its lines: no place to
    wait for a database, or to give up on one that is away for a moment.
    """

    def __init__(self, name: str, slots: int) -> None:
        self._name = name
        self._slots = slots
        self._has_begun = False
        self._is_ending = False
        self._has_left = False
        self._lost: list[Callable[[], int]] = []
        # Children that are looked at again, and when.
        self._again: list[tuple[float, Callable[[], int]]] = []
        self._noted = threading.Event()
        self._saying = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def lose_task(self, task_id: str) -> None:
        self._lose(partial(services.give_back_lease, task_id, process=self._name))

    def lose_child(self, pid: int) -> None:
        give_back = partial(services.give_back_leases, worker_name(self._name, pid))
        self._again.append((time.monotonic() + LAST_CLAIM_S, give_back))
        self._lose(give_back)

    def _lose(self, give_back: Callable[[], int]) -> None:
        self._lost.append(give_back)
        self._noted.set()
        if not self._has_left:
            return
        try:
            self._give_back()  # the thread has ended: a worker that breaks down hears of its children last
        except DatabaseError as error:
            log.warning("A lease could not be given back, and runs out: %s", error)

    def end(self) -> None:
        self._is_ending = True
        self._noted.set()

    def leave(self) -> None:
        """Sign off; nothing is said after it."""
        with self._saying:
            self._has_left = True
            self._give_back()
            # A worker that breaks down may never hear of some of its children: none of them outlives it.
            services.give_back_all_leases(self._name)
            services.end_process(self._name)
        self._noted.set()
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        while not self._has_left:
            self._noted.clear()
            try:
                with self._saying:
                    self._say()
                wait_s = settings.HEARTBEAT.total_seconds()
                if self._again:
                    wait_s = min(wait_s, LAST_CLAIM_S)
            except DatabaseError as error:
                log.warning("The control database does not answer: %s", type(error).__name__)
                connection.close()
                wait_s = RETRY_S
            except Exception:
                # The thread must outlive it: a worker that says nothing counts as dead, and nobody would call it.
                log.exception("This worker could not say that it lives")
                wait_s = RETRY_S
            if not self._has_left:
                self._noted.wait(wait_s)

    def _say(self) -> None:
        if self._has_left:
            return
        if self._has_begun:
            services.seen(self._name, Process.Kind.WORKER, slots=self._slots)
        else:
            services.start_process(self._name, Process.Kind.WORKER, slots=self._slots)
            self._has_begun = True
            # What waited while no worker lived.
            doorbell.ring(self._slots)
        if self._is_ending:
            # Children claim nothing more, and hand back what they hold.
            services.drain_process(self._name)
        self._give_back()

    def _give_back(self) -> None:
        """What dead children held: their leases need not run out first."""
        while self._again and self._again[0][0] <= time.monotonic():
            self._lost.append(self._again.pop(0)[1])
        while self._lost:
            self._lost[0]()
            del self._lost[0]


_presence: Presence | None = None


@worker_init.connect
def _name_process(sender: Any, **_: object) -> None:
    """Before the children are spawned: they inherit the name, which no worker that lives beside this one has."""
    os.environ[NAME] = f"{sender.hostname}:{os.getpid()}"
    keep_connections()


@worker_ready.connect
def _announce(sender: Any, **_: object) -> None:
    """Only a worker that takes transfers counts as slots."""
    global _presence
    if doorbell.QUEUE in {queue.name for queue in sender.task_consumer.queues}:
        _presence = Presence(process_name(), sender.controller.concurrency)
        _presence.start()


@worker_shutting_down.connect
def _drain(**_: object) -> None:
    """A warm shutdown (this signal fires in the parent only)."""
    if _presence is not None:
        _presence.end()


@task_failure.connect
def _give_back(task_id: str, exception: BaseException, **_: object) -> None:
    """A child died. Celery sends this from the parent, also for a message that was acknowledged early."""
    if _presence is not None and isinstance(exception, WorkerLostError):
        _presence.lose_task(task_id)


def child_ended(pid: int) -> None:
    """A child is gone. Its pool knows by its pid, even where it cannot tell which message the child had."""
    if _presence is not None:
        _presence.lose_child(pid)


@worker_shutdown.connect
def _leave(**_: object) -> None:
    """All children have ended."""
    if _presence is None:
        return
    try:
        _presence.leave()
    except DatabaseError as error:
        log.warning("This worker could not sign off: %s", error)


@worker_process_init.connect
def _warm_up(**_: object) -> None:
    keep_connections()


def import_engine() -> None:
    """Load what a transfer needs before the first one: a second of imports is not a run's to pay."""
    from connectors import registry, transfer  # noqa: F401

    live.warm_up()
    for kind in registry.KINDS.values():
        if kind.source:
            registry.source_type(kind.name)
        if kind.destination:
            registry.destination_type(kind.name)
