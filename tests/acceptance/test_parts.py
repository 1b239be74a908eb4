"""Loads in parts on real workers, one of which is killed, stopped or asked to end in the middle."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from connectors.bigquery.client import REST_VARIABLE, STORAGE_VARIABLE
from datamantri import processes
from datamantri.demo import loader
from pipelines.models import Connection, Pipeline
from runs.models import LogLine, PartLoad, Run
from runs.states import PartStatus, RunStatus
from tests.acceptance.conftest import DATASET, PROJECT, caught_loading, ended, numbers
from tests.acceptance.product import Product, options_without_secret, wait_for
from tests.acceptance.streams import Streams
from tests.bigquery.proxy import BehavingBigQuery
from tests.chaos.points import Armoury
from tests.chaos.struck import FOLDER

ROWS = 400_000
# A part of 50,000 rows takes a second or so; and longer than a worker may take to wind up, by far.
BYTES_PER_S, CRAWL, QUICK = 800_000, 30_000, 8_000_000
MESSAGE_BYTES = 20_000
# What "within seconds" may be on a busy machine: a part at a crawl takes twice as long, and so does a lease.
SECONDS = 15
# Of worker-b alone.
SHORT_LEASE_S = 8


@dataclass
class Workers:
    """Worker-a and worker-b, of one child each, with BigQuery `there`; worker-b may be struck at named points."""

    product: Product
    streams: Streams
    there: dict[str, str]
    armoury: Armoury

    def start(self, name: str) -> None:
        own = {"DJANGO_SETTINGS_MODULE": "tests.chaos.settings", FOLDER: str(self.armoury.folder)}
        own["LEASE_TTL_S"] = f"{SHORT_LEASE_S}"
        self.product.start(processes.worker(1, name), **self.there, **(own if name == "worker-b" else {}))

    def ask_to_end(self, name: str) -> float:
        """SIGTERM, as a deployment sends it; returns the monotonic time of that."""
        asked = time.monotonic()
        self.product.process(name).send_signal(signal.SIGTERM)
        return asked

    def start_again(self, name: str) -> None:
        self.product.stop(name)
        self.start(name)


@pytest.fixture(scope="module")
def workers(product: Product, bigquery_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Two workers for whom every stream is slow."""
    upstream = {"rest": os.environ[REST_VARIABLE], "storage": os.environ[STORAGE_VARIABLE]}
    loader.load(bigquery_client, f"{PROJECT}.{DATASET}.parted", {"id": "INT64", "name": "STRING"}, numbers(ROWS))
    with BehavingBigQuery(**upstream, keeps_history=False) as served:
        served.storage.message_bytes = MESSAGE_BYTES
        there = {REST_VARIABLE: served.endpoints.rest, STORAGE_VARIABLE: served.endpoints.storage}
        product.stop("worker")
        armoury = Armoury(tmp_path_factory.mktemp("armed") / "armed")
        workers = Workers(product, Streams(served, BYTES_PER_S), there, armoury)
        for name in ("worker-a", "worker-b"):
            workers.start(name)
        yield workers
        for name in ("worker-a", "worker-b"):
            product.stop(name)
        product.start(processes.worker(2))


@pytest.fixture
def streams(workers: Workers) -> Iterator[Streams]:
    workers.streams.bytes_per_s = BYTES_PER_S
    yield workers.streams
    workers.streams.bytes_per_s = QUICK


@pytest.fixture
def roomy(on_the_products_database: None, warehouse: dict[str, Any]) -> Connection:
    """The warehouse by a connection with a limit of its own: no worker slot is left for other destinations."""
    options, hidden = options_without_secret(warehouse)
    connection, _ = Connection.objects.get_or_create(
        name="Roomy", defaults={"kind": "postgres", "options": options, "secrets": hidden, "max_running": 4}
    )
    return connection


@pytest.fixture
def parted(streams: Streams, make_pipeline: Callable[..., Pipeline], roomy: Connection) -> Pipeline:
    return make_pipeline(f"{DATASET}.parted", load_method="staged", destination=roomy)


def with_a_part_on(run: Run, worker: str) -> PartLoad:
    """A part that `worker` loads: at a crawl, and it is not done before somebody says so."""

    def look() -> PartLoad | None:
        run.refresh_from_db()
        assert run.status in (RunStatus.QUEUED, RunStatus.RUNNING), run.error_message or run.status
        running = PartLoad.objects.filter(run=run, status=PartStatus.RUNNING, worker__startswith=worker, rows__gt=0)
        return running.first()

    return wait_for(look, limit_s=60, every_s=0.02, saying=f"{worker} loads a part")


