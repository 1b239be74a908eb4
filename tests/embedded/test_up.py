"""`manage.py up` brings the product up with one command and takes all of it down again."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from datamantri.embedded import ports
from tests.embedded.conftest import processes_in, wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
UP_LIMIT_S = 120


def manage(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "manage.py", *arguments]
    return subprocess.run(argv, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=UP_LIMIT_S, check=False)


class Up:
    """`manage.py up` in a process of its own."""

    def __init__(self, env: dict[str, str], *arguments: str) -> None:
        argv = [sys.executable, "manage.py", "up", *arguments]
        self.process = subprocess.Popen(
            argv, cwd=CHECKOUT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []

    def read_until(self, words: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if words in line:
                return line.strip()
        raise AssertionError("\n".join(self.lines))

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=100)
        self.lines += rest.splitlines()
        return self.process.returncode


StartUp = Callable[..., Up]


@pytest.fixture
def start_up() -> Iterator[StartUp]:
    """Starts `up`; what a failing test left running is ended."""
    started: list[Up] = []

    def start(env: dict[str, str], *arguments: str) -> Up:
        started.append(Up(env, *arguments))
        return started[-1]

    yield start
    for up in started:
        if up.process.returncode is None:
            up.end()


@pytest.fixture
def environment(clean_environment: dict[str, str], data_dir: Path) -> Iterator[dict[str, str]]:
    yield {**clean_environment, "DATAMANTRI_DATA_DIR": str(data_dir)}
    wait_until(lambda: not processes_in(data_dir))


@pytest.mark.timeout(300)
def test_up_serves_works_and_leaves_nothing_running(
    environment: dict[str, str], data_dir: Path, start_up: StartUp
) -> None:
    # Of those that no connection gets, as the next one is left free until the web server listens.
    chosen = ports.Ports(data_dir.with_name("ports.json"))
    busy = chosen.choose("busy")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", busy))
        taken.listen()
        chosen.give_back()
        up = start_up(environment, "--port", str(busy))
        said = up.read_until("is taken")
        url = up.read_until("is ready at").rpartition(" ")[2]
        assert said.startswith(f"Port {busy} is taken; using ")
        assert url == f"http://127.0.0.1:{said.rstrip('.').rpartition(' ')[2]}"
        with urllib.request.urlopen(url, timeout=60) as page:
            assert b"password" in page.read()

        password = (data_dir / "password").read_text().strip()
        assert stat.S_IMODE((data_dir / "password").stat().st_mode) == 0o600
        assert sum(password in line for line in up.lines) == 1
        assert {name for name in ("web", "worker", "lookups", "beat") if (data_dir / "logs" / f"{name}.log").exists()}

        wait_until(lambda: manage("doctor", env=environment).returncode == 0, 120)
        found = manage("doctor", env=environment).stdout.splitlines()
        # Workers of several machines must not share a name.
        assert any(line.startswith(f"ok   worker: worker@{socket.gethostname()}") for line in found)

        second = manage("up", env=environment)
        assert second.returncode == 1
        assert f"already runs with the data in {data_dir} (process {up.process.pid})" in second.stdout

        assert up.end(signal.SIGINT) == 0
    assert not processes_in(data_dir)

    (data_dir / "emulator").mkdir()
    again = start_up(environment, "--port", str(busy))
    again.read_until("is ready at")
    again.read_until("demo's pipelines find no tables")
    assert not [line for line in again.lines if "migrations" in line or password in line]
    assert again.end() == 0


@pytest.fixture
def own_database() -> dict[str, str]:
    """The settings of somebody who has a database, which is empty."""
    name = f"own_{uuid.uuid4().hex[:8]}"
    base = os.environ["DATABASE_URL"]
    with closing(psycopg2.connect(base)) as control:
        control.autocommit = True
        with control.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
    keys = {each: os.environ[each] for each in ("SECRET_KEY", "ENCRYPTION_KEYS")}
    return {"DATABASE_URL": urlsplit(base)._replace(path=f"/{name}").geturl(), **keys}


@pytest.mark.timeout(300)
def test_a_database_of_ones_own_is_used_and_gets_no_login(
    environment: dict[str, str], data_dir: Path, own_database: dict[str, str], start_up: StartUp
) -> None:
    up = start_up({**environment, **own_database})
    up.read_until("is ready at")
    assert sorted(path.name for path in data_dir.iterdir() if path.name in ("postgres", "valkey")) == ["valkey"]
    assert not (data_dir / "password").exists()
    with closing(psycopg2.connect(own_database["DATABASE_URL"])) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT (SELECT count(*) FROM runs_run), (SELECT count(*) FROM auth_user)")
        assert cursor.fetchone() == (0, 0)
    assert up.end() == 0


def test_up_stopped_while_starting_leaves_nothing_running(
    environment: dict[str, str], data_dir: Path, start_up: StartUp
) -> None:
    up = start_up(environment)
    up.read_until("Applying")
    assert up.end() == 0
    assert not processes_in(data_dir)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PORT": "eighty"}, "PORT must be a whole number, not 'eighty'"),
        ({"PORT": "70000"}, "PORT must be between 1 and 65535"),
        ({"WORKERS": "0"}, "WORKERS must be between 1 and 256"),
        ({"DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c"}, "DATABASE_URL is set but SECRET_KEY is not"),
    ],
)
def test_bad_configuration_is_named_and_ends_with_status_2(
    environment: dict[str, str], variables: dict[str, str], words: str
) -> None:
    done = manage("up", env={**environment, **variables})
    assert done.returncode == 2
    assert words in done.stdout


def test_settings_that_only_django_checks_end_with_status_2(
    environment: dict[str, str], own_database: dict[str, str]
) -> None:
    done = manage("up", env={**environment, **own_database, "PUBLIC_URL": "no address"})
    assert done.returncode == 2
    assert "PUBLIC_URL must be like https://" in done.stdout + done.stderr


def test_other_commands_name_what_is_not_set(environment: dict[str, str]) -> None:
    done = manage("check", env=environment)
    assert (done.returncode, done.stderr) == (2, "Error: SECRET_KEY is not set.\n")


def test_doctor_makes_keys_without_any_settings(environment: dict[str, str]) -> None:
    from cryptography.fernet import Fernet

    done = manage("doctor", "--new-key", env=environment)
    Fernet(done.stdout.strip())
    assert done.returncode == 0


def test_doctor_names_servers_that_do_not_answer(environment: dict[str, str]) -> None:
    key = manage("doctor", "--new-key", env=environment).stdout.strip()
    servers = {"DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c", "BROKER_URL": "redis://127.0.0.1:1/0"}
    done = manage("doctor", env={**environment, **servers, "SECRET_KEY": key, "ENCRYPTION_KEYS": key})
    assert done.returncode == 1
    assert "BAD  database: cannot be reached" in done.stdout
    assert "BAD  broker: cannot be reached" in done.stdout
