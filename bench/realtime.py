"""How soon a change of the source is in the target of a pipeline in near real time that polls each second."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pyarrow as pa
from google.cloud.bigquery import SchemaField

from bench.latency import Bench
from bench.place import DATASET, PROJECT, percentile, say, warehouse_options
from tests.emulator_tables import EmulatorTables

CHANGES = 45
LIMIT_S = 30.0
# Looking at the target costs what is measured, too.
LOOK_S = 0.02
SCHEMA = [SchemaField("id", "INT64"), SchemaField("at", "TIMESTAMP")]


def measure(bench: Bench) -> dict[str, float]:
    """The answer to a load into the source → the row in the target, one change at a time, N = 1.

    By a merge with a lookback, as the docs recommend: an append would wait for rows to settle.
    """
    tables = EmulatorTables(bench.product.env["BIGQUERY_REST_ENDPOINT"], PROJECT)
    tables.make(f"{DATASET}.live", SCHEMA, _row(0))
    pipeline = bench.pipeline(
        "live",
        "live",
        write_disposition="merge",
        merge_key=["id"],
        cursor_column="at",
        incremental=True,
        lookback=60,
        mode="realtime",
        poll_every_s=1,
    )
    options = {**warehouse_options(bench.product), "connect_timeout": 5}
    target = psycopg2.connect(**{name: value for name, value in options.items() if name != "sslmode"})
    target.autocommit = True
    try:
        _seen_after(target, 0)
        delays = []
        for number in range(1, CHANGES + 1):
            tables.append(f"{DATASET}.live", _row(number))
            delays.append(_seen_after(target, number))
            # At any time between two polls.
            time.sleep(random.uniform(0.1, 1.6))
    finally:
        target.close()
        tables.close()
        _end(pipeline, bench)
    p50, p95 = percentile(delays, 0.5), percentile(delays, 0.95)
    say(f"source → target, polled each second: median {p50:.2f} s, p95 {p95:.2f} s over {len(delays)} changes")
    return {"realtime_visible_p50_s": p50, "realtime_visible_p95_s": p95}


def _row(number: int) -> pa.Table:
    return pa.table({"id": [number], "at": pa.array([datetime.now(UTC)], pa.timestamp("us", "UTC"))})


def _seen_after(target: Any, number: int) -> float:
    began = time.perf_counter()
    with target.cursor() as cursor:
        while time.perf_counter() - began < LIMIT_S:
            cursor.execute("SELECT to_regclass('public.run_live')")
            if cursor.fetchone()[0] is not None:
                cursor.execute("SELECT EXISTS (SELECT FROM public.run_live WHERE id = %s)", [number])
                if cursor.fetchone()[0]:
                    return time.perf_counter() - began
            time.sleep(LOOK_S)
    raise AssertionError(f"Row {number} was not in the target after {LIMIT_S:g} s")


def _end(pipeline: Any, bench: Bench) -> None:
    """What is measured next has the machine for itself."""
    from pipelines import services

    services.pause([pipeline], by=bench.operator)
