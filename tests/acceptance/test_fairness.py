"""Who may use the workers: limits and fairness on real processes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from datamantri import processes
from pipelines import services as definitions
from pipelines.models import Connection, Pipeline, Pool
from runs import capacity, services
from runs.states import RunStatus
from tests.acceptance.conftest import SLOW, caught_loading, ended, numbers
from tests.acceptance.product import options_without_secret, wait_for

AT_ONCE = timedelta(seconds=5)


@pytest.fixture
def far(product: Any, on_the_products_database: None, warehouse: dict[str, Any]) -> Iterator[Connection]:
    """The same destination by another connection, which only the pipelines of this test use."""
    wait_for(lambda: capacity.total_slots() == 2, limit_s=60, saying="a killed worker of a test before is forgotten")
    options, hidden = options_without_secret(warehouse)
    connection, _ = Connection.objects.update_or_create(
        name="Far", defaults={"kind": "postgres", "options": options, "secrets": hidden, "max_running": None}
    )
    yield connection
    definitions.archive(Pipeline.objects.filter(destination=connection), by=None)


def test_a_slow_destination_leaves_a_worker_slot_for_the_others(
    product, far, make_pipeline, slow_target, large_table, source_table, run_now, operator, api
):
    slow = [slow_target(make_pipeline(large_table, destination=far, **SLOW)) for _ in range(2)]
    quick = make_pipeline(source_table(numbers(10)))
    first = caught_loading(run_now(slow[0]))
    second = run_now(slow[1])
    try:
        assert ended(run_now(quick)).status == RunStatus.SUCCEEDED
        _, told = api("GET", f"runs/{second.pk}/")
        assert told["status"] == "queued"
        assert told["waiting"].startswith("Waiting for connection Far: it has 1 of 2 worker slots")
        assert told["waiting_on"] == [{"run": str(first.pk), "pipeline": slow[0].name, "slots": 1}]
        # Beat would call a worker within a second or two; but the one that becomes free looks by itself.
        product.stop("beat")
        try:
            services.cancel_run(first, by=operator)
            assert ended(first).status == RunStatus.CANCELLED
            caught_loading(second)
        finally:
            product.start(processes.beat())
        assert second.started_at - first.finished_at < AT_ONCE
    finally:
        for run in (first, second):
            services.cancel_run(run, by=operator)
            ended(run)


def test_a_full_pool_holds_up_its_own_pipelines_only_and_a_slot_more_counts_at_once(
    far, make_pipeline, slow_target, large_table, source_table, run_now, operator, api
):
    pool = Pool.objects.create(name="Large loads", slots=1)
    definitions.limit_connection(far, 2)
    slow = [slow_target(make_pipeline(large_table, destination=far, pool=pool, **SLOW)) for _ in range(2)]
    first = caught_loading(run_now(slow[0]))
    second = run_now(slow[1])
    try:
        assert ended(run_now(make_pipeline(source_table(numbers(10))))).status == RunStatus.SUCCEEDED
        _, told = api("GET", f"runs/{second.pk}/")
        assert told["waiting"] == f"Waiting for a slot of pool Large loads: 1 of 1 in use by {slow[0].name}."
        assert api("PATCH", f"pools/{pool.pk}/", {"slots": 2})[1]["slots"] == 2
        caught_loading(second)
    finally:
        for run in (first, second):
            services.cancel_run(run, by=operator)
            ended(run)
