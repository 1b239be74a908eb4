"""What bytes cost: two settings, one for queries and one for the Storage Read API."""

from __future__ import annotations

from django.conf import settings

from connectors.billing import TIB


def money(query_bytes: int, storage_bytes: int) -> float:
    return (query_bytes * settings.PRICE_PER_TIB + storage_bytes * settings.STORAGE_PRICE_PER_TIB) / TIB
