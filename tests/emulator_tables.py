"""Tables in the BigQuery emulator, with declared schemas and rows from Arrow: for tests and benches."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery import SchemaField

CALL_S, LOAD_S = 120, 300  # one emulator serves all tests: a large load of another one may come first
UTC = dt.UTC


class EmulatorTables:
    """Makes and fills tables of one project in the emulator at `rest`, a URL.

    Names are `dataset.table`; a missing dataset is made on the way.
    """

    def __init__(self, rest: str, project: str = "demo-project") -> None:
        self.project = project
        self.client = bigquery.Client(
            project, AnonymousCredentials(), location="US", client_options={"api_endpoint": rest}
        )
        self._datasets: set[str] = set()

    def make(
        self,
        name: str,
        schema: Sequence[SchemaField],
        rows: pa.Table | None = None,
        *,
        partitioned: bigquery.TimePartitioning | None = None,
    ) -> None:
        """Create the table anew, with `rows` in it; columns of `rows` lie in the order of `schema`."""
        dataset = name.split(".")[0]
        if dataset not in self._datasets:
            self.client.create_dataset(f"{self.project}.{dataset}", exists_ok=True, retry=None, timeout=CALL_S)
            self._datasets.add(dataset)
        self.drop(name)
        table = bigquery.Table(f"{self.project}.{name}", schema)
        table.time_partitioning = partitioned
        self.client.create_table(table, retry=None, timeout=CALL_S)
        if rows is not None:
            self.append(name, rows)

    def append(self, name: str, rows: pa.Table) -> None:
        """Append by a Parquet load job: millions of rows a second, and every type.

        INTERVAL comes as text ("1 day"), RANGE as a struct of start and end, JSON and GEOGRAPHY as text.
        """
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="none")
        self.client.load_table_from_file(
            buffer,
            f"{self.project}.{name}",
            rewind=True,
            num_retries=0,
            job_config=bigquery.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_APPEND"),
            timeout=LOAD_S,
        ).result(retry=None, timeout=LOAD_S)

    def run(self, sql: str) -> list[dict[str, Any]]:
        """Run any statement; the rows as dictionaries."""
        job = self.client.query(sql, retry=None, job_retry=None, timeout=LOAD_S)
        return [dict(row.items()) for row in job.result(retry=None, job_retry=None, timeout=LOAD_S)]

    def drop(self, name: str) -> None:
        self.client.delete_table(f"{self.project}.{name}", not_found_ok=True, retry=None, timeout=CALL_S)

    def close(self) -> None:
        self.client.close()


# One column of each type that the emulator holds. A declared BIGNUMERIC hangs it.
EVERY_TYPE = (
    SchemaField("id", "INT64", "REQUIRED"),
    SchemaField("bool", "BOOL"),
    SchemaField("int", "INT64"),
    SchemaField("float", "FLOAT64"),
    SchemaField("numeric", "NUMERIC"),
    SchemaField("string", "STRING", description="any text"),
    SchemaField("bytes", "BYTES"),
    SchemaField("date", "DATE"),
    SchemaField("time", "TIME"),
    SchemaField("datetime", "DATETIME"),
    SchemaField("timestamp", "TIMESTAMP"),
    SchemaField("json", "JSON"),
    SchemaField("geography", "GEOGRAPHY"),
    SchemaField("interval", "INTERVAL"),
    SchemaField("date_range", "RANGE", range_element_type="DATE"),
    SchemaField("datetime_range", "RANGE", range_element_type="DATETIME"),
    SchemaField("timestamp_range", "RANGE", range_element_type="TIMESTAMP"),
    SchemaField("ints", "INT64", "REPEATED"),
    SchemaField("strings", "STRING", "REPEATED"),
    SchemaField("struct", "RECORD", fields=[SchemaField("x", "INT64"), SchemaField("y", "STRING")]),
    SchemaField("structs", "RECORD", "REPEATED", fields=[SchemaField("x", "INT64"), SchemaField("y", "STRING")]),
)


def every_type_rows() -> pa.Table:
    """Rows for EVERY_TYPE: a full one, one of nulls, and one of extremes."""

    def bounds(kind: pa.DataType) -> pa.DataType:
        return pa.struct([("start", kind), ("end", kind)])

    micros, utc = pa.timestamp("us"), pa.timestamp("us", "UTC")
    pair = pa.struct([("x", pa.int64()), ("y", pa.string())])
    first, last = dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)
    noon = dt.datetime(2024, 2, 29, 12, 30, 15, 123456)
    january = {"start": dt.date(2024, 1, 1), "end": dt.date(2024, 2, 1)}
    big = Decimal("99999999999999999999999999999.999999999")
    columns: dict[str, pa.Array] = {
        "id": pa.array([1, 2, 3], pa.int64()),
        "bool": pa.array([True, None, False]),
        "int": pa.array([42, None, -(2**63)], pa.int64()),
        "float": pa.array([1.5, None, float("inf")], pa.float64()),
        "numeric": pa.array([Decimal("1.5"), None, big], pa.decimal128(38, 9)),
        "string": pa.array(['héllo, "wörld"\n', None, ""]),
        "bytes": pa.array([b"\x00\xffAB", None, b""], pa.binary()),
        "date": pa.array([noon.date(), None, dt.date(9999, 12, 31)], pa.date32()),
        "time": pa.array([noon.time(), None, dt.time(0)], pa.time64("us")),
        "datetime": pa.array([noon, None, first], micros),
        "timestamp": pa.array([noon.replace(tzinfo=UTC), None, last.replace(tzinfo=UTC)], utc),
        "json": pa.array(['{"a":[1,2.5],"b":null}', None, "[]"]),
        "geography": pa.array(["POINT(1 2)", None, "LINESTRING(0 0,1 1)"]),
        "interval": pa.array(["1 year 2 months 3 days 04:05:06.789", None, "-1 day"]),
        "date_range": pa.array([january, None, {"start": None, "end": None}], bounds(pa.date32())),
        "datetime_range": pa.array([{"start": noon, "end": None}, None, {"start": None, "end": noon}], bounds(micros)),
        "timestamp_range": pa.array(
            [{"start": noon.replace(tzinfo=UTC), "end": None}, None, {"start": None, "end": None}], bounds(utc)
        ),
        "ints": pa.array([[1, 2, 3], [], [0]], pa.list_(pa.int64())),
        "strings": pa.array([["a", "b,c"], [], [""]], pa.list_(pa.string())),
        "struct": pa.array([{"x": 1, "y": "one"}, None, {"x": None, "y": None}], pair),
        "structs": pa.array([[{"x": 1, "y": "one"}, {"x": 2, "y": None}], [], []], pa.list_(pair)),
    }
    return pa.table(columns)
