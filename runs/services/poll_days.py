"""What micro-batches come to by day: it is known when they themselves are forgotten.

What they are billed, all attempts of them, comes by the trigger that brings bills to the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db import connection

from runs.states import RunStatus

_COUNT = """
INSERT INTO runs_pollday AS known (pipeline_id, day, runs, failed, rows, bytes_billed, cost)
VALUES (%(pipeline)s, (statement_timestamp() AT TIME ZONE 'UTC')::date, 1, %(failed)s, %(rows)s, 0, 0)
ON CONFLICT (pipeline_id, day) DO UPDATE SET runs = known.runs + 1, failed = known.failed + excluded.failed,
    rows = known.rows + excluded.rows
"""


def is_micro_batch(options: Mapping[str, Any]) -> bool:
    return "because" in options


def count_micro_batch(pipeline: UUID, to: RunStatus, receipt: Mapping[str, Any] | None) -> None:
    """In the transaction that ends the run: each counts once."""
    told = receipt or {}
    values = {
        "pipeline": pipeline,
        "failed": int(to == RunStatus.FAILED),
        "rows": told.get("rows", 0),
    }
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, values)
