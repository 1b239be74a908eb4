"""Looking at source tables, in a worker; lookout.py says when."""

from __future__ import annotations

import logging
import threading
from contextlib import closing
from uuid import UUID

from django.db import Error as DatabaseError
from django.db import connection

from connectors import registry
from connectors.errors import ConnectorError
from connectors.watching import TableState
from pipelines.fields import KeyLost
from pipelines.models import Connection
from runs import services
from runs.services import Look

log = logging.getLogger(__name__)

CALL_LIMIT_S = 8.0
# One thread of a worker looks: a source that hangs must not hold up the look-ups that pages wait for.
_one = threading.Lock()


def look_at_sources() -> int:
    """Look at all tables that are due; says how many runs that asked for."""
    if not _one.acquire(blocking=False):
        return 0
    asked = 0
    try:
        while looks := services.take_looks():
            known = Connection.objects.in_bulk({look.connection for look in looks})
            for look in looks:
                asked += _look(look, known)
    except DatabaseError as error:
        # Beat rings again for whatever is left.
        log.warning("The control database does not answer: %s", error)
        connection.close()
    finally:
        _one.release()
    return asked


def _look(look: Look, known: dict[UUID, Connection]) -> int:
    try:
        state = _state_of(known[look.connection], look.table)
    except ConnectorError as error:
        services.look_failed(look, error)
        return 0
    except Exception as error:  # a defect must not keep the other tables from being looked at
        log.exception("Table %s could not be looked at", look.table)
        told = f"Something unexpected happened ({type(error).__name__})."
        services.look_failed(look, ConnectorError(told, code="internal_error", hint="The worker's log has more."))
        return 0
    return len(services.looked(look, state))


def _state_of(found: Connection, table: str) -> TableState:
    try:
        options = found.typed_options()
    except KeyLost as error:
        raise ConnectorError(str(error), code="encryption_key_lost", hint="Enter the secrets again.") from error
    with closing(registry.source_type(found.kind)(options, timeout_s=CALL_LIMIT_S)) as source:
        return source.look(table)
