"""The engine against its floor: what the source and the destination can do at best, in the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from psycopg2 import sql

from bench.place import DATASET, median, say, seconds_of, warehouse_options
from connectors import transfer
from connectors.base import NeverStop
from connectors.bigquery.options import BigQueryOptions
from connectors.bigquery.source import BigQuerySource
from connectors.checks import CheckResult
from connectors.modes import Deletes, WriteDisposition, WriteMode
from connectors.postgres.copy import READERS
from connectors.postgres.destination import PostgresDestination
from connectors.postgres.options import PostgresOptions
from connectors.reading import ReadPlan, ReadRequest
from connectors.writing import Owner, Target
from datamantri import processes
from datamantri.embedded.product import Product
from datamantri.embedded.stack import WAREHOUSE

ROUNDS = 3


class Silent:
    """A Reporter that keeps nothing."""

    def log(self, level: str, message: str) -> None:
        return None

    def progress(self, *, rows: int, bytes: int) -> None:
        return None

    def planned(self, plan: ReadPlan) -> None:
        return None

    def publishing(self) -> None:
        return None

    def audited(self, results: tuple[CheckResult, ...]) -> None:
        return None


REPLACE = WriteMode(WriteDisposition.REPLACE)


def load_once(table: str, warehouse: dict[str, Any], into: str, mode: WriteMode = REPLACE) -> transfer.Receipt:
    """One direct load, as a worker child does it, without Celery."""
    source = BigQuerySource(BigQueryOptions("bench"))
    destination = PostgresDestination(PostgresOptions(**warehouse))
    try:
        target = Target("public", into)
        owner = Owner(uuid.UUID(int=1), uuid.uuid5(uuid.NAMESPACE_OID, into), uuid.uuid4(), 1)
        fence = destination.raise_fence(target, owner)
        request = transfer.TransferRequest(
            owner=owner,
            read=ReadRequest(table=f"{DATASET}.{table}"),
            target=target,
            mode=mode,
            fingerprint=into,
        )
        return transfer.direct(source, destination, fence, request, reporter=Silent(), stop=NeverStop())
    finally:
        source.close()
        destination.close()


def drain(table: str) -> int:
    """Read all streams to their end and throw the rows away, as many at a time as the engine reads."""
    source = BigQuerySource(BigQueryOptions("bench"))
    try:
        plan = source.plan(ReadRequest(table=f"{DATASET}.{table}"))

        def count(part: Any) -> int:
            return sum(batch.num_rows for batch in source.read(part, stop=NeverStop()))

        with ThreadPoolExecutor(max_workers=READERS) as pool:
            return sum(pool.map(count, plan.parts))
    finally:
        source.close()


class Loader:
    """A process that loads and drains as a worker's child does, with its settings, and stays warm."""

    def __init__(self, warehouse: dict[str, Any], *, endpoints: Mapping[str, str] = os.environ) -> None:
        # `endpoints` has the variables that say where BigQuery answers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.engine", json.dumps(warehouse)],
            env={**os.environ, **processes.worker().env, **endpoints},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def load(self, table: str, *, into: str = "") -> float:
        """Seconds of one direct load, into a table of the same name unless told."""
        return float(self._ask(f"load {table} {into or table}"))

    def merge(self, table: str, *, into: str, deletes: str = "keep") -> float:
        """Seconds of one merge of all rows by the column id."""
        return float(self._ask(f"merge {table} {into} {deletes}"))

    def drain(self, table: str) -> float:
        """Seconds to read all rows and keep none."""
        return float(self._ask(f"drain {table}"))

    def peak_mb(self) -> float:
        """The process's own peak; `ru_maxrss` would begin with what its parent held when it forked."""
        return int(self._ask("peak")) / 1024

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def _ask(self, question: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"The loading process ended at: {question}")
        return answer


