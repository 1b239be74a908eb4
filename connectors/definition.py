"""A run against the definition it is of: what has changed since, and must not go unnoticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connectors.errors import ConnectorError
from connectors.modes import Refresh, WriteDisposition
from connectors.writing import Fence

if TYPE_CHECKING:
    from connectors.request import TransferRequest


def refuse_redefined(fence: Fence, request: TransferRequest) -> None:
    """Raise ConnectorError if rows of another definition are in a target that this run only adds to."""
    adds = request.mode.disposition is not WriteDisposition.REPLACE and request.refresh is Refresh.NEW
    if adds and fence.last_run is not None and fence.fingerprint != request.fingerprint:
        raise ConnectorError(
            f"What goes into {fence.target} was defined differently when its rows were written.",
            hint="Start a full refresh to write them anew, or choose to keep them and go on with the new definition.",
            code="definition_changed",
        )
