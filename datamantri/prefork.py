"""Celery's pool, but its children are copies of a process that has loaded what they need, and has done nothing else.

A fork of the worker itself would copy threads and connections in use, and spawning loads 100 MB anew in every child.
"""

from __future__ import annotations

from typing import Any

import billiard
from celery.concurrency import asynpool, prefork

from runs import presence

PRELOADED = "datamantri.worker_children"


class Worker(asynpool.Worker):
    def __reduce__(self) -> tuple[Any, ...]:
        kind, arguments = super().__reduce__()
        # The child tells its parent by this number that it is free: by the parent's, which is not its own.
        return kind, arguments, {"inqW_fd": self.inqW_fd}


class AsynPool(asynpool.AsynPool):
    Worker = Worker

    def _create_process_handlers(self, hub: Any) -> None:
        super()._create_process_handlers(hub)
        clean_up = self.on_process_down

        def on_process_down(process: Any) -> None:
            clean_up(process)
            presence.child_ended(process.pid)

        self.on_process_down = on_process_down


class TaskPool(prefork.TaskPool):
    Pool = AsynPool

    def on_start(self) -> None:
        billiard.set_start_method("forkserver", force=True)
        billiard.set_forkserver_preload([PRELOADED])
        super().on_start()
