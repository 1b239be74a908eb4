"""What BigQuery's record of a table tells of changes, and the tables that a read depends on; neither costs anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from connectors.bigquery import query
from connectors.bigquery.client import Clients
from connectors.bigquery.errors import Doing, explained
from connectors.bigquery.schema import TableRef, parse_table
from connectors.errors import ConnectorError
from connectors.parameters import Parameter
from connectors.reading import ReadRequest
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
    sql, doing, own = request.query, query.QUERY, ""
    if not sql:
        ref = parse_table(request.table, clients.options.project)
        if not ref.is_wildcard and _kind(clients, ref, timeout_s) in _TELLING:
            return (str(ref),)
        sql, own = f"SELECT * FROM {ref.sql}", str(ref)
        doing = Doing(f"Table {ref}", field="table", permission="bigquery.tables.getData")
    named = _named(clients, sql, doing, timeout_s, request.parameters)
    behind: set[str] = set()
    for name in named - {own}:
        behind |= _behind_view(clients, name, timeout_s) or {name}
    return tuple(sorted(behind or named))


def _named(
    clients: Clients, sql: str, doing: Doing, timeout_s: float, parameters: Sequence[Parameter] = ()
) -> frozenset[str]:
    found = query.dry_run(clients, sql, timeout_s=timeout_s, parameters=parameters, doing=doing)
    return frozenset(f"{table.project}.{table.dataset_id}.{table.table_id}" for table in found.tables)


def _behind_view(clients: Clients, name: str, timeout_s: float) -> frozenset[str]:
    """What else a view reads from, however deep; empty for what is no view, or where nobody may know."""
    try:
        ref = parse_table(name, "")
        if ref.is_wildcard or _kind(clients, ref, timeout_s) != "VIEW":
            return frozenset()
        doing = Doing(f"View {ref}", field="table", permission="bigquery.tables.getData")
        named = _named(clients, f"SELECT * FROM {ref.sql}", doing, timeout_s) - {str(ref)}
        # A dry run names the views that it goes through as well, and what is behind these.
        views = {name for name in named if _kind(clients, parse_table(name, ""), timeout_s) == "VIEW"}
        return (named - views) or named
    except ConnectorError as error:
        if error.code not in ("permission_denied", "table_name"):
            raise
        return frozenset()


def _kind(clients: Clients, ref: TableRef, timeout_s: float) -> str:
    with explained(Doing(f"Table {ref}", field="table", permission="bigquery.tables.get")):
        return str(clients.get(ref.path, {"fields": "type"}, timeout_s).get("type") or "TABLE")


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
