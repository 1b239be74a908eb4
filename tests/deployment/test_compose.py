"""docker-compose.yml: what waits for what, what runs as whom, where secrets come from."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment import compose

OURS = ("migrate", "web", "worker", "lookups", "beat", "poller")
SERVERS = ("postgres", "valkey")
SECRETS = ("SECRET_KEY", "ENCRYPTION_KEYS", "POSTGRES_PASSWORD", "VALKEY_PASSWORD")
needs_compose = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not here")


def config(env_file: Path) -> subprocess.CompletedProcess[str]:
    argv = ["docker-compose", "--env-file", str(env_file), "config"]
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(argv, cwd=compose.CHECKOUT, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def filled_in(tmp_path: Path) -> Path:
    """The example file, as somebody fills it in."""
    text = (compose.CHECKOUT / ".env.example").read_text()
    for name in SECRETS:
        text = text.replace(f"\n{name}=\n", f"\n{name}=value-of-{name.lower()}\n")
    path = tmp_path / "env"
    path.write_text(text)
    return path


@needs_compose
def test_compose_accepts_the_file_with_the_example_filled_in(filled_in: Path) -> None:
    done = config(filled_in)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    resolved = yaml.safe_load(done.stdout)["services"]
    assert set(resolved) == {*OURS, *SERVERS}
    web = resolved["web"]["environment"]
    assert web["DATABASE_URL"] == "postgresql://datamantri:value-of-postgres_password@postgres:5432/datamantri"
    # This test's own reading of the file is compose's.
    values = dict(line.split("=", 1) for line in filled_in.read_text().splitlines() if re.match(r"\w+=", line))
    assert {name: str(value) for name, value in web.items()} == compose.environment("web", values)


@needs_compose
@pytest.mark.parametrize("name", SECRETS)
def test_compose_stops_when_a_secret_is_not_set(filled_in: Path, name: str) -> None:
    filled_in.write_text(filled_in.read_text().replace(f"\n{name}=value", f"\n#{name}=value"))
    done = config(filled_in)
    assert done.returncode == 1
    assert f"set {name} in .env" in done.stderr


def test_no_secret_has_a_default() -> None:
    assert {name for name, default in compose.variables().items() if default is None} == set(SECRETS)


def test_the_example_names_every_variable_and_none_besides_with_the_same_defaults() -> None:
    text = (compose.CHECKOUT / ".env.example").read_text()
    example = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert example == {name: default or "" for name, default in compose.variables().items()}


def test_every_setting_of_an_installation_reaches_the_containers() -> None:
    settings = (compose.CHECKOUT / "datamantri" / "settings.py").read_text()
    read = set(re.findall(r'env\.\w+\("([A-Z_]+)"', settings)) | {"DATABASE_URL", "BROKER_URL", "ENCRYPTION_KEYS"}
    # In a container the port is fixed; an emulator has no place in production.
    elsewhere = {"PORT", "BIGQUERY_REST_ENDPOINT", "BIGQUERY_STORAGE_ENDPOINT"}
    assert set(compose.services()["web"]["environment"]) == read - elsewhere


@pytest.mark.parametrize("name", ["web", "worker", "lookups", "beat", "poller"])
def test_processes_wait_for_the_migrations_and_the_broker(name: str) -> None:
    waits = {other: how["condition"] for other, how in compose.services()[name]["depends_on"].items()}
    assert waits == {"migrate": "service_completed_successfully", "valkey": "service_healthy"}


def test_the_migrations_wait_for_the_database_and_run_once() -> None:
    migrate = compose.services()["migrate"]
    assert migrate["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert migrate["restart"] == "no"


@pytest.mark.parametrize("name", ["web", "worker", "beat", "poller", *SERVERS])
def test_a_health_check_tells_whether_it_works(name: str) -> None:
    check = compose.services()[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout"} <= set(check)


@pytest.mark.parametrize("name", [*OURS, "valkey"])
def test_nothing_of_it_needs_powers_or_a_disk(name: str) -> None:
    service: dict[str, Any] = compose.services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "volumes" not in service


def test_only_the_pages_are_reachable_and_only_from_this_machine_unless_said_otherwise() -> None:
    ports = {name: service["ports"] for name, service in compose.services().items() if "ports" in service}
    assert ports == {"web": ["${BIND:-127.0.0.1}:${PORT:-8000}:8000"]}


def test_all_processes_of_the_product_share_one_image_and_one_environment() -> None:
    own = [compose.services()[name] for name in OURS]
    assert {service["image"] for service in own} == {"datamantri"}
    assert all(service["environment"] == own[0]["environment"] for service in own)
