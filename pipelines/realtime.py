"""Near real time, as it is defined: the fields of a pipeline, and what stands against them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from connectors.errors import ConnectorError
from pipelines.given import query_uses_interval
from pipelines.models import Mode, Pipeline

FIELDS = ("mode", "poll_every_s", "stream_every_s", "force_read_every")


def definition_of(pipeline: Pipeline) -> dict[str, Any]:
    """What a revision says of it: what is as usual is left out, so that definitions from before stay the same."""
    told = {name: getattr(pipeline, name) for name in FIELDS}
    return {
        name: str(value) if name == "mode" else value
        for name, value in told.items()
        if value != Pipeline._meta.get_field(name).get_default()
    }


def is_realtime(pipeline: Pipeline) -> bool:
    return pipeline.mode == Mode.REALTIME


def objections(pipeline: Pipeline) -> Iterator[ConnectorError]:
    """All that stands against it, by field."""
    if not is_realtime(pipeline):
        return
    if not pipeline.incremental:
        yield ConnectorError(
            "Near real time reads only what is new, many times a minute.",
            hint="Choose append, merge or history, name a cursor, and read only new rows; or leave it to a schedule.",
            code="realtime_needs_cursor",
            field="mode",
        )
    if pipeline.watch_every_s:
        yield ConnectorError(
            "A pipeline in near real time asks its source all the time.",
            hint="Leave this empty.",
            code="realtime_watches",
            field="watch_every_s",
        )
    if query_uses_interval(pipeline):
        yield ConnectorError(
            "The query reads a data interval, and runs in near real time have none.",
            hint="Let the cursor say which rows are new.",
            code="realtime_interval",
            field="mode",
        )
