"""Moving backfills on, where that must not break what it follows."""

from __future__ import annotations

import logging

from django.db import Error as DatabaseError
from django.db import connection

from runs import services

log = logging.getLogger(__name__)


def move_on() -> None:
    """Queue what comes next; if the control database does not answer, beat does it a moment later."""
    try:
        services.advance_backfills(look_closely=True)
    except DatabaseError as error:
        log.warning("Backfills could not be moved on: %s", error)
        connection.close()