def checkpoint(cursor: Any, part: PartLoad) -> tuple[int, int]:
    """Token and rows of the part, as the destination has them."""
    cursor.execute(
        "SELECT token, rows FROM _datamantri.checkpoint WHERE run = %s AND part = %s", (str(part.run_id), part.number)
    )
    return tuple(cursor.fetchone())


def let_go(run: Run, part: PartLoad) -> int:
    """How many rows the log says that another one goes on behind; 0 as long as it says nothing."""
    lines = LogLine.objects.filter(run=run, message__startswith=f"Part {part.number + 1} of ")
    said = lines.filter(message__contains="The worker is shutting down: another one goes on behind").first()
    return int(said.message.split("goes on behind ")[1].split(" ")[0].replace(",", "")) if said else 0


def rows_at(cursor: Any, pipeline: Pipeline) -> tuple[int, int]:
    cursor.execute(f"SELECT count(*), count(DISTINCT id) FROM public.{pipeline.target_table}")
    return tuple(cursor.fetchone())


def test_two_workers_share_one_table(streams, parted, run_now, warehouse_cursor):
    streams.bytes_per_s = CRAWL
    run = run_now(parted)
    for name in ("worker-a", "worker-b"):
        with_a_part_on(run, name)
    streams.bytes_per_s = QUICK
    ended(run)
    assert run.status == RunStatus.SUCCEEDED, run.error_message
    assert rows_at(warehouse_cursor, parted) == (ROWS, ROWS)
    workers = {part.worker.partition("@")[0] for part in PartLoad.objects.filter(run=run)}
    assert workers == {"worker-a", "worker-b"}


def test_a_killed_worker_child_costs_its_part_seconds(product, streams, parted, run_now, warehouse_cursor):
    streams.bytes_per_s = CRAWL
    run = run_now(parted)
    part = with_a_part_on(run, "worker-a")
    [child] = product.children("worker-a")
    child.kill()
    killed = time.monotonic()
    streams.bytes_per_s = QUICK

    def goes_on() -> bool:
        part.refresh_from_db()
        return part.losses == 1 and part.status != PartStatus.WAITING

    wait_for(goes_on, limit_s=60, saying="the part goes on")
    assert time.monotonic() - killed < SECONDS  # the lease is 30 s
    assert ended(run).status == RunStatus.SUCCEEDED, run.error_message
    assert (run.losses, run.failures) == (0, 0)
    assert rows_at(warehouse_cursor, parted) == (ROWS, ROWS)


def test_a_worker_asked_to_end_lets_go_and_another_goes_on_within_seconds(
    workers, streams, parted, run_now, warehouse_cursor
):
    streams.bytes_per_s = CRAWL
    run = run_now(parted)
    part = with_a_part_on(run, "worker-a")
    asked = workers.ask_to_end("worker-a")
    try:
        behind = wait_for(lambda: let_go(run, part), limit_s=60, saying="the part is let go")
        assert time.monotonic() - asked < SECONDS
        part.refresh_from_db()
        assert behind == part.rows > 0
        streams.bytes_per_s = QUICK  # the part that the other one has ends now: it has a free slot

        def goes_on() -> bool:
            part.refresh_from_db()
            return part.worker.startswith("worker-b@")

        wait_for(goes_on, limit_s=60, saying="another worker goes on")
        assert time.monotonic() - asked < 2 * SECONDS
        assert ended(run).status == RunStatus.SUCCEEDED, run.error_message
    finally:
        workers.start_again("worker-a")
    part.refresh_from_db()
    assert behind < part.rows
    assert LogLine.objects.filter(run=run, message__contains=f"Going on behind {behind:,} rows committed").exists()
    assert not PartLoad.objects.filter(run=run, losses__gt=0).exists()
    assert not PartLoad.objects.filter(run=run, failures__gt=0).exists()
    assert rows_at(warehouse_cursor, parted) == (ROWS, ROWS)


