"""The product's own processes for acceptance tests, on a control database of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil
import psycopg2

from datamantri import processes
from datamantri.processes import ProcessSpec

CHECKOUT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 60

T = TypeVar("T")


def wait_for(what: Callable[[], T], *, limit_s: float = 30, every_s: float = 0.05, saying: str = "") -> T:
    """Ask until the answer is true, and return it; fails with `saying` after the limit."""
    deadline = time.monotonic() + limit_s
    while True:
        if answer := what():
            return answer
        assert time.monotonic() < deadline, f"waited {limit_s} s in vain: {saying or what}"
        time.sleep(every_s)


class Product:
    """web, worker, lookups and beat as `up` starts them; each can be killed and started again."""

    def __init__(self, logs: Path, web_port: int, **env: str) -> None:
        self.logs = logs
        self.port = web_port
        self.url = f"http://127.0.0.1:{web_port}"
        self.database = f"product_{uuid.uuid4().hex[:8]}"
        base = os.environ["DATABASE_URL"]
        control = psycopg2.connect(base)
        control.autocommit = True
        with control.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{self.database}"')
        control.close()
        address = urlsplit(base)
        self.env = {
            **os.environ,
            "DATABASE_URL": address._replace(path=f"/{self.database}").geturl(),
            # Beyond the numbers that xdist's workers use.
            "BROKER_URL": os.environ["BROKER_URL"].rsplit("/", 1)[0] + "/15",
            "PUBLIC_URL": self.url,
            "PORT": str(web_port),
            # As installations have them: what is seen within seconds was not found by a lease that ran out.
            "LEASE_TTL_S": "30",
            "HEARTBEAT_S": "1",
            "ALERT_PRIVATE_NETWORKS": "127.0.0.1",
            **env,
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.manage("migrate", "--verbosity", "0")

    def manage(self, *argv: str) -> str:
        done = subprocess.run(
            [str(processes.CELERY[0]), "manage.py", *argv],
            cwd=CHECKOUT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, spec: ProcessSpec, **env: str) -> psutil.Process:
        """Start a process and wait until it says that it is ready."""
        log = self.logs / f"{spec.name}.log"
        begin = log.stat().st_size if log.exists() else 0
        with log.open("ab") as out:
            started = subprocess.Popen(
                spec.argv,
                cwd=CHECKOUT,
                env={**self.env, **spec.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[spec.name] = started

        def is_ready() -> bool:
            assert started.poll() is None, f"{spec.name} ended at once:\n{log.read_text()[-3000:]}"
            if spec.ready:
                return spec.ready.encode() in log.read_bytes()[begin:]
            return self._answers()

        wait_for(is_ready, limit_s=START_LIMIT_S, saying=f"{spec.name} is ready")
        return psutil.Process(started.pid)

    def start_all(self) -> None:
        for spec in (processes.web(port=self.port), processes.worker(2), processes.lookups(), processes.beat()):
            self.start(spec)

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(self._running[name].pid)

    def children(self, name: str = "worker") -> list[psutil.Process]:
        """The pool's processes: children of the one that they are copies of."""
        worker = self.process(name)
        return [child for child in worker.children(recursive=True) if child.ppid() != worker.pid]

    def stop(self, name: str, *, with_signal: int = signal.SIGTERM, grace_s: float = 30) -> None:
        started = self._running.pop(name)
        family = [psutil.Process(started.pid), *psutil.Process(started.pid).children(recursive=True)]
        started.send_signal(with_signal)
        try:
            started.wait(grace_s)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait(5)
        for member in family:
            if member.pid != started.pid:
                with suppress(psutil.NoSuchProcess):
                    member.kill()

    def wait_for_exit(self, name: str, *, limit_s: float = 30) -> None:
        """Until a process has ended by itself."""
        self._running.pop(name).wait(limit_s)

    def stop_all(self) -> None:
        for name in list(self._running):
            self.stop(name, grace_s=5)

    def said(self, name: str) -> str:
        log = self.logs / f"{name}.log"
        return log.read_text() if log.exists() else ""

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=10):
                return True
        except urllib.error.HTTPError as error:
            return error.code < 500
        except OSError:
            return False


def options_without_secret(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    rest = dict(options)
    return rest, {"password": rest.pop("password")}
