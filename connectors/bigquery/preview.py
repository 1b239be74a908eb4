"""The first rows as text, for people."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from connectors import column_rules
from connectors.bigquery.cells import to_batch
from connectors.column import Column
from connectors.column_rules import ColumnRule
from connectors.columns.masking import Masking
from connectors.masks import with_key
from connectors.reading import Preview


def to_preview(rows: Sequence[dict[str, Any]], columns: tuple[Column, ...], rules: Mapping[str, ColumnRule]) -> Preview:
    """Rows of BigQuery's JSON as texts that read as its console shows them; masked where a rule says so.

    Raises ConnectorError for rules that cannot be: values that a wrong one leaves are not shown.
    """
    batch = to_batch(rows, columns)
    if rules:
        # The key of a connection would tell the mask of any value that somebody has a query give.
        key = secrets.token_hex()
        columns = with_key(column_rules.apply(columns, rules), key)
        batch = Masking(columns, key).masked(batch).select([column.name for column in columns])
    values = [column.to_pylist() for column in batch.columns]
    texts = [[None if value is None else _text(value) for value in column] for column in values]
    return Preview(columns, tuple(zip(*texts, strict=True)))


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, default=_text, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, pa.MonthDayNano):
        return _interval(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)


def _interval(value: pa.MonthDayNano) -> str:
    """Years-months days hours:minutes:seconds, as BigQuery writes it."""
    years, months = divmod(abs(value.months), 12)
    minutes, seconds = divmod(abs(value.nanoseconds) / 1e9, 60)
    signs = "-" if value.months < 0 else "", "-" if value.nanoseconds < 0 else ""
    clock = f"{int(minutes // 60)}:{int(minutes % 60)}:{seconds:.9f}".rstrip("0").rstrip(".")
    return f"{signs[0]}{years}-{months} {value.days} {signs[1]}{clock}"
