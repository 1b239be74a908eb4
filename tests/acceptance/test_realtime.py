"""Near real time on real processes: a change of the source is in the target seconds later, whoever polls."""

from __future__ import annotations

import signal
from contextlib import closing
from typing import Any

import pyarrow as pa

from datamantri import processes
from pipelines import services as definitions
from runs.models import PollShare, Process
from tests.acceptance.conftest import PROJECT, numbers
from tests.acceptance.product import Product, wait_for
from tests.emulator_tables import EmulatorTables


def test_changes_arrive_by_themselves_also_when_a_poller_is_killed(
    make_pipeline: Any, source_table: Any, emulator: Any, product: Product, warehouse_cursor: Any
) -> None:
    pollers = [processes.poller("poller"), processes.poller("second")]
    for spec in pollers:
        product.start(spec, LEASE_TTL_S="6")
    wait_for(lambda: Process.objects.filter(kind="poller", slots=0).count() == 2, saying="both wait, and are small")
    table = source_table(numbers(10))
    live = {"mode": "realtime", "poll_every_s": 1, "incremental": True, "cursor_column": "id", "lookback": 5}
    pipeline = make_pipeline(table, write_disposition="merge", merge_key=["id"], **live)

    def rows() -> int:
        warehouse_cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [f"public.{pipeline.target_table}"])
        if not warehouse_cursor.fetchone()[0]:
            return 0
        warehouse_cursor.execute(f"SELECT count(*) FROM public.{pipeline.target_table}")
        return warehouse_cursor.fetchone()[0]

    def append(number: int) -> None:
        with closing(EmulatorTables(emulator["rest"], PROJECT)) as tables:
            tables.append(table, pa.table({"id": [number], "name": ["x"]}))
        wait_for(lambda: rows() == number + 1, limit_s=60, every_s=0.1, saying=f"row {number} is in the target")

    try:
        wait_for(lambda: rows() == 10, limit_s=60, saying="the first micro-batch was loaded")
        append(10)
        pids = {f":{product.process(spec.name).pid}": spec.name for spec in pollers}

        def holders() -> set[str]:
            return {f":{name.rpartition(':')[2]}" for name in PollShare.objects.values_list("poller", flat=True)}

        wait_for(lambda: holders() == set(pids), limit_s=60, saying="they share the work")
        # Whoever polls it now ends at once, without a word.
        for name in [name for pid, name in pids.items() if _polls(pid, pipeline)]:
            product.stop(name, with_signal=signal.SIGKILL)
        append(11)
        because = [run.action_options["because"] for run in pipeline.runs.order_by("created_at")]
        assert because == ["first", "changed", "changed"], "each change asked for one run"
        definitions.pause([pipeline], by=None)
    finally:
        definitions.pause([pipeline], by=None)
        for name in {spec.name for spec in pollers} & set(product._running):
            product.stop(name)
    assert "Traceback" not in product.said("poller") + product.said("second")


def _polls(pid: str, pipeline: Any) -> bool:
    from runs import services

    names = Process.objects.filter(kind="poller", name__endswith=pid).values_list("name", flat=True)
    return any(row.pipeline == pipeline.pk for name in names for row in services.assigned(name))
