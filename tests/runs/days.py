"""What tests need that speak of today."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

LEFT = timedelta(seconds=45)


@pytest.fixture
def one_day() -> None:
    """No day of UTC begins in the test: what is left of one that ends is waited out."""
    now = datetime.now(UTC)
    tomorrow = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    if tomorrow - now < LEFT:
        time.sleep((tomorrow - now).total_seconds() + 0.5)
