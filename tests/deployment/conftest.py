"""The image, built once, and the product in it on servers of the session."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest
from cryptography.fernet import Fernet

from datamantri import processes
from datamantri.embedded import ports
from tests.acceptance.product import wait_for
from tests.deployment import compose
from tests.deployment.image import CannotBuild, Image

_WITH_WORDS = (processes.worker(), processes.lookups(), processes.beat(), processes.poller())
READY = {spec.name: spec.ready for spec in _WITH_WORDS}
START_LIMIT_S = 90


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups, also when this folder is named
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "deployment" in item.path.parts:
            item.add_marker(pytest.mark.xdist_group("image"))


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    folder = Path(tempfile.mkdtemp(prefix="datamantri-image-"))
    folder.chmod(0o755)
    image = Image(folder)
    try:
        image.build()
        yield image
    except CannotBuild as reason:
        pytest.skip(f"the Dockerfile's commands cannot run here: {reason}")
    finally:
        image.remove()


class Containers:
    """Services of the compose file, started from the image as an engine would, on a database of their own."""

    def __init__(self, image: Image, logs: Path, port: int) -> None:
        self.image, self.port, self._logs = image, port, logs
        base = os.environ["DATABASE_URL"]
        name = f"deployed_{uuid.uuid4().hex[:8]}"
        with closing(psycopg2.connect(base)) as control:
            control.autocommit = True
            with control.cursor() as cursor:
                cursor.execute(f'CREATE DATABASE "{name}"')
        self._servers = {
            "DATABASE_URL": urlsplit(base)._replace(path=f"/{name}").geturl(),
            # Beyond the numbers that xdist's workers use.
            "BROKER_URL": os.environ["BROKER_URL"].rsplit("/", 1)[0] + "/14",
        }
        self._filled_in = {
            "SECRET_KEY": "a secret key that is long enough for anybody, and then a little more",
            "ENCRYPTION_KEYS": Fernet.generate_key().decode(),
            "POSTGRES_PASSWORD": "in DATABASE_URL",
            "VALKEY_PASSWORD": "in BROKER_URL",
            "LEASE_TTL_S": "6",
            "HEARTBEAT_S": "1",
        }
        self._running: dict[str, subprocess.Popen[str]] = {}

    def environment(self, service: str, **more: str) -> dict[str, str]:
        """What compose gives the service; servers and the port are not where containers would find them."""
        here = {**self._servers, "PORT": str(self.port), "PUBLIC_URL": f"http://localhost:{self.port}"}
        return {**compose.environment(service, self._filled_in), **here, **more}

    def run(self, service: str, command: list[str] | None = None, **more: str) -> tuple[int, str]:
        """Run a service's command, or another one in its place, to its end."""
        chosen = command or compose.services()[service]["command"]
        return self.image.run(chosen, self.environment(service, **more))

    def health(self, service: str) -> int:
        kind, *command = compose.services()[service]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.run(service, command)[0]

    def start(self, service: str, name: str = "", **more: str) -> None:
        """Start a service and wait until it is ready for work."""
        name = name or service
        log = self._logs / f"{name}.log"
        environment = self.environment(service, **more)
        with log.open("ab") as out:
            command = compose.services()[service]["command"]
            started = self.image.start(command, environment, stdout=out, stderr=out, start_new_session=True)
        self._running[name] = started

        def is_ready() -> bool:
            assert started.poll() is None, f"{name} ended at once:\n{log.read_text()[-3000:]}"
            if service == "web":
                return self.image.run(["python", "-m", "datamantri.health", "web"], environment)[0] == 0
            return READY[service] in log.read_text()

        wait_for(is_ready, limit_s=START_LIMIT_S, every_s=0.2, saying=f"{name} is ready:\n{log.read_text()[-3000:]}")

    def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        """End a service as an engine does: the signal to its first process, then everything that is left."""
        process = self._running.pop(name)
        process.send_signal(number)
        try:
            return process.wait(30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def stop_all(self) -> None:
        for name in list(self._running):
            self.stop(name, signal.SIGKILL)


@pytest.fixture(scope="session")
def containers(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """The services on a migrated database; none is started yet."""
    chosen = ports.Ports(tmp_path_factory.mktemp("ports") / "ports.json")
    containers = Containers(image, tmp_path_factory.mktemp("containers"), chosen.choose("web"))
    try:
        status, said = containers.run("migrate")
        assert status == 0, said
        yield containers
    finally:
        containers.stop_all()
        chosen.give_back()


@pytest.fixture(scope="session")
def another_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], int]]:
    chosen = ports.Ports(tmp_path_factory.mktemp("ports") / "ports.json")
    yield lambda: chosen.choose(uuid.uuid4().hex)
    chosen.give_back()
