"""Bad input ends in a clear error that names the thing, and leaves the target as it was."""

from __future__ import annotations

import os
import secrets

import psycopg2
import pyarrow as pa
import pytest
from psycopg2 import sql

from datamantri.demo import loader
from pipelines import services
from pipelines.models import Connection
from runs.models import LogLine
from runs.states import RunStatus
from tests.acceptance.conftest import PROJECT, ended, numbers


def failed(run, code: str):
    """The run, which must have failed with this code, a sentence and a hint, told in its log too."""
    ended(run)
    assert run.status == RunStatus.FAILED, f"{run.status} {run.error_message}"
    assert run.error_code == code, f"{run.error_code}: {run.error_message}"
    assert run.error_message
    assert run.error_hint
    assert run.log_lines.filter(level="error", message__contains=run.error_message).exists()
    return run


@pytest.fixture
def published(make_pipeline, source_table, run_now, warehouse_cursor, operator):
    """A pipeline whose columns were looked at when it was saved, and that ran once; and how to count its target."""
    table = source_table(numbers(100))
    pipeline = make_pipeline(table)
    pipeline.source_columns = [
        {
            **{"name": name, "type": kind, "repeated": False, "required": False, "precision": None, "scale": None},
            **{"max_length": None, "element": "", "columns": [], "description": ""},
        }
        for name, kind in (("id", "INT64"), ("name", "STRING"))
    ]
    services.save_pipeline(pipeline, schedules=None, by=operator)
    assert ended(run_now(pipeline)).status == RunStatus.SUCCEEDED

    def count() -> tuple[int, int]:
        warehouse_cursor.execute(f"SELECT count(*), sum(id) FROM public.{pipeline.target_table}")
        return warehouse_cursor.fetchone()

    return pipeline, count


def test_a_dropped_column_stays_in_the_target_and_is_told(published, bigquery_client, run_now, warehouse_cursor):
    pipeline, count = published
    place = f"{PROJECT}.{pipeline.source_table}"
    loader.load(bigquery_client, place, {"id": "INT64"}, pa.table({"id": pa.array(range(100), pa.int64())}))
    run = ended(run_now(pipeline))
    assert run.status == RunStatus.SUCCEEDED, run.error_message
    assert count() == (100, 4950)
    warehouse_cursor.execute(f"SELECT DISTINCT name FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchall() == [(None,)]
    assert run.log_lines.filter(level="warning", message__contains="- name STRING").exists()


def test_a_retyped_column_is_named(published, bigquery_client, run_now):
    pipeline, count = published
    place = f"{PROJECT}.{pipeline.source_table}"
    rows = pa.table({"id": pa.array(["1"]), "name": pa.array(["x"])})
    loader.load(bigquery_client, place, {"id": "STRING", "name": "STRING"}, rows)
    assert "id" in failed(run_now(pipeline), "schema_incompatible").error_message
    assert count() == (100, 4950)


def test_a_query_that_is_no_select_is_refused(make_pipeline, run_now, source_table):
    table = source_table(numbers(5))
    run = failed(run_now(make_pipeline(source_query=f"DELETE FROM `{PROJECT}.{table}` WHERE true")), "not_a_select")
    assert "SELECT" in run.error_message + run.error_hint


def test_an_absent_dataset_is_named(make_pipeline, run_now):
    run = ended(run_now(make_pipeline("nodataset.notable")))
    assert run.status == RunStatus.FAILED
    assert "nodataset" in run.error_message


def test_an_unreachable_destination_is_tried_again_and_then_named(make_pipeline, source_table, run_now, destination):
    options = {**destination.options, "port": 1}
    away = Connection.objects.create(
        name=f"away {secrets.token_hex(3)}", kind="postgres", options=options, secrets=destination.secrets
    )
    run = failed(run_now(make_pipeline(source_table(numbers(5)), destination=away, retries=1)), "unreachable")
    assert run.failures == 1
    assert run.attempts.count() == 2


def test_a_wrong_password_is_told_without_showing_it(make_pipeline, source_table, run_now, destination):
    wrong = Connection.objects.create(
        name=f"wrong {secrets.token_hex(3)}",
        kind="postgres",
        options=destination.options,
        secrets={"password": "tell-nobody"},
    )
    run = failed(run_now(make_pipeline(source_table(numbers(5)), destination=wrong)), "authentication_failed")
    assert "tell-nobody" not in run.error_message + run.error_hint
    assert not run.log_lines.filter(message__contains="tell-nobody").exists()


def test_a_missing_grant_is_named(make_pipeline, source_table, run_now, warehouse_cursor):
    name = f"locked_{secrets.token_hex(3)}"
    # The control database's role owns this schema; the destination's role may only look at it.
    warehouse_cursor.execute("SELECT current_database(), current_user")
    database, role = warehouse_cursor.fetchone()
    owner = psycopg2.connect(os.environ["DATABASE_URL"].rsplit("/", 1)[0] + f"/{database}")
    owner.autocommit = True
    with owner.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        cursor.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(name), sql.Identifier(role)))
    owner.close()
    run = failed(run_now(make_pipeline(source_table(numbers(5)), target_schema=name)), "missing_grant")
    assert "CREATE" in run.error_message + run.error_hint
    assert name in run.error_message + run.error_hint


def test_a_name_over_63_bytes_is_refused(make_pipeline, source_table, run_now):
    table = "é" * 40
    run = ended(run_now(make_pipeline(source_table(numbers(5)), target_table=table)))
    assert run.status == RunStatus.FAILED
    assert "at most 63" in run.error_message + run.error_hint


def test_a_nul_character_is_refused_by_column(make_pipeline, source_table, run_now, warehouse_cursor):
    rows = pa.table({"id": pa.array([1, 2], pa.int64()), "words": pa.array(["fine", "not\x00fine"])})
    pipeline = make_pipeline(source_table(rows))
    assert "words" in failed(run_now(pipeline), "nul_character").error_message
    warehouse_cursor.execute("SELECT to_regclass(%s)", [f"public.{pipeline.target_table}"])
    assert warehouse_cursor.fetchone() == (None,)


def test_a_foreign_table_is_not_written_to(make_pipeline, source_table, run_now, warehouse_cursor):
    pipeline = make_pipeline(source_table(numbers(5)))
    warehouse_cursor.execute(f"CREATE TABLE public.{pipeline.target_table} (id bigint)")
    warehouse_cursor.execute(f"INSERT INTO public.{pipeline.target_table} VALUES (7)")
    failed(run_now(pipeline), "target_exists")
    warehouse_cursor.execute(f"SELECT id FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchall() == [(7,)]


def test_a_view_on_the_target_is_named_and_kept(make_pipeline, source_table, run_now, warehouse_cursor):
    pipeline = make_pipeline(source_table(numbers(5)))
    assert ended(run_now(pipeline)).status == RunStatus.SUCCEEDED
    view = f"view_{pipeline.target_table}"
    warehouse_cursor.execute(f"CREATE VIEW public.{view} AS SELECT id FROM public.{pipeline.target_table}")
    warehouse_cursor.execute(f"DELETE FROM public.{pipeline.target_table} WHERE id = 3")
    run = ended(run_now(pipeline))
    assert (run.status, run.receipt["method"]) == (RunStatus.SUCCEEDED, "in_place")
    assert (run.receipt["changes"]["inserted"], run.receipt["changes"]["unchanged"]) == (1, 4)
    assert LogLine.objects.filter(run=run, message__contains=view).exists()
    warehouse_cursor.execute(f"SELECT count(*) FROM public.{view}")
    assert warehouse_cursor.fetchone() == (5,)
