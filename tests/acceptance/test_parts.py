"""Loads in parts on real workers, one of which is killed, stopped or asked to end in the middle."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from connectors.bigquery.client import REST_VARIABLE, STORAGE_VARIABLE
from datamantri import processes
from datamantri.demo import loader
from pipelines.models import Connection, Pipeline
from runs.models import PartLoad, Run
from runs.states import PartStatus, RunStatus
from tests.acceptance.conftest import DATASET, PROJECT, ended, numbers
from tests.acceptance.product import Product, options_without_secret, wait_for
from tests.bigquery.proxy import BehavingBigQuery

ROWS = 400_000
# A part of 50,000 rows takes a second or so.
BYTES_PER_S = 800_000


@pytest.fixture(scope="module")
def slow_streams(product: Product, bigquery_client: Any) -> Iterator[dict[str, str]]:
    """Two workers of one child each, for whom every stream is slow."""
    upstream = {"rest": os.environ[REST_VARIABLE], "storage": os.environ[STORAGE_VARIABLE]}
    loader.load(bigquery_client, f"{PROJECT}.{DATASET}.parted", {"id": "INT64", "name": "STRING"}, numbers(ROWS))
    with BehavingBigQuery(**upstream, keeps_history=False) as served:
        served.faults.inject("rate", "ReadRows", times=None, bytes_per_s=BYTES_PER_S)
        there = {REST_VARIABLE: served.endpoints.rest, STORAGE_VARIABLE: served.endpoints.storage}
        product.stop("worker")
        for name in ("worker-a", "worker-b"):
            product.start(processes.worker(1, name), **there)
        yield there
        for name in ("worker-a", "worker-b"):
            product.stop(name)
        product.start(processes.worker(2))


@pytest.fixture
def roomy(on_the_products_database: None, warehouse: dict[str, Any]) -> Connection:
    """The warehouse by a connection with a limit of its own: no worker slot is left for other destinations."""
    options, hidden = options_without_secret(warehouse)
    connection, _ = Connection.objects.get_or_create(
        name="Roomy", defaults={"kind": "postgres", "options": options, "secrets": hidden, "max_running": 4}
    )
    return connection


@pytest.fixture
def parted(slow_streams: dict[str, str], make_pipeline: Callable[..., Pipeline], roomy: Connection) -> Pipeline:
    return make_pipeline(f"{DATASET}.parted", load_method="staged", destination=roomy)


def with_a_part_on(run: Run, worker: str) -> PartLoad:
    """A part that `worker` loads now, while others are done already."""

    def look() -> PartLoad | None:
        run.refresh_from_db()
        assert run.status in (RunStatus.QUEUED, RunStatus.RUNNING), run.error_message or run.status
        parts = list(PartLoad.objects.filter(run=run))
        running = [p for p in parts if p.status == PartStatus.RUNNING and p.worker.startswith(worker) and p.rows]
        return running[0] if running and any(p.status == PartStatus.DONE for p in parts) else None

    return wait_for(look, every_s=0.02, saying=f"{worker} loads a part")


def rows_at(cursor: Any, pipeline: Pipeline) -> tuple[int, int]:
    cursor.execute(f"SELECT count(*), count(DISTINCT id) FROM public.{pipeline.target_table}")
    return tuple(cursor.fetchone())


def test_two_workers_share_one_table(parted, run_now, warehouse_cursor):
    run = ended(run_now(parted))
    assert run.status == RunStatus.SUCCEEDED, run.error_message
    assert rows_at(warehouse_cursor, parted) == (ROWS, ROWS)
    workers = {part.worker.partition("@")[0] for part in PartLoad.objects.filter(run=run)}
    assert workers == {"worker-a", "worker-b"}


def test_a_killed_worker_child_costs_its_part_seconds(product, parted, run_now, warehouse_cursor):
    run = run_now(parted)
    part = with_a_part_on(run, "worker-a")
    [child] = product.children("worker-a")
    child.kill()
    killed = time.monotonic()

    def goes_on() -> bool:
        part.refresh_from_db()
        return part.losses == 1 and part.status != PartStatus.WAITING

    wait_for(goes_on, limit_s=15, saying="the part goes on")
    assert time.monotonic() - killed < 5
    assert ended(run).status == RunStatus.SUCCEEDED, run.error_message
    assert (run.losses, run.failures) == (0, 0)
    assert rows_at(warehouse_cursor, parted) == (ROWS, ROWS)


def test_a_worker_asked_to_end_lets_go_and_another_goes_on_within_seconds(
    product, parted, run_now, warehouse_cursor, slow_streams
):
    run = run_now(parted)
    part = with_a_part_on(run, "worker-a")
    asked = time.monotonic()
    product.process("worker-a").send_signal(signal.SIGTERM)

    def goes_on() -> bool:
        part.refresh_from_db()
        return part.status == PartStatus.DONE or part.worker.startswith("worker-b@")

    try:
        wait_for(goes_on, limit_s=20, saying="another worker goes on")
        assert time.monotonic() - asked < 8
        assert ended(run).status == RunStatus.SUCCEEDED, run.error_message
    finally:
        product.stop("worker-a")
        product.start(processes.worker(1, "worker-a"), **slow_streams)
    assert not PartLoad.objects.filter(run=run, losses__gt=0).exists()
    assert not PartLoad.objects.filter(run=run, failures__gt=0).exists()
    assert rows_at(warehouse_cursor, parted) == (ROWS, ROWS)


def test_a_rolling_restart_under_load_fails_no_run(
    product, parted, make_pipeline, run_now, warehouse_cursor, slow_streams
):
    pipelines = [parted, *(make_pipeline(f"{DATASET}.parted") for _ in range(2))]
    runs = [run_now(pipeline) for pipeline in pipelines]
    with_a_part_on(runs[0], "worker-")  # either of them
    for name in ("worker-a", "worker-b"):
        product.stop(name)
        product.start(processes.worker(1, name), **slow_streams)
    for run, pipeline in zip(runs, pipelines, strict=True):
        assert ended(run, limit_s=120).status == RunStatus.SUCCEEDED, run.error_message
        assert (run.failures, run.losses) == (0, 0)
        assert rows_at(warehouse_cursor, pipeline) == (ROWS, ROWS)


def test_a_paused_worker_that_wakes_up_finds_its_commit_refused(product, parted, run_now, warehouse_cursor):
    run = run_now(parted)
    part = with_a_part_on(run, "worker-a")
    [child] = product.children("worker-a")
    child.suspend()
    try:

        def taken_over() -> bool:
            part.refresh_from_db()
            return part.losses == 1 and part.worker.startswith("worker-b@")

        wait_for(taken_over, limit_s=40, saying="another worker takes the part")
    finally:
        child.resume()
    assert ended(run).status == RunStatus.SUCCEEDED, run.error_message
    assert rows_at(warehouse_cursor, parted) == (ROWS, ROWS)
    again = ended(run_now(parted))  # the one that woke up works again
    assert again.status == RunStatus.SUCCEEDED, again.error_message


def test_a_cancel_ends_all_parts_within_seconds(parted, run_now, operator, warehouse_cursor):
    from runs import services

    run = run_now(parted)
    with_a_part_on(run, "worker-b")
    services.cancel_run(run, by=operator)
    cancelled = time.monotonic()
    assert ended(run).status == RunStatus.CANCELLED
    assert time.monotonic() - cancelled < 6
    warehouse_cursor.execute("SELECT count(*) FROM pg_class WHERE relname LIKE %s", (f"%{run.pk.hex}%",))
    assert warehouse_cursor.fetchone() == (0,)
