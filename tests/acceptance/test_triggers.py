"""Dependencies, webhooks and changing sources on real processes."""

from __future__ import annotations

import itertools
import signal
import time
import urllib.request
import uuid
from contextlib import closing
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from django.db.models.functions import Now

from datamantri import processes
from pipelines import services as definitions
from pipelines import webhooks
from pipelines.dependencies import DependencySpec
from pipelines.models import Pipeline
from pipelines.specs import ScheduleSpec
from runs.models import Run, WatchedTable
from runs.states import TERMINAL, RunStatus
from tests.acceptance.conftest import PROJECT, Api, ended, numbers
from tests.acceptance.product import Product, wait_for
from tests.emulator_tables import EmulatorTables


@pytest.fixture
def line(make_pipeline: Any, source_table: Any) -> list[Pipeline]:
    """Three pipelines; the second waits for the first, and the third for both."""
    table = source_table(numbers(10))
    first, second, third = (make_pipeline(table) for _ in range(3))
    wait(second, first)
    wait(third, first, second)
    return [first, second, third]


def wait(pipeline: Pipeline, *upstreams: Pipeline) -> None:
    specs = [DependencySpec(upstream.pk) for upstream in upstreams]
    definitions.save_pipeline(pipeline, schedules=None, dependencies=specs, by=None)


def all_ended(pipelines: list[Pipeline], runs: int) -> bool:
    found = list(Run.objects.filter(pipeline__in=pipelines).values_list("status", flat=True))
    return len(found) >= runs and all(status in TERMINAL for status in found)


def in_order(pipelines: list[Pipeline]) -> None:
    """Each began after those above it had ended."""
    runs = [pipeline.runs.order_by("-created_at")[0] for pipeline in pipelines]
    assert [run.status for run in runs] == [RunStatus.SUCCEEDED] * len(runs)
    for earlier, later in itertools.pairwise(runs):
        assert earlier.finished_at <= later.started_at


def test_a_success_goes_down_the_line_each_once(line, run_now):
    ended(run_now(line[0]))
    wait_for(lambda: all_ended(line, 3), saying="all three have run")
    time.sleep(2.5)
    assert [pipeline.runs.count() for pipeline in line] == [1, 1, 1]
    in_order(line)


def test_scheduled_runs_wait_for_their_upstreams_of_the_same_interval(make_pipeline, source_table):
    table = source_table(numbers(10))
    every_four = [ScheduleSpec("interval", every_s=4)]
    upstream, downstream = (make_pipeline(table, schedules=every_four, state="paused") for _ in range(2))
    wait(downstream, upstream)
    definitions.resume([upstream, downstream], by=None)
    wait_for(lambda: downstream.runs.filter(status="succeeded").count() >= 3, limit_s=90, saying="three have run")
    definitions.pause([upstream, downstream], by=None)
    for run in downstream.runs.filter(status="succeeded"):
        above = upstream.runs.get(data_interval_end=run.data_interval_end)
        assert above.finished_at <= run.started_at
        assert run.prerequisites.get().met_by_id == above.pk
    for pipeline in (upstream, downstream):
        wait_for(lambda pipeline=pipeline: all_ended([pipeline], 3), saying="nothing is left over")


def test_from_here_down_through_the_api_while_beat_is_struck(line, api: Api, product: Product):
    status, runs = api("POST", f"pipelines/{line[0].pk}/runs/downstream/")
    assert status == 201
    assert [run["pipeline"] for run in runs] == [str(pipeline.pk) for pipeline in line]
    product.stop("beat", with_signal=signal.SIGKILL)
    product.start(processes.beat())
    wait_for(lambda: all_ended(line, 3), limit_s=90, saying="all three have run")
    in_order(line)
    time.sleep(2.5)
    assert [pipeline.runs.count() for pipeline in line] == [1, 1, 1]


def test_a_signed_delivery_moves_rows(make_pipeline, source_table, product: Product, warehouse_cursor):
    pipeline = make_pipeline(source_table(numbers(10)))
    webhook, secret = webhooks.renew_secret(pipeline)
    delivery, at = uuid.uuid4().hex, str(int(time.time()))
    headers = {
        "webhook-id": delivery, "webhook-timestamp": at,
        "webhook-signature": f"v1,{webhooks.signature_of(secret, delivery, at, b'{}')}",
    }  # fmt: skip
    request = urllib.request.Request(f"{product.url}/hooks/{webhook.pk}/", b"{}", headers)
    with urllib.request.urlopen(request, timeout=15) as answer:
        assert answer.status == 202
    ended(pipeline.runs.get())
    warehouse_cursor.execute(f"SELECT count(*) FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchone() == (10,)


def test_a_table_that_grows_is_loaded_again(make_pipeline, source_table, emulator, warehouse_cursor):
    table = source_table(numbers(10))
    pipeline = make_pipeline(table, watch_every_s=60)
    row = WatchedTable.objects.filter(table=table)
    wait_for(lambda: row.filter(looked_at__isnull=False).exists(), saying="a worker has looked")
    assert not pipeline.runs.exists()
    with closing(EmulatorTables(emulator["rest"], PROJECT)) as tables:
        tables.append(table, pa.table({"id": [10], "name": ["x"]}))
    # A look that was under way meanwhile may have come too early for the change, and counts from its end.
    wait_for(
        lambda: row.update(looked_at=Now() - timedelta(minutes=2)) and pipeline.runs.exists(), saying="a look finds it"
    )
    wait_for(lambda: pipeline.runs.filter(status="succeeded").exists(), saying="the change was loaded")
    assert pipeline.runs.get().trigger == "source"
    warehouse_cursor.execute(f"SELECT count(*) FROM public.{pipeline.target_table}")
    assert warehouse_cursor.fetchone() == (11,)
    definitions.pause([pipeline], by=None)
