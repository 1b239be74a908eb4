"""A nested table: STRUCT, ARRAY of STRUCT, JSON and BIGNUMERIC, as order and event tables have them.

The emulator cannot hold a declared BIGNUMERIC: the rows are served, in the Arrow form of the real Storage Read
API and in messages of about 1 MB, by the proxy that tests put in front of it.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.cloud.bigquery import SchemaField

from bench.engine import ROUNDS, Floor, Loader
from bench.place import DATASET, PROJECT, median, say, seconds_of, warehouse_options
from bench.tables import client
from connectors.bigquery.client import REST_VARIABLE, STORAGE_VARIABLE
from datamantri.demo import loader
from datamantri.embedded.product import Product
from tests.bigquery.proxy import BehavingBigQuery

ROWS = 200_000
_EPOCH_US = 1_700_000_000_000_000
_BIG = pa.decimal256(76, 38)

_ADDRESS = (SchemaField("street", "STRING"), SchemaField("city", "STRING"), SchemaField("zip", "INT64"))
_CUSTOMER = (
    SchemaField("name", "STRING"),
    SchemaField("born", "DATE"),
    SchemaField("address", "RECORD", fields=_ADDRESS),
)
_LINE = (SchemaField("sku", "STRING"), SchemaField("quantity", "INT64"), SchemaField("price", "NUMERIC"))
_EVENT = (SchemaField("at", "TIMESTAMP"), SchemaField("kind", "STRING"), SchemaField("ok", "BOOL"))
_PACKAGE = (SchemaField("code", "BYTES"), SchemaField("weight", "FLOAT64"), SchemaField("sent", "DATETIME"))
_SHIPPING = (SchemaField("carrier", "STRING"), SchemaField("packages", "RECORD", "REPEATED", fields=_PACKAGE))
_TAX = (SchemaField("rate", "BIGNUMERIC"), SchemaField("due", "DATE"), SchemaField("paid", "NUMERIC"))
NESTED = (
    SchemaField("id", "INT64"),
    SchemaField("at", "TIMESTAMP"),
    SchemaField("note", "STRING"),
    SchemaField("customer", "RECORD", fields=_CUSTOMER),
    SchemaField("lines", "RECORD", "REPEATED", fields=_LINE),
    SchemaField("events", "RECORD", "REPEATED", fields=_EVENT),
    SchemaField("scores", "RECORD", fields=[SchemaField("first", "FLOAT64"), SchemaField("second", "FLOAT64")]),
    SchemaField("payload", "JSON"),
    SchemaField("shipping", "RECORD", fields=_SHIPPING),
    SchemaField("tax", "RECORD", fields=_TAX),
    SchemaField("total", "BIGNUMERIC"),
    SchemaField("balance", "BIGNUMERIC"),
    SchemaField("shares", "BIGNUMERIC", "REPEATED"),
    SchemaField("tags", "STRING", "REPEATED"),
    SchemaField("counts", "INT64", "REPEATED"),
    SchemaField("state", "STRING"),
    SchemaField("price", "NUMERIC"),
    SchemaField("day", "DATE"),
    SchemaField("is_new", "BOOL"),
    SchemaField("score", "FLOAT64"),
)


def rows(count: int) -> pa.Table:
    """`count` rows of NESTED; lists have none to four elements, and every tenth customer is NULL."""
    ids = pa.array(range(count), pa.int64())
    customer = pa.StructArray.from_arrays(
        [
            _text("Customer number ", ids),
            _days(ids),
            pa.StructArray.from_arrays(
                [_text("Street ", ids, ' 12 "b"'), _text("City é", pc.bit_wise_and(ids, 255)), pc.add(ids, 10_000)],
                ["street", "city", "zip"],
            ),
        ],
        ["name", "born", "address"],
        mask=pc.equal(_rest(ids, 10), 3),
    )
    lines, events, packages = np.arange(count) % 5, np.arange(2, count + 2) % 5, np.arange(count) % 3

    def line(n: pa.Array) -> dict[str, pa.Array]:
        return {"sku": _text("SKU-", n), "quantity": _rest(n, 7), "price": _numeric(n)}

    def event(n: pa.Array) -> dict[str, pa.Array]:
        return {"at": _moments(n), "kind": _text("kind ", _rest(n, 9)), "ok": pc.equal(_rest(n, 2), 0)}

    def package(n: pa.Array) -> dict[str, pa.Array]:
        weight = pc.divide(n.cast(pa.float64()), 11.0)
        return {
            "code": _text("code-", n).cast(pa.binary()),
            "weight": weight,
            "sent": _moments(n).cast(pa.timestamp("us")),
        }

    return pa.table(
        {
            "id": ids,
            "at": _moments(ids),
            "note": _text("A note of some length about row ", ids),
            "customer": customer,
            "lines": _listed(lines, line),
            "events": _listed(events, event),
            "scores": pa.StructArray.from_arrays(
                [pc.divide(ids.cast(pa.float64()), 7.0), pc.multiply(ids.cast(pa.float64()), 0.25)], ["first", "second"]
            ),
            "payload": _text('{"kind":"order","tags":["a","b"],"amount":', ids, ',"inner":{"x":1.5,"y":null}}'),
            "shipping": pa.StructArray.from_arrays(
                [_text("carrier ", _rest(ids, 5)), _listed(packages, package)], ["carrier", "packages"]
            ),
            "tax": pa.StructArray.from_arrays(
                [_big(ids, "0.000001"), _days(ids), _numeric(ids)],
                ["rate", "due", "paid"],
                mask=pc.equal(_rest(ids, 7), 2),
            ),
            "total": _big(ids, "1.000000001"),
            "balance": _big(ids, "12345678901234567.00000000012345678901"),
            "shares": _listed(packages, lambda n: _big(n, "0.00123")),
            "tags": _listed(lines, lambda n: _text("tag ", _rest(n, 100))),
            "counts": _listed(events, lambda n: n),
            "state": _text("state ", _rest(ids, 6)),
            "price": _numeric(ids),
            "day": _days(ids),
            "is_new": pc.equal(_rest(ids, 3), 0),
            "score": pc.divide(ids.cast(pa.float64()), 3.0),
        }
    )


def _rest(numbers: pa.Array, by: int) -> pa.Array:
    return pc.subtract(numbers, pc.multiply(pc.divide(numbers, by), by))


def _text(before: str, numbers: pa.Array, after: str = "") -> pa.Array:
    return pc.binary_join_element_wise(before, numbers.cast(pa.string()), after, "")


def _days(numbers: pa.Array) -> pa.Array:
    return pc.bit_wise_and(numbers, 16383).cast(pa.int32()).cast(pa.date32())


def _moments(numbers: pa.Array) -> pa.Array:
    return pc.add(pc.multiply(numbers, 1_234_567), _EPOCH_US).cast(pa.timestamp("us", "UTC"))


def _numeric(numbers: pa.Array) -> pa.Array:
    cents = pc.add(numbers, 1).cast(pa.decimal128(20, 0))
    return pc.multiply(cents, pa.scalar(Decimal("0.01"), pa.decimal128(3, 2))).cast(pa.decimal128(38, 9))


def _big(numbers: pa.Array, each: str) -> pa.Array:
    one = Decimal(each)
    digits = -one.as_tuple().exponent  # type: ignore[operator]
    factor = pa.scalar(one, pa.decimal256(max(digits, len(one.as_tuple().digits)), digits))
    return pc.multiply(pc.add(numbers, 1).cast(pa.decimal256(20, 0)), factor).cast(_BIG)


def _listed(counts: Any, make: Callable[[pa.Array], Any]) -> pa.Array:
    """Lists of these lengths over the values that `make` gives for as many numbers; a dict of arrays is a STRUCT."""
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    made = make(pa.array(range(int(bounds[-1])), pa.int64()))
    values = pa.StructArray.from_arrays(list(made.values()), list(made)) if isinstance(made, dict) else made
    return pa.ListArray.from_arrays(pa.array(bounds), values)


def measure(product: Product) -> dict[str, float]:
    """Floor, drain and engine of the nested table, as bench/engine.py measures the others."""
    upstream = {"rest": product.env[REST_VARIABLE], "storage": product.env[STORAGE_VARIABLE]}
    with BehavingBigQuery(**upstream, keeps_history=False) as served:
        made = rows(ROWS)
        # A stand-in with as many rows, for the engine's count of the source is a query.
        loader.load(client(), f"{PROJECT}.{DATASET}.nested", {"id": "INT64"}, made.select(["id"]))
        served.hold(f"{DATASET}.nested", NESTED, made, PROJECT)
        there = {REST_VARIABLE: served.endpoints.rest, STORAGE_VARIABLE: served.endpoints.storage}
        process = Loader(warehouse_options(product), endpoints=there)
        try:
            return _measure(product, process)
        finally:
            process.close()


def _measure(product: Product, process: Loader) -> dict[str, float]:
    process.load("nested")  # warm, and the floor copies its rows
    process.drain("nested")
    floor = Floor(product, "nested")
    rounds = []
    for _ in range(ROUNDS):
        a = seconds_of(floor.copy)
        floor.empty()
        rounds.append((a, process.drain("nested"), process.load("nested")))
    floor.close()
    a, b, c = (median(side) for side in zip(*rounds, strict=True))
    ratio = median([c / max(a, b) for a, b, c in rounds])
    say(f"nested: COPY {a:.3f} s, drain {b:.3f} s, engine {c:.3f} s, over the limit {ratio:.2f}")
    return {"nested_copy_s": a, "nested_drain_s": b, "nested_engine_s": c, "nested_engine_over_limit": ratio}
