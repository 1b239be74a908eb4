"""Tables to measure with: narrow, wide and mixed, long, empty."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from google.cloud import bigquery

from bench.place import DATASET, PROJECT
from connectors.bigquery.client import Clients, Endpoints
from connectors.bigquery.options import BigQueryOptions
from datamantri.demo import loader

NARROW_ROWS, LONG_ROWS = 1_000_000, 5_000_000
WIDE_ROWS, WIDE_COLUMNS = 200_000, 40

NARROW = {"id": "INT64", "customer": "INT64", "amount": "FLOAT64", "name": "STRING", "at": "TIMESTAMP"}
_EPOCH_US = 1_700_000_000_000_000


def narrow_rows(start: int, count: int) -> pa.Table:
    ids = pa.array(range(start, start + count), pa.int64())
    return pa.table(
        {
            "id": ids,
            "customer": pc.multiply(ids, 7),
            "amount": pc.multiply(ids.cast(pa.float64()), 0.25),
            "name": pc.binary_join_element_wise("customer number", ids.cast(pa.string()), " "),
            "at": pc.add(pc.multiply(ids, 1_000_000), _EPOCH_US).cast(pa.timestamp("us", "UTC")),
        }
    )


_KINDS = ("INT64", "STRING", "FLOAT64", "TIMESTAMP", "BOOL", "DATE", "NUMERIC", "STRING")


def wide_columns(columns: int = WIDE_COLUMNS) -> dict[str, str]:
    return {f"c{i:02}_{_KINDS[i % 8].lower()}": _KINDS[i % 8] for i in range(columns)}


def wide_rows(count: int, columns: int = WIDE_COLUMNS) -> pa.Table:
    ids = pa.array(range(count), pa.int64())
    text = ids.cast(pa.string())

    def column(i: int, kind: str) -> pa.Array:
        if kind == "INT64":
            return pc.add(ids, i)
        if kind == "STRING":
            return pc.binary_join_element_wise(f"value {i} of row", text, " ")
        if kind == "FLOAT64":
            return pc.divide(ids.cast(pa.float64()), i + 3.0)
        if kind == "TIMESTAMP":
            return pc.add(pc.multiply(ids, 1000 + i), _EPOCH_US).cast(pa.timestamp("us", "UTC"))
        if kind == "BOOL":
            return pc.equal(pc.bit_wise_and(ids, 1), 0)
        if kind == "DATE":
            return pc.add(pc.bit_wise_and(ids, 8191), i).cast(pa.int32()).cast(pa.date32())
        return pc.add(ids, i).cast(pa.decimal128(38, 9), safe=False)

    return pa.table({name: column(i, kind) for i, (name, kind) in enumerate(wide_columns(columns).items())})


def client() -> bigquery.Client:
    return Clients(BigQueryOptions(PROJECT), Endpoints.from_environment()).rest


def make(*, long: bool = True) -> None:
    """Load all tables into the emulator."""
    rest = client()
    loader.ensure_dataset(rest, DATASET)
    place = f"{PROJECT}.{DATASET}"
    loader.load(rest, f"{place}.narrow", NARROW, narrow_rows(0, NARROW_ROWS))
    loader.load(rest, f"{place}.wide", wide_columns(), wide_rows(WIDE_ROWS))
    loader.load(rest, f"{place}.empty", NARROW, narrow_rows(0, 0))
    if long:
        loader.load(rest, f"{place}.long", NARROW, narrow_rows(0, LONG_ROWS))
