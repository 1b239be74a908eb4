"""Saving connections."""

from __future__ import annotations

import logging
from typing import Any

from connectors import registry
from connectors.options import build
from pipelines.models import Connection

log = logging.getLogger(__name__)


def save_connection(connection: Connection, *, by: Any) -> Connection:
    """Save a connection; raises ConnectorError if its options do not make one.

    With secrets whose key is lost, what is stored stays until new secrets replace it.
    """
    if not connection.has_lost_secrets:
        build(registry.options_type(connection.kind), {**connection.options, **(connection.secrets or {})})
    connection.save()
    log.info("Connection %s saved by %s", connection.name, by or "a command")
    return connection
