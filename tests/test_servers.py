from __future__ import annotations

from django.db import connection


def test_the_suite_talks_to_a_real_postgresql_18(db):
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        assert cursor.fetchone()[0].startswith("18")


def test_a_destination_database_of_its_own_is_there(warehouse_cursor):
    warehouse_cursor.execute("CREATE TABLE public.probe (n int); DROP TABLE public.probe")
    warehouse_cursor.execute("SELECT current_database()")
    assert warehouse_cursor.fetchone()[0].startswith("warehouse_")
