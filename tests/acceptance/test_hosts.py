"""Workers on hosts of their own, one of which is cut off from all others in the middle of a load in parts."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from connectors.bigquery.client import REST_VARIABLE, STORAGE_VARIABLE
from datamantri import processes
from datamantri.demo import loader
from pipelines.models import Connection
from runs.models import PartLoad, Run
from runs.states import PartStatus, RunStatus
from tests.acceptance.conftest import DATASET, PROJECT, ended, numbers
from tests.acceptance.namespaces import HOST, Hosts, NotHere, hosts
from tests.acceptance.product import Product, options_without_secret, wait_for
from tests.acceptance.streams import Streams
from tests.acceptance.test_parts import CRAWL, MESSAGE_BYTES, QUICK, ROWS, rows_at, with_a_part_on
from tests.bigquery.proxy import BehavingBigQuery


@pytest.fixture
def two_hosts(product: Product, bigquery_client: Any) -> Iterator[tuple[Hosts, Streams]]:
    """Worker-a and worker-b, each on a host of its own, instead of the product's worker; their streams crawl."""
    loader.load(bigquery_client, f"{PROJECT}.{DATASET}.hosted", {"id": "INT64", "name": "STRING"}, numbers(ROWS))
    upstream = {"rest": os.environ[REST_VARIABLE], "storage": os.environ[STORAGE_VARIABLE]}
    try:
        with hosts("a", "b") as made, BehavingBigQuery(**upstream, keeps_history=False) as served:
            served.storage.message_bytes = MESSAGE_BYTES
            streams = Streams(served, CRAWL)
            there = {
                "DATABASE_URL": made.reach_url(product.env["DATABASE_URL"]),
                "BROKER_URL": made.reach_url(product.env["BROKER_URL"]),
                REST_VARIABLE: made.reach_url(served.endpoints.rest),
                STORAGE_VARIABLE: f"{HOST}:{made.reach(int(served.endpoints.storage.rpartition(':')[2]))}",
                "LEASE_TTL_S": "8",  # nothing else tells of a host that is gone
            }
            product.stop("worker")
            for name in ("a", "b"):
                spec = processes.worker(1, f"worker-{name}")
                product.start(replace(spec, argv=(*made.inside(name), *spec.argv)), **there)
            try:
                yield made, streams
            finally:
                for name in ("a", "b"):
                    product.stop(f"worker-{name}", grace_s=5)
                product.start(processes.worker(2))
    except NotHere as why:
        pytest.skip(f"hosts of their own cannot be had here: {why}")


def applied_by(cursor: Any, run: Run) -> tuple[int, int]:
    """How many rows this run brought, as the destination has it, and under which token."""
    cursor.execute("SELECT rows, token FROM _datamantri.applied WHERE run = %s", (str(run.pk),))
    return tuple(cursor.fetchone())


def was_told_no(said: str, run: Run) -> bool:
    """Whether a worker's log says that its child noticed, by its clock or by what it was answered."""
    whole = (f"of run {run.pk} is no longer this worker's", f"Run {run.pk} has a newer owner")
    return any(words in said for words in (*whole, f"Run {run.pk} did not stop in time: this process ends itself"))


def test_a_host_cut_off_in_the_middle_loses_its_parts_to_the_others(
    product, two_hosts, warehouse, make_pipeline, run_now, warehouse_cursor
):
    two, streams = two_hosts
    options, hidden = options_without_secret(warehouse)
    reached = {**options, "host": HOST, "port": two.reach(int(options["port"])), "sslmode": "disable"}
    far = Connection.objects.create(
        name=f"far {secrets.token_hex(3)}", kind="postgres", options=reached, secrets=hidden, max_running=4
    )
    pipeline = make_pipeline(f"{DATASET}.hosted", destination=far, load_method="staged")
    run = run_now(pipeline)
    part = with_a_part_on(run, "worker-a")
    begin = len(product.said("worker-a"))
    two.cut_off("a")
    cut = time.monotonic()
    streams.bytes_per_s = QUICK

    def taken_over() -> bool:
        part.refresh_from_db()
        return part.worker.startswith("worker-b@")

    wait_for(taken_over, limit_s=60, saying="worker-b goes on with the part")
    assert time.monotonic() - cut < 25  # the lease is 8 s here, and 30 s everywhere else
    assert ended(run, limit_s=90).status == RunStatus.SUCCEEDED, run.error_message
    assert rows_at(warehouse_cursor, pipeline) == (ROWS, ROWS)
    part = PartLoad.objects.get(run=run, losses=1)
    assert part.worker.startswith("worker-b@")
    applied = applied_by(warehouse_cursor, run)
    assert applied[0] == ROWS

    two.plug_in("a")
    wait_for(lambda: was_told_no(product.said("worker-a")[begin:], run), limit_s=60, saying="the lost child gave up")
    # Whatever it sent meanwhile, or would have sent.
    assert rows_at(warehouse_cursor, pipeline) == (ROWS, ROWS)
    assert applied_by(warehouse_cursor, run) == applied
    after = PartLoad.objects.get(pk=part.pk)
    assert (after.token, after.worker, after.status) == (part.token, part.worker, PartStatus.DONE)

    streams.bytes_per_s = CRAWL
    again = run_now(pipeline)
    with_a_part_on(again, "worker-a")  # it works again
    streams.bytes_per_s = QUICK
    assert ended(again, limit_s=90).status == RunStatus.SUCCEEDED, again.error_message
    assert rows_at(warehouse_cursor, pipeline) == (ROWS, ROWS)
    assert applied_by(warehouse_cursor, run) == applied
