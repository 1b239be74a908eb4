"""A merge against what a person would write by hand: COPY into a staging table and INSERT … ON CONFLICT.

Both sides bring the same 100,000 changed rows into tables of the same 1,000,000, each with an index on the key.
The engine reads its rows from BigQuery; the other side finds them ready to be sent, in PostgreSQL's own format.
"""

from __future__ import annotations

import io
from contextlib import closing
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bench import tables
from bench.engine import Loader
from bench.place import DATASET, PROJECT, median, say, seconds_of, warehouse_options
from datamantri.demo import loader as rows_of
from datamantri.embedded.product import Product
from datamantri.embedded.stack import WAREHOUSE

ROUNDS = 5
CHANGED = 100_000
EVERY = tables.NARROW_ROWS // CHANGED

_BY_HAND = """
BEGIN;
CREATE TEMPORARY TABLE staging (LIKE by_hand) ON COMMIT DROP;
"""
_UPSERT = """
INSERT INTO by_hand AS t SELECT * FROM staging
ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, amount = excluded.amount, name = excluded.name,
                               at = excluded.at
WHERE (t.customer, t.amount, t.name, t.at)
      IS DISTINCT FROM (excluded.customer, excluded.amount, excluded.name, excluded.at);
COMMIT
"""


def changed_rows(number: int) -> pa.Table:
    """Every tenth row of the narrow table, another tenth in each round, with another amount."""
    rows = tables.narrow_rows(0, tables.NARROW_ROWS)
    some = rows.filter(
        pc.equal(pc.subtract(rows["id"], pc.multiply(pc.divide(rows["id"], EVERY), EVERY)), number % EVERY)
    )
    place = some.schema.get_field_index("amount")
    return some.set_column(place, "amount", pc.add(some["amount"], number + 1.0))


class ByHand:
    """The same merge in SQL, in a session that is there already, with the rows in memory."""

    def __init__(self, product: Product) -> None:
        assert product.stack.postgres is not None
        self._connection = product.stack.postgres.connect(WAREHOUSE, WAREHOUSE)
        self._cursor = self._connection.cursor()
        self._admin = product.stack.postgres.connect(WAREHOUSE)
        self._cursor.execute("CREATE TABLE by_hand AS SELECT * FROM merged; ALTER TABLE by_hand ADD PRIMARY KEY (id)")

    def bring(self, number: int) -> bytes:
        """The rows of a round as COPY wants them, from the table that the engine has merged them into."""
        buffer = io.BytesIO()
        self._cursor.copy_expert(
            f"COPY (SELECT * FROM merged WHERE id % {EVERY} = {number % EVERY}) TO STDOUT (FORMAT binary)", buffer
        )
        return buffer.getvalue()

    def merge(self, data: bytes) -> None:
        self._cursor.execute(_BY_HAND)
        self._cursor.copy_expert("COPY staging FROM STDIN (FORMAT binary)", io.BytesIO(data))
        self._cursor.execute(_UPSERT)

    def rest(self) -> None:
        """Both tables as they were but for their rows: what the last round left dead costs the next one nothing."""
        with self._admin.cursor() as cursor:
            for statement in ("VACUUM merged", "VACUUM by_hand", "CHECKPOINT"):
                cursor.execute(statement)

    def differences(self) -> int:
        self._cursor.execute("SELECT count(*) FROM (TABLE merged EXCEPT TABLE by_hand) AS d")
        return int(self._cursor.fetchone()[0])


def measure(product: Product) -> dict[str, float]:
    """Seconds of both, and how many times as long the engine takes."""
    rest = tables.client()
    for number in range(ROUNDS + 1):
        table = f"{PROJECT}.{DATASET}.changed_{number}"
        rows_of.load(rest, table, tables.NARROW, changed_rows(number))
    with closing(Loader(warehouse_options(product))) as loader:
        loader.load("narrow", into="merged")
        loader.merge("changed_0", into="merged")  # warm, and the index is made
        by_hand = ByHand(product)
        by_hand.merge(by_hand.bring(0))
        by_hand.rest()
        rounds = []
        for number in range(1, ROUNDS + 1):
            engine = loader.merge(f"changed_{number}", into="merged")
            data = by_hand.bring(number)
            rounds.append((engine, seconds_of(lambda data=data: by_hand.merge(data))))
            by_hand.rest()
        assert by_hand.differences() == 0
    engine, hand = (median(side) for side in zip(*rounds, strict=True))
    ratio = median([one / other for one, other in rounds])
    say(f"merge of {CHANGED:,} changed rows into {tables.NARROW_ROWS:,}: engine {engine:.3f} s, by hand {hand:.3f} s")
    say(f"merge_over_sql: {ratio:.2f}")
    found = {"merge_engine_s": engine, "merge_sql_s": hand, "merge_over_sql": ratio}
    return {**found, **_measure_deletes(product)}


def _measure_deletes(product: Product) -> dict[str, float]:
    """A merge of all 1,000,000 rows that marks the 100,000 that are gone, over one that keeps rows that vanish."""
    assert product.stack.postgres is not None
    with (
        closing(product.stack.postgres.connect(WAREHOUSE)) as admin,
        closing(Loader(warehouse_options(product))) as loader,
    ):
        cursor = admin.cursor()
        loader.load("narrow", into="vanishing")
        loader.merge("narrow", into="vanishing")  # warm, and the index is made
        plain, marking = [], []
        for number in range(ROUNDS):
            _more_rows(cursor, number)
            plain.append(loader.merge("narrow", into="vanishing"))
        cursor.execute("DELETE FROM vanishing WHERE id >= 10000000")
        for number in range(ROUNDS):
            _more_rows(cursor, number)
            marking.append(loader.merge("narrow", into="vanishing", deletes="soft"))
        cursor.execute("SELECT count(*) FROM vanishing WHERE _deleted_at IS NOT NULL")
        assert cursor.fetchone()[0] == ROUNDS * CHANGED
    keeps, marks = median(plain), median(marking)
    say(f"full merge of {tables.NARROW_ROWS:,} rows: {keeps:.3f} s, marking {CHANGED:,} that are gone {marks:.3f} s")
    say(f"soft_delete_over_merge: {marks / keeps:.2f}")
    return {"full_merge_s": keeps, "soft_delete_s": marks, "soft_delete_over_merge": marks / keeps}


def _more_rows(cursor: Any, number: int) -> None:
    """Rows that the source does not have."""
    cursor.execute(
        f"INSERT INTO vanishing (id, customer, amount, name, at)"
        f" SELECT id + {(number + 1) * 10_000_000}, customer, amount, name, at FROM vanishing WHERE id < {CHANGED}"
    )
    for statement in ("VACUUM ANALYZE vanishing", "CHECKPOINT"):
        cursor.execute(statement)
