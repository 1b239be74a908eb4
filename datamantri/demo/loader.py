"""Put tables into a BigQuery emulator, with the schema declared first."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet
from google.cloud import bigquery

LIMIT_S = 120


def ensure_dataset(client: bigquery.Client, dataset: str) -> None:
    client.create_dataset(f"{client.project}.{dataset}", exists_ok=True, timeout=LIMIT_S)


def load(client: bigquery.Client, table: str, columns: dict[str, str], rows: pa.Table) -> None:
    """Make `table` with the declared types and append the rows through a load job, replacing what was there."""
    client.delete_table(table, not_found_ok=True, timeout=LIMIT_S)
    schema = [bigquery.SchemaField(name, kind) for name, kind in columns.items()]
    client.create_table(bigquery.Table(table, schema=schema), timeout=LIMIT_S)
    append(client, table, rows)


def append(client: bigquery.Client, table: str, rows: pa.Table) -> None:
    """Add rows to a table that is there, through a load job."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(rows, file)
    config = bigquery.LoadJobConfig(
        source_format=bigquery.SourceFormat.PARQUET, write_disposition=bigquery.WriteDisposition.WRITE_APPEND
    )
    job = client.load_table_from_file(file, table, rewind=True, job_config=config, timeout=LIMIT_S)
    job.result(timeout=LIMIT_S)


def schema_of(text: str) -> list[bigquery.SchemaField]:
    """Fields from `name TYPE [REPEATED] [{name TYPE, ...}]`, separated by semicolons."""
    return [_field(item) for item in text.split(";")]


def _field(text: str) -> bigquery.SchemaField:
    own, _, inner = text.partition("{")
    name, kind, *mode = own.split()
    fields = [_field(item) for item in inner.strip(" }\n").split(",")] if inner else ()
    element = "DATE" if kind == "RANGE" else None
    return bigquery.SchemaField(
        name, kind, mode=mode[0] if mode else "NULLABLE", fields=fields, range_element_type=element
    )


def load_rows(client: bigquery.Client, table: str, schema: str, rows: tuple[str, ...]) -> None:
    """Make `table` with the declared types and insert rows written in BigQuery's SQL."""
    client.delete_table(table, not_found_ok=True, timeout=LIMIT_S)
    # Declared through the API: a CREATE TABLE statement loses the precision of NUMERIC in the emulator.
    client.create_table(bigquery.Table(table, schema=schema_of(schema)), timeout=LIMIT_S)
    for row in rows:
        client.query(f"INSERT INTO `{table}` VALUES ({row})", timeout=LIMIT_S).result(timeout=LIMIT_S)


def rows_in(client: bigquery.Client, table: str) -> int | None:
    """How many rows the table has; None when it is not there."""
    dataset, name = table.split(".")[-2:]
    known = {item.table_id for item in client.list_tables(f"{client.project}.{dataset}", timeout=LIMIT_S)}
    if name not in known:
        return None
    [row] = client.query(f"SELECT COUNT(*) FROM `{table}`", timeout=LIMIT_S).result(timeout=LIMIT_S)
    return row[0]
