"""A run against the definition it is of: what has changed since, and must not go unnoticed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectors.base import Column, Fence, Refresh, WriteDisposition
from connectors.errors import ConnectorError

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


def refuse_changed(expected: tuple[Column, ...], found: tuple[Column, ...]) -> None:
    """Raise ConnectorError if a column of `expected` is gone or has another type; new ones are no harm."""
    now = {column.name.lower(): column for column in found}
    for column in expected:
        here = now.get(column.name.lower())
        if here is None:
            raise ConnectorError(
                f"The source no longer has the column {column.name}.",
                hint="Save the pipeline again to accept its columns as they are now.",
                code="column_missing",
                field=column.name,
            )
        if _type(here) != _type(column):
            raise ConnectorError(
                f"The column {column.name} was {column.type} when the pipeline was saved and is {here.type} now.",
                hint="Save the pipeline again to accept its columns as they are now.",
                code="column_retyped",
                field=column.name,
            )


def _type(column: Column) -> tuple[Any, ...]:
    """What decides how a column is stored: not its name's case, its length, nor whether it is required."""
    inner = tuple((child.name.lower(), _type(child)) for child in column.columns)
    return column.type, column.repeated, column.precision, column.scale, column.element, inner
