"""Rings for workers. A lost bell costs time, never a run: the ticker rings for what nobody claimed."""

from __future__ import annotations

import logging

from celery import current_app
from kombu.exceptions import KombuError

log = logging.getLogger(__name__)

RING = "runs.ring"
QUEUE = "transfers"


def ring(times: int = 1) -> bool:
    """Say that there is work; returns False when the broker does not answer."""
    try:
        for _ in range(times):
            current_app.send_task(RING, queue=QUEUE, retry=False, ignore_result=True)
    except (KombuError, OSError) as error:
        log.warning("The broker does not answer, the ticker will ring again: %s", type(error).__name__)
        return False
    return True
