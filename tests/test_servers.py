from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from django.db import connection


def test_the_suite_talks_to_a_real_postgresql_18(db):
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        assert cursor.fetchone()[0].startswith("18")


def test_a_destination_database_of_its_own_is_there(warehouse_cursor):
    warehouse_cursor.execute("CREATE TABLE public.probe (n int); DROP TABLE public.probe")
    warehouse_cursor.execute("SELECT current_database()")
    assert warehouse_cursor.fetchone()[0].startswith("warehouse_")


_TESTS = """
import pytest

@pytest.mark.skipif(True, reason="no RabbitMQ here")
def test_by_mark():
    pass

def test_by_fixture():
    pytest.skip("no RabbitMQ here")

def test_other():
    pytest.skip("no browser")

def test_that_runs():
    pass
"""


def test_the_end_of_a_run_says_what_was_skipped_and_why(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(_TESTS)
    # As one of xdist's workers it starts no servers.
    env = {
        **os.environ,
        "PYTEST_ADDOPTS": "",
        "PYTEST_XDIST_WORKER": "gw0",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    plugins = ["tests.servers", "no:django", "no:bqemulator", "no:valkey", "no:cacheprovider"]
    argv = [sys.executable, "-m", "pytest", "-q", *(f"-p{plugin}" for plugin in plugins)]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=150)
    *_, first, second, last = done.stdout.splitlines()
    assert (first, second) == ("Skipped 2: no RabbitMQ here", "Skipped 1: no browser")
    assert last.startswith("1 passed, 3 skipped")
