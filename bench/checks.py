"""What five checks add to a run of a million rows that are staged first."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bench import tables
from bench.latency import Bench
from bench.place import DATASET, PROJECT, median, say
from connectors.checks import Check, CheckKind
from datamantri.demo import loader

ROUNDS = 5
ROWS = 1_000_000
STATES = ("new", "paid", "packed", "sent", "returned")
COLUMNS = {"id": "INT64", "customer": "INT64", "state": "STRING", "name": "STRING", "at": "TIMESTAMP"}
# One for each column, and none of them fails.
CHECKS = (
    Check(CheckKind.UNIQUE, columns=("id",)),
    Check(CheckKind.RANGE, columns=("customer",), minimum="0", maximum="10000000"),
    Check(CheckKind.ACCEPTED, columns=("state",), values=STATES),
    Check(CheckKind.REGEX, columns=("name",), pattern="^[a-z0-9 ]+$"),
    Check(CheckKind.NOT_NULL, columns=("at",)),
)


def measure(bench: Bench) -> dict[str, float]:
    """Trigger → succeeded of the same load in parts, with checks and without, in turn."""
    _make_table()
    plain = bench.pipeline("checks_none", "checked", load_method="staged")
    checked = bench.pipeline("checks_five", "checked", load_method="staged", checks=CHECKS)
    _seconds(bench, plain), _seconds(bench, checked)  # warm, and both replace a table
    rounds = [(_seconds(bench, plain), _seconds(bench, checked)) for _ in range(ROUNDS)]
    a, b = (median(side) for side in zip(*rounds, strict=True))
    overhead = median([checked_s / plain_s - 1 for plain_s, checked_s in rounds])
    say(f"1,000,000 staged rows: {a:.2f} s, with five checks {b:.2f} s, overhead {overhead:.0%}")
    return {"checks_none_s": a, "checks_five_s": b, "checks_overhead": overhead}


def _make_table() -> None:
    """The narrow table with a column of few values."""
    rows = tables.narrow_rows(0, ROWS)
    states = pa.array(STATES).take(pc.bit_wise_and(rows["id"], 3))
    made = pa.table({**{name: rows[name] for name in ("id", "customer", "name", "at")}, "state": states})
    loader.load(tables.client(), f"{PROJECT}.{DATASET}.checked", COLUMNS, made.select(list(COLUMNS)))


def _seconds(bench: Bench, pipeline: Any) -> float:
    run = bench.run(pipeline)
    return float((run.finished_at - run.created_at).total_seconds())
