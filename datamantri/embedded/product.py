"""The whole product on one machine: servers, migrations, first login, and the processes that serve and work."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from datamantri import poller, processes
from datamantri.embedded.errors import EmbeddedError
from datamantri.embedded.on_demand import OnDemand
from datamantri.embedded.prepared import CHECKOUT, Prepared
from datamantri.embedded.secrets import write_private
from datamantri.embedded.stack import CONTROL, DEFAULT_DATA_DIR, EmbeddedStack
from datamantri.embedded.supervisor import Child, ChildSpec

ENVIRONMENT = "environment.json"  # how other commands reach the servers that run
READY_LIMIT_S = 180  # a busy machine; a process that ends is noticed at once
CONFIGURATION_STATUS = 2
OTHER_SCHEMA_STATUS = 3


class Interrupted(Exception):
    """Somebody asked the product to stop while it was starting."""


class Product:
    """Starts everything `up` and `demo` need, and stops it again.

    Servers named by DATABASE_URL and BROKER_URL are used as they are; the others are embedded.
    """

    def __init__(
        self,
        *,
        data_dir: Path = DEFAULT_DATA_DIR,
        port: int = 8000,
        workers: int = 2,
        emulator: bool = False,
        say: Callable[[str], None],
        stopping: threading.Event | None = None,
    ) -> None:
        self._say = say
        self._stopping = stopping or threading.Event()
        self._wanted_port = port
        self._workers = workers
        self._own_database = not os.environ.get("DATABASE_URL")
        self._own_broker = not os.environ.get("BROKER_URL")
        if not self._own_database:
            for name in ("SECRET_KEY", "ENCRYPTION_KEYS"):
                if not os.environ.get(name):
                    raise EmbeddedError(
                        "not_configured",
                        f"DATABASE_URL is set but {name} is not.",
                        "What a database of your own holds must not depend on keys kept in this checkout.",
                    )
        self.stack = EmbeddedStack(
            data_dir, emulator=emulator, postgres=self._own_database, valkey=self._own_broker, say=say
        )
        self.env: dict[str, str] = {}
        self.url = ""
        self._poller: OnDemand | None = None

    @property
    def password_file(self) -> Path:
        return self.stack.data_dir / "password"

    def start(self) -> None:
        """Start everything and return when pages are served and workers wait for work.

        Raises Interrupted when `stopping` is set meanwhile.
        """
        servers = {name: value for name, value in self.stack.start().items() if not os.environ.get(name)}
        port = self.stack.ports.choose_from(self._wanted_port)
        if port != self._wanted_port:
            self._say(f"Port {self._wanted_port} is taken; using {port}.")
        self.env = {**os.environ, **servers, "PORT": str(port), "WORKERS": str(self._workers)}
        self.env.setdefault("PUBLIC_URL", f"http://127.0.0.1:{port}")
        self.url = self.env["PUBLIC_URL"]
        self._prepare()
        self._worker_names = ["worker"]
        names = (*servers, "PORT", "WORKERS", "PUBLIC_URL")
        write_private(self.stack.data_dir / ENVIRONMENT, json.dumps({name: self.env[name] for name in names}, indent=1))
        self._start_processes(
            processes.web("127.0.0.1", port),
            processes.worker(self._workers),
            processes.lookups(),
            processes.beat(),
        )
        is_needed = partial(poller.is_needed, self.env["DATABASE_URL"])
        self._poller = OnDemand(is_needed, lambda: self._start_process(processes.poller()))

    def change_workers(self, names: Sequence[str], environment: Mapping[str, str], *, children: int = 1) -> None:
        """Stop the workers, and start others: one for each name, with so many children and other variables."""
        self.stack.supervisor.stop(*self._worker_names)
        self._worker_names = list(names)
        specs = [processes.worker(children, name) for name in names]
        self._start_processes(*(replace(spec, env={**spec.env, **environment}) for spec in specs))

    def _start_processes(self, *specs: processes.ProcessSpec) -> None:
        """Start processes, and return when all are ready."""
        logs = {spec.name: self.stack.supervisor.log(spec.name) for spec in specs}
        read_from = {name: log.stat().st_size if log.exists() else 0 for name, log in logs.items()}
        children = {spec.name: self._start_process(spec) for spec in specs}
        deadline = time.monotonic() + READY_LIMIT_S
        for spec in specs:
            if spec.ready:
                is_ready = partial(_says, logs[spec.name], spec.ready, read_from[spec.name])
            else:
                is_ready = partial(_answers, int(self.env["PORT"]))
            self._wait(children[spec.name], is_ready, deadline)

    def run(self, *argv: str) -> int:
        """Run a manage.py command against the product, in the foreground; return its exit status."""
        command = (sys.executable, str(CHECKOUT / "manage.py"), *argv)
        spec = ChildSpec(argv[0], command, self.env, cwd=CHECKOUT, foreground=True)
        child = self.stack.supervisor.start(spec, watched=False)
        try:
            while child.is_running():
                self._pause()
        finally:
            self.stack.supervisor.stop(spec.name)
        return child.process.returncode

    def serve(self, *, echo: bool = False) -> None:
        """Keep everything running until `stopping` is set."""
        self.stack.supervisor.watch(self._stopping, echo=sys.stderr if echo else None)

    def stop(self) -> None:
        (self.stack.data_dir / ENVIRONMENT).unlink(missing_ok=True)
        if self._poller is not None:
            self._poller.stop()
        self.stack.stop()

    def _prepare(self) -> None:
        """Apply migrations and make the first login, where that has not been done yet."""
        postgres = self.stack.postgres
        prepared = postgres and Prepared(self.stack.data_dir / "prepared", postgres, CONTROL)
        if prepared and prepared.holds():
            return
        login = ("--login", str(self.password_file)) if prepared else ()
        status = self.run("prepare", *login)
        if status == CONFIGURATION_STATUS:
            raise EmbeddedError("not_configured", "The settings are not usable; see above.")
        if status == OTHER_SCHEMA_STATUS:
            raise EmbeddedError("control_schema_differs", "The database is another version's; see above.")
        if status:
            raise EmbeddedError("prepare", "The database could not be prepared; see above.")
        if prepared:
            prepared.remember()

    def _start_process(self, spec: processes.ProcessSpec) -> Child:
        env = {**self.env, **spec.env}
        return self.stack.supervisor.start(ChildSpec(spec.name, spec.argv, env, cwd=CHECKOUT))

    def _wait(self, child: Child, is_ready: Callable[[], bool], deadline: float) -> None:
        name = child.spec.name
        while not is_ready():
            if not child.is_running() or time.monotonic() > deadline:
                what = "did not become ready" if child.is_running() else "ended at once"
                words = self.stack.supervisor.last_words(name)
                log = self.stack.supervisor.log(name)
                raise EmbeddedError("process_start", f"The {name} process {what}.", f"From {log}:\n{words}")
            self._pause()

    def _pause(self) -> None:
        if self._stopping.wait(0.05):
            raise Interrupted


def running_environment(data_dir: Path = DEFAULT_DATA_DIR) -> dict[str, str]:
    """The variables of the product that runs with this data directory; empty when none does."""
    path = data_dir / ENVIRONMENT
    if not path.exists() or EmbeddedStack.holder(data_dir) is None:
        return {}
    return {str(name): str(value) for name, value in json.loads(path.read_text()).items()}


def _says(log: Path, words: str, start: int) -> bool:
    if not log.exists():
        return False
    with log.open("rb") as file:
        file.seek(start)
        return words.encode() in file.read()


def _answers(port: int) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}/healthz", timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
