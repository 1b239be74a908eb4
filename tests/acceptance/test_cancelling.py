"""A cancelled run reads and writes no more within seconds, whatever it waits for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest

from datamantri import processes
from runs import services
from runs.models import Run
from runs.states import RunStatus
from tests.acceptance.conftest import ended, numbers
from tests.acceptance.product import Product, wait_for
from tests.acceptance.streams import Streams
from tests.bigquery.proxy import BehavingBigQuery

WITHIN_S = 10.0
BYTES_PER_S, MESSAGE_BYTES = 50_000, 20_000


@pytest.fixture(scope="module")
def slow_bigquery(product: Product, emulator: dict[str, str]) -> Iterator[Streams]:
    """BigQuery's streams as the only worker sees them: each takes minutes."""
    with BehavingBigQuery(**emulator, keeps_history=False) as proxy:
        proxy.storage.message_bytes = MESSAGE_BYTES
        streams = Streams(proxy, BYTES_PER_S)
        env = {
            "BIGQUERY_REST_ENDPOINT": proxy.endpoints.rest,
            "BIGQUERY_STORAGE_ENDPOINT": proxy.endpoints.storage,
        }
        product.stop("worker")
        product.start(processes.worker(1, "worker-slow"), **env)
        try:
            yield streams
        finally:
            product.stop("worker-slow")
            product.start(processes.worker(2))


@pytest.fixture
def writing(warehouse_cursor: Any) -> Any:
    """Asks the destination who is in the middle of a transaction: nobody but the run's worker, and this test."""

    def writing() -> list[Any]:
        warehouse_cursor.execute(
            "SELECT pid, state, wait_event_type, query FROM pg_stat_activity"
            " WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
            " AND application_name <> 'the test' AND backend_type = 'client backend'"  # autovacuum may come, too
        )
        return warehouse_cursor.fetchall()

    return writing


def cancelled_within_seconds(run: Run, operator: Any, *still: Any) -> None:
    """Cancel, and see that within WITHIN_S the run has ended and nothing of `still` goes on."""
    asked = time.monotonic()
    services.cancel_run(run, by=operator)

    def is_over() -> bool:
        run.refresh_from_db()
        return run.status == RunStatus.CANCELLED and not any(each() for each in still)

    wait_for(is_over, limit_s=WITHIN_S, saying=f"{run.status}, {[each() for each in still]}")
    assert time.monotonic() - asked < WITHIN_S


@pytest.mark.parametrize("method", ["direct", "staged"])
def test_a_run_that_reads_slowly(
    slow_bigquery, make_pipeline, large_table, run_now, operator, writing, warehouse_cursor, method
):
    pipeline = make_pipeline(large_table, write_disposition="append", load_method=method)
    run = run_now(pipeline)
    wait_for(lambda: slow_bigquery.reading, saying="a stream is read")
    wait_for(writing if method == "direct" else lambda: run.parts.filter(status="running").exists())
    cancelled_within_seconds(run, operator, lambda: slow_bigquery.reading, writing)
    warehouse_cursor.execute("SELECT to_regclass(%s)", (f"public.{pipeline.target_table}",))
    assert warehouse_cursor.fetchone() == (None,)
    assert "Cancelled" in run.log_lines.order_by("seq").last().message


@contextmanager
def locked(warehouse: dict[str, Any], table: str) -> Iterator[None]:
    """Somebody works on the table, and lets nobody else near it."""
    session = psycopg2.connect(**warehouse, application_name="the test")
    try:
        session.cursor().execute(f"LOCK TABLE public.{table} IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        session.close()


@pytest.mark.parametrize("disposition", ["append", "merge", "replace"])
def test_a_run_that_waits_for_a_lock(
    make_pipeline, source_table, run_now, operator, warehouse, warehouse_cursor, writing, disposition
):
    key = {"merge_key": ["id"]} if disposition == "merge" else {}
    pipeline = make_pipeline(source_table(numbers(1000)), write_disposition=disposition, **key)
    assert ended(run_now(pipeline)).status == RunStatus.SUCCEEDED
    with locked(warehouse, pipeline.target_table):
        run = run_now(pipeline)
        wait_for(lambda: any(row[2] == "Lock" for row in writing()), every_s=0.01, saying="it waits for the lock")
        cancelled_within_seconds(run, operator, writing)
    warehouse_cursor.execute(f"SELECT count(*) FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchone() == (1000,)
    again = ended(run_now(pipeline))
    assert again.status == RunStatus.SUCCEEDED, again.error_message
