"""Counts and checksums of a table or query, in BigQuery's SQL over the canonical texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.cloud import bigquery

from connectors.base import Column, ColumnDigest, ReadRequest, TableDigest
from connectors.bigquery import pages, query
from connectors.bigquery.client import Clients, TimeLimit
from connectors.bigquery.errors import Doing
from connectors.bigquery.schema import parse_table
from connectors.types import bigquery_text

LIMIT_S = 900.0
# BigQuery refuses a query whose text or plan grows too large: https://cloud.google.com/bigquery/quotas
_COLUMNS_A_QUERY = 100


def digest(clients: Clients, request: ReadRequest, columns: Sequence[Column], *, timeout_s: float) -> TableDigest:
    """Count the rows, and per column the nulls and the sum of the first 8 hex digits of each text's md5."""
    doing = Doing(f"The digest of {request.table or 'the query'}", permission="bigquery.jobs.create")
    limit = TimeLimit(LIMIT_S)
    rows = 0
    digests: list[ColumnDigest] = []
    for group in _groups(columns):
        job = query.run(
            clients,
            statement(request, group, clients.options.project),
            timeout_s=timeout_s,
            labels=request.labels,
            maximum_bytes_billed=request.maximum_bytes_billed,
            limit=limit,
            doing=doing,
        )
        rows, found = _result(clients, job, group, timeout_s, doing)
        digests += found
    return TableDigest(rows, tuple(digests))


def statement(request: ReadRequest, columns: Sequence[Column], project: str) -> str:
    """The SELECT that counts and sums `columns`: first the rows, then nulls and checksum of each."""
    # On lines of its own: a query may end in a comment.
    source = f"(\n{request.query}\n)" if request.query else parse_table(request.table, project).sql
    items = ["COUNT(*) AS n"]
    for i, column in enumerate(columns):
        name = quote(column.name)
        # A NULL array reads as an empty one, so it is none here either.
        items.append("0" if column.repeated else f"COUNTIF({name} IS NULL)")
        items[-1] += f" AS z{i}"
        text = bigquery_text(column, name)
        if text is not None:
            digits = f"SUBSTR(TO_HEX(MD5({text})), 1, 8)"
            value = f"CAST(CONCAT('0x', {digits}) AS INT64)"
            items.append(
                f"SUM({value if column.repeated else f'CASE WHEN {name} IS NULL THEN 0 ELSE {value} END'}) AS s{i}"
            )
    return f"SELECT {', '.join(items)} FROM {source} AS t"


def quote(name: str) -> str:
    """A column's name in SQL, of the source named `t`: alone it could be taken for a function or the source."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"t.`{escaped}`"


def _groups(columns: Sequence[Column]) -> Iterator[Sequence[Column]]:
    for start in range(0, max(1, len(columns)), _COLUMNS_A_QUERY):
        yield columns[start : start + _COLUMNS_A_QUERY]


def _result(
    clients: Clients, job: bigquery.QueryJob, columns: Sequence[Column], timeout_s: float, doing: Doing
) -> tuple[int, list[ColumnDigest]]:
    page = pages.fetch(clients, pages.PageSource.of_job(job), size=1, timeout_s=timeout_s, doing=doing)
    cells = [cell["v"] for cell in page.rows[0]["f"]]
    values = {column.name: int(value or 0) for column, value in zip(page.columns, cells, strict=True)}
    return values["n"], [
        ColumnDigest(column.name, nulls=values[f"z{i}"], checksum=values.get(f"s{i}"))
        for i, column in enumerate(columns)
    ]
