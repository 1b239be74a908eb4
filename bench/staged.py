"""Loads in parts against loads in one go, and two workers against one where each stream is slow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from bench.latency import Bench
from bench.place import median, say
from connectors.bigquery.client import REST_VARIABLE, STORAGE_VARIABLE
from datamantri.embedded.product import Product
from tests.bigquery.proxy import BehavingBigQuery

ROUNDS = 3
BYTES_PER_S = 6_000_000  # of each stream: one worker that reads part after part gets no more


def measure(product: Product, bench: Bench) -> dict[str, float]:
    """Trigger → succeeded of the long table in one go and in parts, and of the narrow one by one worker and by two."""
    return {**_over_direct(bench), **_speedup(product, bench)}


def _seconds(bench: Bench, pipeline: Any) -> float:
    run = bench.run(pipeline)
    return float((run.finished_at - run.created_at).total_seconds())


def _over_direct(bench: Bench) -> dict[str, float]:
    direct = bench.pipeline("long_direct", "long", load_method="direct")
    staged = bench.pipeline("long_staged", "long", load_method="staged")
    _seconds(bench, direct), _seconds(bench, staged)  # warm, and both replace a table
    rounds = [(_seconds(bench, direct), _seconds(bench, staged)) for _ in range(ROUNDS)]
    a, b = (median(side) for side in zip(*rounds, strict=True))
    ratio = median([staged_s / direct_s for direct_s, staged_s in rounds])
    say(f"5,000,000 rows: in one go {a:.2f} s, in parts {b:.2f} s, over direct {ratio:.2f}")
    return {"long_direct_s": a, "long_staged_s": b, "staged_over_direct": ratio}


def _speedup(product: Product, bench: Bench) -> dict[str, float]:
    upstream = {"rest": product.env[REST_VARIABLE], "storage": product.env[STORAGE_VARIABLE]}
    pipeline = bench.pipeline("narrow_staged", "narrow", load_method="staged")
    seconds = {}
    with BehavingBigQuery(**upstream, keeps_history=False) as served:
        served.faults.inject("rate", "ReadRows", times=None, bytes_per_s=BYTES_PER_S)
        there = {REST_VARIABLE: served.endpoints.rest, STORAGE_VARIABLE: served.endpoints.storage}
        for workers in (1, 2):
            with _workers(product, workers, there):
                _seconds(bench, pipeline)
                seconds[workers] = median([_seconds(bench, pipeline) for _ in range(ROUNDS)])
    speedup = seconds[1] / seconds[2]
    say(f"slow streams: one worker {seconds[1]:.2f} s, two {seconds[2]:.2f} s, {speedup:.2f} times as fast")
    return {
        "staged_one_worker_s": seconds[1],
        "staged_two_workers_s": seconds[2],
        "staged_two_workers_speedup": speedup,
    }


@contextlib.contextmanager
def _workers(product: Product, number: int, endpoints: dict[str, str]) -> Iterator[None]:
    """The product with so many worker processes of one child each, which read from elsewhere."""
    product.change_workers(["worker"] if number == 1 else ["worker", "worker-2"], endpoints)
    try:
        yield
    finally:
        product.change_workers(["worker"], {name: os.environ[name] for name in endpoints}, children=2)
