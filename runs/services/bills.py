"""What a run is billed, noted while it goes on and in the transaction that ends its attempt.

Bills are totals, so that a note whose answer never came may be written again; a trigger brings what is new of them to
the ledger.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import connection

from connectors.billing import TIB, Bill, Estimate
from runs.models import Run
from runs.services.errors import StaleToken
from runs.services.ownership import Claim
from runs.services.part_ownership import PartClaim

_ADDED = """
    cost = r.cost + ((%(query)s - {0}.query_bytes) * %(query_price)s::numeric
        + (%(storage)s - {0}.storage_bytes) * %(storage_price)s::numeric) / %(tib)s,
    query_bytes = r.query_bytes + %(query)s - {0}.query_bytes,
    storage_bytes = r.storage_bytes + %(storage)s - {0}.storage_bytes
"""
_NOTE = f"""
UPDATE runs_run r SET {_ADDED.format("r")}
WHERE r.id = %(run)s AND r.token = %(token)s AND r.lease_until IS NOT NULL
RETURNING r.id
"""
_NOTE_PART = f"""
WITH owned AS (
    SELECT p.id, p.query_bytes, p.storage_bytes FROM runs_partload p
    WHERE p.id = %(part)s AND p.token = %(token)s AND p.lease_until IS NOT NULL
), counted AS (
    UPDATE runs_run r SET {_ADDED.format("owned")} FROM owned WHERE r.id = %(run)s
    RETURNING r.id
)
UPDATE runs_partload p SET query_bytes = %(query)s, storage_bytes = %(storage)s
FROM counted WHERE p.id = %(part)s
RETURNING p.id
"""


def note_bill(claimed: Claim | PartClaim, billed: Bill, estimate: Estimate | None = None) -> None:
    """Note what this attempt was billed so far, on top of those before it, and what it was told. Raises StaleToken."""
    if estimate is not None:
        _note_estimate(claimed, estimate)
    total = claimed.billed + billed
    values: dict[str, Any] = {
        "run": claimed.run,
        "token": claimed.token,
        "query": total.query_bytes,
        "storage": total.storage_bytes,
        "query_price": settings.PRICE_PER_TIB,
        "storage_price": settings.STORAGE_PRICE_PER_TIB,
        "tib": TIB,
    }
    statement = _NOTE
    if isinstance(claimed, PartClaim):
        statement, values["part"] = _NOTE_PART, claimed.part
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        if cursor.fetchone() is None:
            raise StaleToken(claimed.run, claimed.token)


def _note_estimate(claimed: Claim | PartClaim, estimate: Estimate) -> None:
    """Note what the run would bill in all: what it has, and what a dry run says of the rest."""
    owned = Run.objects.filter(pk=claimed.run, token=claimed.token, lease_until__isnull=False)
    query, storage = estimate.query_bytes, estimate.storage_bytes
    owned.update(
        estimated_query_bytes=None if query is None else claimed.billed.query_bytes + query,
        estimated_storage_bytes=None if storage is None else claimed.billed.storage_bytes + storage,
    )
