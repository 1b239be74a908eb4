"""What five checks add to a run of a million rows in parts: of 20 columns of all usual kinds, and of five."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bench import tables
from bench.latency import Bench
from bench.place import DATASET, PROJECT, median, say
from connectors.checks import Check, CheckKind
from datamantri.demo import loader

ROUNDS = 5
ROWS, WIDE_COLUMNS = 1_000_000, 20
STATES = ("new", "paid", "packed", "sent")


def checks_of(unique: str, number: str, name: str, present: str) -> tuple[Check, ...]:
    """One for each of five columns, of which none fails."""
    return (
        Check(CheckKind.UNIQUE, columns=(unique,)),
        Check(CheckKind.RANGE, columns=(number,), minimum="0", maximum="10000000"),
        Check(CheckKind.ACCEPTED, columns=("state",), values=STATES),
        Check(CheckKind.REGEX, columns=(name,), pattern="^[a-z0-9 ]+$"),
        Check(CheckKind.NOT_NULL, columns=(present,)),
    )


def checks_to_ask() -> tuple[Check, ...]:
    """Five that only PostgreSQL can answer."""
    return (
        Check(CheckKind.UNIQUE, columns=("c00_int64",)),
        Check(CheckKind.RANGE, columns=("c06_numeric",), minimum="0", maximum="10000000"),
        Check(CheckKind.ACCEPTED, columns=("c04_bool",), values=("true", "false")),
        Check(CheckKind.REGEX, columns=("c01_string",), pattern="^(value|text) [a-z0-9 ]+$"),
        Check(CheckKind.NOT_NULL, columns=("c14_numeric",)),
    )


def measure(bench: Bench) -> dict[str, float]:
    """Trigger → succeeded of the same load in parts, with checks and without, in turn."""
    wide, narrow = tables.wide_rows(ROWS, WIDE_COLUMNS - 1), tables.narrow_rows(0, ROWS)
    _make("checked_wide", tables.wide_columns(WIDE_COLUMNS - 1), wide)
    _make("checked", {name: kind for name, kind in tables.NARROW.items() if name != "amount"}, narrow)
    wide_checks = checks_of("c00_int64", "c02_float64", "c01_string", "c03_timestamp")
    return {
        "checks_overhead": _overhead(bench, "checked_wide", wide_checks),
        "checks_overhead_asked": _overhead(bench, "checked_wide", checks_to_ask(), "asked"),
        "checks_overhead_narrow": _overhead(bench, "checked", checks_of("id", "customer", "name", "at")),
    }


def _overhead(bench: Bench, table: str, checks: tuple[Check, ...], name: str = "five") -> float:
    """What the checks add, as a share of the run without them."""
    plain = bench.pipeline(f"{table}_{name}_plain", table, load_method="staged")
    checked = bench.pipeline(f"{table}_{name}", table, load_method="staged", checks=checks)
    _seconds(bench, plain), _seconds(bench, checked)  # warm, and both replace a table
    rounds = [(_seconds(bench, plain), _seconds(bench, checked)) for _ in range(ROUNDS)]
    a, b = (median(side) for side in zip(*rounds, strict=True))
    overhead = median([checked_s / plain_s - 1 for plain_s, checked_s in rounds])
    say(f"{table}: {ROWS:,} rows in {a:.2f} s, with five checks {b:.2f} s, overhead {overhead:.0%}")
    return overhead


def _make(name: str, kinds: Mapping[str, str], rows: pa.Table) -> None:
    """A table with a column of few values besides."""
    states = pa.array(STATES).take(pc.bit_wise_and(rows.column(0), 3))
    made = rows.select(list(kinds)).append_column("state", states)
    loader.load(tables.client(), f"{PROJECT}.{DATASET}.{name}", {**kinds, "state": "STRING"}, made)


def _seconds(bench: Bench, pipeline: Any) -> float:
    run = bench.run(pipeline)
    return float((run.finished_at - run.created_at).total_seconds())
