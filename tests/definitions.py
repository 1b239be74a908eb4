"""Definitions to test with, and the worker that looks things up for them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from pytest_django import DjangoDbBlocker

from datamantri import processes
from pipelines import lookups, services
from pipelines.models import Connection, Pipeline

STARTS_WITHIN_S = 90
# On a busy machine an answer takes its time; who looks at what a page waits for sets its own.
PATIENCE_S = 60.0


@pytest.fixture
def operator(db: None) -> User:
    return User.objects.create_user("olga", password="correct horse")


@pytest.fixture
def source(db: None) -> Connection:
    return Connection.objects.create(name="Lake", kind="bigquery", options={"project": "demo-project"})


@pytest.fixture
def destination(db: None) -> Connection:
    """A destination that nobody calls: its port is closed."""
    options = {"host": "127.0.0.1", "port": 1, "dbname": "shop", "user": "mover"}
    return Connection.objects.create(name="Shop", kind="postgres", options=options, secrets={"password": "s3cret"})


@pytest.fixture
def make_pipeline(source: Connection, destination: Connection, operator: User) -> Callable[..., Pipeline]:
    def make(name: str = "Orders", schedules: Any = (), **changes: Any) -> Pipeline:
        table = changes.pop("target_table", name.lower().replace(" ", "_"))
        values = {"source_table": f"sales.{table}", "target_table": table, **changes}
        pipeline = Pipeline(name=name, source=source, **{"destination": destination, **values})
        services.save_pipeline(pipeline, schedules=schedules, by=operator)
        return pipeline

    return make


@pytest.fixture
def living_destination(db: None, warehouse: dict[str, Any]) -> Connection:
    """The session's destination database."""
    options = {name: value for name, value in warehouse.items() if name != "password"}
    secrets = {"password": warehouse["password"]}
    return Connection.objects.create(name="Warehouse", kind="postgres", options=options, secrets=secrets)


@pytest.fixture
def lookups_worker(lookups_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real worker on the queue of look-ups, and patience with it."""
    monkeypatch.setattr(lookups, "WAIT_S", PATIENCE_S)


@pytest.fixture(scope="session")
def lookups_process(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A real worker on the queue of look-ups, on the test database; rows it needs travel in its messages."""
    spec = processes.lookups()
    database = f"{os.environ['DATABASE_URL'].rsplit('/', 1)[0]}/{settings.DATABASES['default']['NAME']}"
    log = Path(tmp_path_factory.mktemp("lookups")) / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            spec.argv, env={**os.environ, **spec.env, "DATABASE_URL": database}, stdout=output, stderr=output
        )
        try:
            deadline = time.monotonic() + STARTS_WITHIN_S
            while spec.ready not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            with django_db_blocker.unblock():
                _import_connectors(deadline)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _import_connectors(deadline: float) -> None:
    """Ask until it answers in time: the first question imports Google's clients, slowly on a busy machine."""
    while True:
        try:
            lookups.test_connection("bigquery", {"project": "demo-project"})
        except lookups.LookupFailed:
            assert time.monotonic() < deadline
        else:
            return
