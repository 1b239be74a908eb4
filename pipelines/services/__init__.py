"""Every write to definitions."""

from pipelines.services.connections import save_connection
from pipelines.services.copies import MAX_NAME, MAX_TABLE_BYTES, duplicate
from pipelines.services.definitions import MOVING, definition_of, fingerprint_of, revise, save_pipeline
from pipelines.services.limits import delete_pool, limit_connection, save_pool, set_limits
from pipelines.services.states import archive, pause, resume

__all__ = [
    "MAX_NAME",
    "MAX_TABLE_BYTES",
    "MOVING",
    "archive",
    "definition_of",
    "delete_pool",
    "duplicate",
    "fingerprint_of",
    "limit_connection",
    "pause",
    "resume",
    "revise",
    "save_connection",
    "save_pipeline",
    "save_pool",
    "set_limits",
]
