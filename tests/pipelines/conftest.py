"""Definitions to test with: connections that nobody calls, and pipelines between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User

from pipelines import services
from pipelines.models import Connection, Pipeline


@pytest.fixture
def operator(db: None) -> User:
    return User.objects.create_user("olga", password="correct horse")


@pytest.fixture
def source(db: None) -> Connection:
    return Connection.objects.create(name="Lake", kind="bigquery", options={"project": "acme"})


@pytest.fixture
def destination(db: None) -> Connection:
    options = {"host": "127.0.0.1", "dbname": "shop", "user": "mover"}
    return Connection.objects.create(name="Shop", kind="postgres", options=options, secrets={"password": "s3cret"})


@pytest.fixture
def make_pipeline(source: Connection, destination: Connection, operator: User) -> Callable[..., Pipeline]:
    def make(name: str = "Orders", schedules: Any = (), **changes: Any) -> Pipeline:
        table = changes.pop("target_table", name.lower().replace(" ", "_"))
        values = {"source_table": f"sales.{table}", "target_table": table, **changes}
        pipeline = Pipeline(name=name, source=source, destination=destination, **values)
        services.save_pipeline(pipeline, schedules=schedules, by=operator)
        return pipeline

    return make
