"""The first rows as text, for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from connectors.base import Column, Preview
from connectors.bigquery.cells import to_batch


def to_preview(rows: Sequence[dict[str, Any]], columns: tuple[Column, ...]) -> Preview:
    """Rows of BigQuery's JSON as texts that read as its console shows them."""
    values = [column.to_pylist() for column in to_batch(rows, columns).columns]
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
        return format(value.normalize(), "f")
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)