def _answer(warehouse: dict[str, Any]) -> None:
    """The other side of a Loader."""
    for question in sys.stdin:
        match question.split():
            case ["load", table, into]:
                say(str(seconds_of(lambda t=table, i=into: load_once(t, warehouse, i))))
            case ["merge", table, into, deletes]:
                mode = WriteMode(WriteDisposition.MERGE, ("id",), deletes=Deletes(deletes), sees_all=True)
                say(str(seconds_of(lambda t=table, i=into, m=mode: load_once(t, warehouse, i, m))))
            case ["drain", table]:
                say(str(seconds_of(lambda table=table: drain(table))))
            case ["peak"]:
                status = Path("/proc/self/status").read_text()
                say(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


class Floor:
    """Server-side binary COPY FROM of the same rows into a plain logged table that was created before."""

    def __init__(self, product: Product, table: str) -> None:
        assert product.stack.postgres is not None
        self._connection = product.stack.postgres.connect(WAREHOUSE)
        self._connection.autocommit = True
        self._table = sql.Identifier("public", f"floor_{table}")
        with self._connection.cursor() as cursor:
            cursor.execute("SHOW data_directory")
            folder = cursor.fetchone()[0]
            self._file = f"{folder}/bench-{table}.copy"
            source = sql.Identifier("public", table)
            cursor.execute(sql.SQL("CREATE TABLE {} (LIKE {})").format(self._table, source))
            cursor.execute(sql.SQL("COPY {} TO {} (FORMAT binary)").format(source, sql.Literal(self._file)))

    def copy(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(sql.SQL("COPY {} FROM {} (FORMAT binary)").format(self._table, sql.Literal(self._file)))

    def empty(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(sql.SQL("TRUNCATE {}; CHECKPOINT").format(self._table))

    def close(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP TABLE {}").format(self._table))
        self._connection.close()


def measure(product: Product, full_run: Callable[[str], float]) -> dict[str, float]:
    """Floor, drain, engine and full run of both tables; `full_run` gives trigger → succeeded in seconds."""
    loader = Loader(warehouse_options(product))
    figures: dict[str, float] = {}
    overheads: list[float] = []
    say(f"{'':10} {'COPY (a)':>9} {'drain (b)':>9} {'engine (c)':>10} {'run (d)':>8} {'c/max(a,b)':>10}")
    for table in ("narrow", "wide"):
        loader.load(table)  # warm, and the floor copies its rows
        loader.drain(table)
        full_run(table)
        floor = Floor(product, table)
        rounds = []
        for _ in range(ROUNDS):
            a = seconds_of(floor.copy)
            floor.empty()
            b = loader.drain(table)
            c = loader.load(table)
            d = full_run(table)
            rounds.append((a, b, c, d))
        floor.close()
        a, b, c, d = (median(side) for side in zip(*rounds, strict=True))
        ratio = median([c / max(a, b) for a, b, c, _ in rounds])
        overheads.append(median([d - c for _, _, c, d in rounds]))
        say(f"{table:10} {a:9.3f} {b:9.3f} {c:10.3f} {d:8.3f} {ratio:10.2f}")
        figures |= {
            f"{table}_copy_s": a,
            f"{table}_drain_s": b,
            f"{table}_engine_s": c,
            f"{table}_run_s": d,
            f"{table}_engine_over_limit": ratio,
        }
    loader.close()
    figures["run_overhead_s"] = max(overheads)
    return figures


def measure_memory(product: Product) -> dict[str, float]:
    """Peak memory of a process that loads, at one and at five million rows."""
    peaks = {}
    for table in ("narrow", "long"):
        loader = Loader(warehouse_options(product))
        loader.load(table)
        peaks[table] = loader.peak_mb()
        loader.close()
    say(f"peak RSS: {peaks['narrow']:.0f} MB at 1,000,000 rows, {peaks['long']:.0f} MB at 5,000,000")
    return {"rss_1m_mb": peaks["narrow"], "rss_growth_5m_over_1m": peaks["long"] / peaks["narrow"]}


if __name__ == "__main__":
    _answer(json.loads(sys.argv[1]))
