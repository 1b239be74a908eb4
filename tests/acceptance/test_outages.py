"""Servers that go away in the middle of a run: nothing is lost, nothing is doubled."""

from __future__ import annotations

import secrets
import time

import pytest

from datamantri import processes
from datamantri.demo import loader
from datamantri.embedded.stack import EmbeddedStack
from pipelines.models import Connection
from runs import services
from runs.states import RunStatus
from tests.acceptance.conftest import (
    DATASET,
    PROJECT,
    SLOW,
    caught_loading,
    ended,
    make_quick,
    make_slow,
    numbers,
)
from tests.acceptance.product import options_without_secret, wait_for

ROWS = 3_000_000


@pytest.fixture
def other_server(tmp_path_factory):
    """A PostgreSQL of its own, which can be killed."""
    stack = EmbeddedStack(tmp_path_factory.mktemp("other"), durable=False, valkey=False)
    stack.start()
    yield stack
    stack.stop()


def test_a_destination_restarted_in_the_middle(make_pipeline, large_table, run_now, other_server):
    options, hidden = options_without_secret(dict(other_server.warehouse()))
    connection = Connection.objects.create(
        name=f"other {secrets.token_hex(3)}", kind="postgres", options=options, secrets=hidden
    )
    pipeline = make_pipeline(large_table, destination=connection, **SLOW)
    with other_server.postgres.connect("warehouse") as session, session.cursor() as cursor:
        make_slow(cursor, pipeline.target_table)
        cursor.execute(f"ALTER TABLE public.{pipeline.target_table} OWNER TO warehouse")
    run = caught_loading(run_now(pipeline))
    other_server.postgres.kill()
    time.sleep(1)
    other_server.postgres.start()
    with other_server.postgres.connect("warehouse") as session, session.cursor() as cursor:
        make_quick(cursor, pipeline.target_table)
    assert ended(run, limit_s=90).status == RunStatus.SUCCEEDED, run.error_message
    assert run.attempt >= 2
    with other_server.postgres.connect("warehouse") as session, session.cursor() as cursor:
        cursor.execute(f"SELECT count(*), count(DISTINCT id) FROM public.{pipeline.target_table}")
        assert cursor.fetchone() == (ROWS, ROWS)


def test_an_emulator_killed_in_the_middle(
    product, make_pipeline, run_now, slow_target, warehouse_cursor, tmp_path_factory
):
    stack = EmbeddedStack(tmp_path_factory.mktemp("lake"), durable=False, postgres=False, valkey=False, emulator=True)
    endpoints = stack.start()
    product.stop("worker")
    own = {name: value for name, value in endpoints.items() if name.startswith("BIGQUERY")}
    product.start(processes.worker(1, "worker-lake"), **own)
    try:
        client = _client(own)
        loader.ensure_dataset(client, DATASET)
        table = f"{DATASET}.t{secrets.token_hex(4)}"
        loader.load(client, f"{PROJECT}.{table}", {"id": "INT64", "name": "STRING"}, numbers(ROWS))
        pipeline = slow_target(make_pipeline(table, **SLOW))
        run = caught_loading(run_now(pipeline))
        stack.emulator.kill()
        make_quick(warehouse_cursor, pipeline.target_table)

        def gave_up() -> bool:
            run.refresh_from_db()
            return run.status == RunStatus.RETRYING

        wait_for(gave_up, saying="the run notices")
        stack.emulator.start()
        assert ended(run, limit_s=90).status == RunStatus.SUCCEEDED, run.error_message
        warehouse_cursor.execute(f"SELECT count(*), count(DISTINCT id) FROM public.{pipeline.target_table}")
        assert warehouse_cursor.fetchone() == (ROWS, ROWS)
    finally:
        product.stop("worker-lake")
        stack.stop()
        product.start(processes.worker(2))


def test_a_run_asked_for_while_no_worker_lives_says_so_and_runs_later(product, make_pipeline, source_table, run_now):
    from runs import queries

    pipeline = make_pipeline(source_table(numbers(10)))
    product.stop("worker")
    try:
        run = run_now(pipeline)
        wait_for(lambda: "no worker" in queries.why_waiting(run), limit_s=60, saying="the reason is told")
    finally:
        product.start(processes.worker(2))
    assert ended(run).status == RunStatus.SUCCEEDED


def test_a_time_limit_ends_a_run(make_pipeline, large_table, run_now, operator, slow_target, warehouse_cursor):
    pipeline = slow_target(make_pipeline(large_table, **SLOW))
    # Ten seconds are the least that a form takes; the definition is shortened to save the test's time.
    definition = {**pipeline.revision.definition, "time_limit_s": 2}
    type(pipeline.revision).objects.filter(pk=pipeline.revision_id).update(definition=definition)
    run = ended(run_now(pipeline))
    assert (run.status, run.error_code) == (RunStatus.FAILED, "time_limit")
    warehouse_cursor.execute(f"SELECT count(*) FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchone() == (0,)
    again, is_new = services.request_run(pipeline, trigger="manual", by=operator)
    assert is_new
    services.cancel_run(again, by=operator)
    ended(again)


def _client(endpoints):
    from connectors.bigquery.client import Clients, Endpoints
    from connectors.bigquery.options import BigQueryOptions

    places = Endpoints(endpoints["BIGQUERY_REST_ENDPOINT"], endpoints["BIGQUERY_STORAGE_ENDPOINT"])
    return Clients(BigQueryOptions(PROJECT), places).rest
