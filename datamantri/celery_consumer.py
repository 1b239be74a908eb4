"""How a worker waits for its broker."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker import consumer

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 2.0


class Consumer(consumer.Consumer):
    """Looks for a lost broker every two seconds: Celery's own waits grow to half a minute, and runs would be late."""

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=FIRST_WAIT_S,
            interval_step=FIRST_WAIT_S,
            interval_max=LONGEST_WAIT_S,
        )
        return super().ensure_connected(conn)
