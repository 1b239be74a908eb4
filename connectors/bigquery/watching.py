"""What BigQuery's record of a table tells of changes, and the tables that a read depends on; neither costs anything."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from connectors.base import ReadRequest
from connectors.bigquery import query
from connectors.bigquery.client import Clients
from connectors.bigquery.errors import Doing, explained
from connectors.bigquery.schema import TableRef, parse_table
from connectors.errors import ConnectorError
from connectors.watching import TableState

# What else there is reads from these, or from elsewhere.
_TELLING = ("TABLE", "SNAPSHOT")
_FIELDS = "type,lastModifiedTime,numRows,numBytes,streamingBuffer"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def look(clients: Clients, ref: TableRef, *, timeout_s: float) -> TableState:
    """How the table stands; raises ConnectorError, code watch_unsupported, where its record does not tell."""
    if ref.is_wildcard:
        raise _tells_nothing(ref, "a wildcard over several tables")
    with explained(Doing(f"Table {ref}", field="table", permission="bigquery.tables.get")):
        record = clients.get(ref.path, {"fields": _FIELDS}, timeout_s)
    kind = record.get("type") or "TABLE"
    if kind not in _TELLING:
        raise _tells_nothing(ref, f"a {kind.lower().replace('_', ' ')}")
    return _state(record)


def tables_behind(clients: Clients, request: ReadRequest, *, timeout_s: float) -> tuple[str, ...]:
    """The tables whose rows a read depends on: itself, or what a dry run names. Views lead to what is behind them."""
    sql, doing = request.query, query.QUERY
    if not sql:
        ref = parse_table(request.table, clients.options.project)
        if not ref.is_wildcard and _is_telling(clients, ref, timeout_s):
            return (str(ref),)
        sql = f"SELECT * FROM {ref.sql}"
        doing = Doing(f"Table {ref}", field="table", permission="bigquery.tables.getData")
    found = query.dry_run(clients, sql, timeout_s=timeout_s, parameters=request.parameters, doing=doing)
    return tuple(sorted({f"{table.project}.{table.dataset_id}.{table.table_id}" for table in found.tables}))


def _is_telling(clients: Clients, ref: TableRef, timeout_s: float) -> bool:
    try:
        look(clients, ref, timeout_s=timeout_s)
    except ConnectorError as error:
        if error.code != "watch_unsupported":
            raise
        return False
    return True


def _state(record: Mapping[str, Any]) -> TableState:
    modified = record.get("lastModifiedTime")
    buffer = record.get("streamingBuffer")
    told = ("oldestEntryTime", "estimatedRows", "estimatedBytes")
    return TableState(
        _EPOCH + timedelta(milliseconds=int(modified)) if modified else None,
        _number(record.get("numRows")),
        _number(record.get("numBytes")),
        " ".join(str(buffer.get(name, "")) for name in told) if buffer is not None else "",
    )


def _number(text: Any) -> int | None:
    return None if text is None else int(text)


def _tells_nothing(ref: TableRef, kind: str) -> ConnectorError:
    return ConnectorError(
        f"{ref} is {kind}: BigQuery's record does not tell when its rows change.",
        code="watch_unsupported",
        hint="Watch a table that it reads from, or give the pipeline a schedule.",
        field="table",
    )
