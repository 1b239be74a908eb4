"""Fixtures that all tests share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from hypothesis import HealthCheck, settings
from psycopg2 import sql

from tests.definitions import lookups_process
from tests.emptying import empty_only_what_has_rows
from tests.loops import one_connection_a_thread
from tests.servers import warehouse_options

# Here, so that there is one a session, whoever asks for it.
__all__ = ["lookups_process"]

one_connection_a_thread()
empty_only_what_has_rows()
# The same values every time, on a machine as slow as may be.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
# Passwords here guard nothing; hashing one in earnest takes longer than most tests.
PBKDF2PasswordHasher.iterations = 1


@pytest.fixture(scope="session")
def django_db_keepdb() -> bool:
    """Test databases go with their server: dropped, they would fail the last test for whoever has not left yet."""
    return True


@pytest.fixture(scope="session")
def warehouse(worker_id: str) -> dict[str, Any]:
    """Options of a PostgreSQL connection to an empty destination database of this test worker's own."""
    admin = warehouse_options()
    name = f"warehouse_{worker_id}_{uuid.uuid4().hex[:6]}"
    control = psycopg2.connect(os.environ["DATABASE_URL"])
    control.autocommit = True
    with control.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        cursor.execute(
            sql.SQL("GRANT ALL ON DATABASE {} TO {}").format(sql.Identifier(name), sql.Identifier(str(admin["user"])))
        )
    own = psycopg2.connect(os.environ["DATABASE_URL"].rsplit("/", 1)[0] + "/" + name)
    own.autocommit = True
    with own.cursor() as cursor:
        cursor.execute(sql.SQL("GRANT ALL ON SCHEMA public TO {}").format(sql.Identifier(str(admin["user"]))))
    own.close()
    control.close()
    # It goes with its server at the end of the session.
    return {**admin, "dbname": name}


@pytest.fixture
def warehouse_cursor(warehouse: dict[str, Any]) -> Iterator[Any]:
    """A cursor on the destination, in autocommit."""
    connection = psycopg2.connect(
        host=warehouse["host"],
        port=warehouse["port"],
        dbname=warehouse["dbname"],
        user=warehouse["user"],
        password=warehouse["password"],
    )
    connection.autocommit = True
    with connection.cursor() as cursor:
        yield cursor
    connection.close()


@pytest.fixture(scope="session")
def emulator() -> dict[str, str]:
    """Endpoints of the BigQuery emulator of this session."""
    return {
        "rest": os.environ["BIGQUERY_REST_ENDPOINT"],
        "storage": os.environ["BIGQUERY_STORAGE_ENDPOINT"],
    }
