"""A run that moves no rows: it says from where on the next one reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from connectors import cursor
from connectors.base import Reporter, Source
from connectors.errors import ConnectorError
from connectors.publishing import already_applied
from connectors.receipt import Receipt
from connectors.request import TransferRequest
from connectors.writing import Changes, Fence, Watermark

if TYPE_CHECKING:
    from connectors.postgres.destination import PostgresDestination


def set_watermark(
    source: Source,
    destination: PostgresDestination,
    fence: Fence,
    request: TransferRequest,
    value: str,
    *,
    reporter: Reporter,
) -> Receipt:
    """Say from where on the next load reads, without moving a row; an empty `value` makes it read all.

    Raises ConnectorError: not_incremental, no_watermark, cursor_value.
    """
    if fence.applied is not None:
        return Receipt.from_json(fence.applied.receipt)
    rule = request.read.cursor
    if rule is None:
        raise ConnectorError(
            "This pipeline reads all rows every time: it has no watermark.",
            code="not_incremental",
            field="cursor_column",
        )
    if fence.last_run is None:
        raise ConnectorError(
            f"Nothing was loaded into {fence.target} yet: there is no watermark to move.",
            hint="Give the pipeline an initial value to begin with.",
            code="no_watermark",
        )
    column = cursor.find_column(source.describe(request.read).columns, rule.column)
    number = cursor.number_of(value, column.type, field="watermark") if value.strip() else None
    after = Watermark("" if number is None else cursor.text_of(number, column.type))
    now = datetime.now(UTC)
    draft = Receipt(
        rows=0,
        bytes=0,
        method="set_watermark",
        target=request.target,
        disposition=request.mode.disposition,
        token=fence.token,
        snapshot_time=now,
        published_at=now,  # the database's clock replaces it
        changes=Changes(0),
        watermark_before=fence.watermark.value,
        watermark_after=after.value,
    )
    with already_applied(reporter) as earlier:
        written = destination.move_watermark(fence, after, draft.to_json(), fence.fingerprint)
        before = fence.watermark.value or "nothing"
        reporter.log("info", f"The watermark was {before} and is {after.value or 'nothing'} now.")
        return Receipt.from_json(written)
    return earlier[0]
