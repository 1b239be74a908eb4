"""The servers and processes that faults strike: each can be killed, and is brought back at once."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from datamantri import processes
from datamantri.embedded.stack import WAREHOUSE, EmbeddedStack
from datamantri.processes import ProcessSpec
from tests.acceptance.product import Product
from tests.chaos import bells
from tests.chaos.points import Armoury
from tests.chaos.struck import FOLDER
from tests.connectors.postgres.proxy import Proxy
from tests.door import Behind

SETTINGS = "tests.chaos.settings"
GONE_S = 30.0
# The worker in place of all others, where a scene needs one of its own.
OTHER = "worker-x"


class Crew(Product):
    """Workers and beats, with what it takes to kill one and to bring it back."""

    def __init__(self, logs: Path, **env: str) -> None:
        super().__init__(logs, 8000, **env)  # nobody serves pages
        self._specs: dict[str, tuple[ProcessSpec, dict[str, str]]] = {}
        self._orphans: list[psutil.Process] = []
        self._ended = threading.Event()
        self._resting: set[str] = set()
        # Processes that ended, with their status: by strikes, or by themselves.
        self.endings: list[str] = []

    def start(self, spec: ProcessSpec, **env: str) -> psutil.Process:
        self._specs[spec.name] = (spec, env)
        return super().start(spec, **env)

    def start_again(self, name: str) -> psutil.Process:
        spec, env = self._specs[name]
        return super().start(spec, **env)

    def rest(self, name: str) -> None:
        """Stop a process, as a warm shutdown does, until it is waked."""
        self._resting.add(name)
        self.stop(name)

    def wake(self, name: str) -> None:
        self.start_again(name)
        self._resting.discard(name)

    @property
    def names(self) -> list[str]:
        return sorted(self._running)

    def is_running(self, name: str) -> bool:
        started = self._running.get(name)
        return started is not None and started.poll() is None

    def keep_running(self, *names: str) -> None:
        """From now on these, or all that run, start again at once when they end."""
        for name in names or self.names:
            threading.Thread(target=self._keep_running, args=(name,), daemon=True).start()

    def _keep_running(self, name: str) -> None:
        while not self._ended.wait(0.05):
            if name in self._resting:
                continue
            if not self.is_running(name):
                self.endings.append(f"{time.strftime('%H:%M:%S')} {name} ended: {self._running[name].poll()}")
                try:
                    self.start_again(name)
                except (AssertionError, psutil.NoSuchProcess) as failed:
                    # It was struck again before it was ready, or what it needs at its start is away.
                    self.endings.append(f"{time.strftime('%H:%M:%S')} {failed}"[:300])

    def kill(self, name: str, *, with_children: bool) -> int:
        """SIGKILL a process, or its whole group as when its host goes; returns its pid."""
        started = self._running[name]
        with suppress(psutil.NoSuchProcess):
            self._orphans += psutil.Process(started.pid).children(recursive=True)
        with suppress(ProcessLookupError):
            if with_children:
                os.killpg(started.pid, signal.SIGKILL)
            else:
                os.kill(started.pid, signal.SIGKILL)
        started.wait(GONE_S)
        return started.pid

    def stop_all(self) -> None:
        self._ended.set()
        time.sleep(0.1)
        for name in self.names:
            # Its leader may be gone already, and its group not.
            with suppress(ProcessLookupError):
                os.killpg(self._running[name].pid, signal.SIGKILL)
            self._running[name].wait(GONE_S)
        self._running.clear()
        for orphan in self._orphans:
            with suppress(psutil.NoSuchProcess):
                orphan.kill()


class Stack:
    """Control database, warehouse, broker, BigQuery, workers and beat, in a folder of their own.

    `workers` are names and numbers of children.
    """

    def __init__(self, folder: Path, *, workers: dict[str, int], lease_s: float, heartbeat_s: float) -> None:
        self.folder = folder
        self.workers = workers
        self.lease_s = lease_s
        self.armoury = Armoury(folder / "armed")
        self.bells = bells.Switch(folder / "bells")
        self._env = {"LEASE_TTL_S": f"{lease_s:g}", "HEARTBEAT_S": f"{heartbeat_s:g}"}
        self._closing = ExitStack()
        # Pipelines whose runs nobody cancels, and what stands between workers and the warehouse.
        self.spared: set[UUID] = set()
        self.between: Proxy | None = None
        self.main: EmbeddedStack
        self.warehouse: EmbeddedStack
        self.bigquery: Behind
        self.crew: Crew
        self._rate = 0.0

    def start(self) -> None:
        emulator = "BIGQUERY_REST_ENDPOINT" not in os.environ
        self.main = EmbeddedStack(self.folder / "main", emulator=emulator, say=None)
        self._closing.callback(self.main.stop)
        self.warehouse = EmbeddedStack(self.folder / "warehouse", valkey=False)
        self._closing.callback(self.warehouse.stop)
        starting = threading.Thread(target=self.warehouse.start)
        starting.start()
        os.environ.update(self.main.start())
        starting.join()
        self._upstream = (os.environ["BIGQUERY_REST_ENDPOINT"], os.environ["BIGQUERY_STORAGE_ENDPOINT"])
        self._start_bigquery()
        self._closing.callback(lambda: self.bigquery.close())
        os.environ["BIGQUERY_REST_ENDPOINT"] = self.bigquery.addresses["rest"]
        os.environ["BIGQUERY_STORAGE_ENDPOINT"] = self.bigquery.addresses["storage"]
        logs = self.folder / "logs"
        logs.mkdir()
        self.crew = Crew(logs, **self._env)
        self._closing.callback(self.crew.stop_all)
        os.environ["DATABASE_URL"] = self.crew.env["DATABASE_URL"]
        os.environ["BROKER_URL"] = self.crew.env["BROKER_URL"]
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "datamantri.settings")

    def start_processes(self, beats: int = 1) -> None:
        together = [threading.Thread(target=self.start_worker, args=(name,)) for name in self.workers]
        together += [threading.Thread(target=self.start_beat, args=(f"beat-{n}",)) for n in range(beats)]
        for thread in together:
            thread.start()
        for thread in together:
            thread.join()
        missing = [name for name in (*self.workers, "beat-0") if not self.crew.is_running(name)]
        if missing:
            raise RuntimeError(f"{', '.join(missing)} did not start; see {self.folder / 'logs'}")

    def start_pollers(self, count: int = 2) -> None:
        """Those that ask sources in near real time; they start again when they are killed."""
        for name in {f"poller-{number}" for number in range(count)} - set(self.crew.names):
            self.crew.start(processes.poller(name))
            self.crew.keep_running(name)

    def stand_between(self) -> None:
        """From now on connections name a relay as the warehouse's address."""
        if self.between is None:
            assert self.warehouse.postgres is not None
            self.between = self._closing.enter_context(Proxy(self.warehouse.postgres.port))

    def start_worker(self, name: str, **env: str) -> None:
        spec = processes.worker(self.workers[name], name)
        points = {FOLDER: str(self.armoury.folder)}
        self.crew.start(spec, **self._rings_as(bells.WORKER), **points, **env)

    @contextmanager
    def other_workers(self, **env: str) -> Iterator[None]:
        """In place of the usual workers one with something else in its environment."""
        usual = dict(self.workers)
        with ExitStack() as back:
            for name in usual:
                self.crew.rest(name)
                back.callback(self.crew.wake, name)
            self.workers = {OTHER: 2}
            back.callback(setattr, self, "workers", usual)
            self.start_worker(OTHER, **env)
            back.callback(self.crew.stop, OTHER)
            yield

    def start_beat(self, name: str, **env: str) -> None:
        self.crew.start(processes.beat(name), **self._rings_as(bells.BEAT), **env)

    def _rings_as(self, role: str) -> dict[str, str]:
        return {"DJANGO_SETTINGS_MODULE": SETTINGS, bells.FOLDER: str(self.bells.folder), bells.ROLE: role}

    def _start_bigquery(self, rest_port: int = 0, storage_port: int = 0) -> None:
        rest, storage = self._upstream
        ports = ["--rest-port", str(rest_port), "--storage-port", str(storage_port)]
        self.bigquery = Behind("tests.bigquery", ["--rest", rest, "--storage", storage, *ports])
        # Small enough that a table of some hundred kilobytes is read in many streams, each of several messages.
        self.bigquery.call("set", message_bytes=16 << 10, small_bytes=40_000)

    def throttle(self, bytes_per_s: float) -> None:
        """Read streams are no faster than this, also after BigQuery came back."""
        self._rate = bytes_per_s
        self.bigquery.call("clear")
        if bytes_per_s:
            self.bigquery.call("inject", kind="rate", method="ReadRows", times=None, bytes_per_s=bytes_per_s)

    def restart_bigquery(self) -> None:
        """Kill BigQuery, the emulator and what stands before it, and bring it back at the same addresses."""
        ports = [int(os.environ[f"BIGQUERY_{name}_ENDPOINT"].rsplit(":", 1)[1]) for name in ("REST", "STORAGE")]
        self.bigquery.process.kill()
        if self.main.emulator is not None:
            self.main.emulator.kill()
        self.bigquery.close()
        if self.main.emulator is not None:
            self.main.emulator.start()
        self._start_bigquery(*ports)
        self.throttle(self._rate)

    def warehouse_options(self) -> dict[str, Any]:
        options = dict(self.warehouse.warehouse())
        return {**options, "port": self.between.port} if self.between else options

    @contextmanager
    def at_warehouse(self, role: str = "postgres") -> Iterator[Any]:
        assert self.warehouse.postgres is not None
        connection = self.warehouse.postgres.connect(WAREHOUSE, role)
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def close(self) -> None:
        self._closing.close()


@contextmanager
def running(**how: Any) -> Iterator[Stack]:
    """A stack whose servers run and whose database is ready; Django is set up against it in this process."""
    folder = Path(tempfile.mkdtemp(prefix="datamantri-chaos-"))
    stack = Stack(folder, **how)
    failed = True
    try:
        stack.start()
        import django

        django.setup()
        bells.install(stack.bells.folder, bells.ASKER)
        yield stack
        failed = False
    finally:
        stack.close()
        if not failed:
            shutil.rmtree(folder, ignore_errors=True)


def insist(ask: Callable[[], Any], *, limit_s: float = 60.0) -> Any:
    """Ask a database until it answers: it may have been killed a moment ago."""
    import psycopg2
    from django.db import Error, connection

    deadline = time.monotonic() + limit_s
    while True:
        try:
            return ask()
        except (Error, psycopg2.Error):
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
