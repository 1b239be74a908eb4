from __future__ import annotations

from pathlib import Path

import pytest
from django.db import connection

from tests import servers


def test_the_suite_talks_to_a_real_postgresql_18(db):
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        assert cursor.fetchone()[0].startswith("18")


def test_a_destination_database_of_its_own_is_there(warehouse_cursor):
    warehouse_cursor.execute("CREATE TABLE public.probe (n int); DROP TABLE public.probe")
    warehouse_cursor.execute("SELECT current_database()")
    assert warehouse_cursor.fetchone()[0].startswith("warehouse_")


def test_the_last_line_says_when_there_is_no_browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert servers.without_a_browser() == "Chromium is missing: the tests that drive a browser were skipped."
    (tmp_path / "chromium").touch(0o755)
    assert servers.without_a_browser() == ""