def test_a_run_in_one_go_starts_over_on_another_worker_within_seconds_of_a_sigterm(
    workers, streams, make_pipeline, run_now, warehouse_cursor
):
    streams.bytes_per_s = CRAWL
    pipeline = make_pipeline(f"{DATASET}.parted")
    run = caught_loading(run_now(pipeline))
    owner = run.worker.partition("@")[0]
    asked = workers.ask_to_end(owner)
    try:
        second = wait_for(lambda: run.attempts.filter(number=2).first(), limit_s=60, saying="another worker begins")
        assert time.monotonic() - asked < SECONDS
        streams.bytes_per_s = QUICK
        assert ended(run).status == RunStatus.SUCCEEDED, run.error_message
    finally:
        workers.start_again(owner)
    assert second.worker.partition("@")[0] == ({"worker-a", "worker-b"} - {owner}).pop()
    assert list(run.attempts.order_by("number").values_list("outcome", flat=True)) == ["drained", "succeeded"]
    assert (run.failures, run.losses) == (0, 0)
    assert rows_at(warehouse_cursor, pipeline) == (ROWS, ROWS)


def test_a_rolling_restart_under_load_fails_no_run(workers, streams, parted, make_pipeline, run_now, warehouse_cursor):
    streams.bytes_per_s = CRAWL
    pipelines = [parted, *(make_pipeline(f"{DATASET}.parted") for _ in range(2))]
    runs = [run_now(pipeline) for pipeline in pipelines]
    part = with_a_part_on(runs[0], "worker-")
    first = part.worker.partition("@")[0]
    for name in (first, *({"worker-a", "worker-b"} - {first})):
        workers.start_again(name)
    assert let_go(runs[0], part) > 0
    streams.bytes_per_s = QUICK
    for run, pipeline in zip(runs, pipelines, strict=True):
        assert ended(run, limit_s=120).status == RunStatus.SUCCEEDED, run.error_message
        assert (run.failures, run.losses) == (0, 0)
        assert rows_at(warehouse_cursor, pipeline) == (ROWS, ROWS)


def test_a_paused_worker_that_wakes_up_finds_its_commit_refused(workers, streams, parted, run_now, warehouse_cursor):
    """It stands still just before a COMMIT, past its lease, until another one goes on with the part."""
    product, at = workers.product, "checkpoint.before_commit"
    workers.armoury.arm(at, "stop", parted.pk, skip=1)
    run = run_now(parted)
    struck = wait_for(lambda: workers.armoury.struck(at, parted.pk), saying="worker-b stands still")
    begin = len(product.said("worker-b"))
    part = PartLoad.objects.get(run=run, worker__endswith=f":{struck.pid}", status=PartStatus.RUNNING)
    former = checkpoint(warehouse_cursor, part)

    def taken_over() -> tuple[int, int] | None:
        part.refresh_from_db()
        found = checkpoint(warehouse_cursor, part)
        return found if part.worker.startswith("worker-a@") and found[0] > former[0] else None

    try:
        newer, behind = wait_for(taken_over, limit_s=60, every_s=0.01, saying="another worker takes the part")
    finally:
        os.kill(struck.pid, signal.SIGCONT)
    assert (part.losses, newer) == (1, part.token)
    assert behind >= former[1] > 0

    def refused() -> bool:
        said = product.said("worker-b")[begin:].splitlines()
        whole = f"Part {part.number + 1} of 8 of run {run.pk} is no longer this worker's"
        return any(whole in line or f"Run {run.pk} has a newer owner" in line for line in said)

    wait_for(refused, saying="the one that woke up is told that its commit failed")
    assert ended(run).status == RunStatus.SUCCEEDED, run.error_message
    assert rows_at(warehouse_cursor, parted) == (ROWS, ROWS)
    part.refresh_from_db()
    assert (part.losses, part.token, part.worker[:9]) == (1, newer, "worker-a@")
    streams.bytes_per_s = CRAWL
    again = run_now(parted)
    with_a_part_on(again, "worker-b")  # it works again
    streams.bytes_per_s = QUICK
    assert ended(again).status == RunStatus.SUCCEEDED, again.error_message


def test_a_cancel_ends_all_parts_within_seconds(streams, parted, run_now, operator, warehouse_cursor):
    from runs import services

    streams.bytes_per_s = CRAWL
    run = run_now(parted)
    for name in ("worker-a", "worker-b"):
        with_a_part_on(run, name)
    services.cancel_run(run, by=operator)
    cancelled = time.monotonic()
    assert ended(run).status == RunStatus.CANCELLED
    assert time.monotonic() - cancelled < SECONDS
    warehouse_cursor.execute("SELECT count(*) FROM pg_class WHERE relname LIKE %s", (f"%{run.pk.hex}%",))
    assert warehouse_cursor.fetchone() == (0,)
