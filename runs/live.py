"""What is pushed to open pages. Rows come first: a push that is lost is fetched by the page."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from channels.layers import get_channel_layer

log = logging.getLogger(__name__)

BOARD = "board"
PENDING_LIMIT = 1000
DELIVERED_WITHIN_S = 5.0


def is_pushed() -> bool:
    """Whether open pages are told of what happens; otherwise they ask."""
    return get_channel_layer() is not None


def warm_up() -> None:
    """Import the layer before the first push needs it: that takes longer than a push may."""
    get_channel_layer()


def run_group(run_id: UUID | str) -> str:
    return f"run.{run_id}"


def push_lines(run_id: UUID, lines: list[dict[str, Any]]) -> None:
    _send(run_group(run_id), {"type": "run.lines", "run": str(run_id), "lines": lines})


def push_run(run_id: UUID) -> None:
    """Tell the run's pages that its state changed; they read it from the database."""
    _send(run_group(run_id), {"type": "run.changed", "run": str(run_id)})


def push_board(run_id: UUID, pipeline_id: UUID, status: str) -> None:
    _send(BOARD, {"type": "board.run", "run": str(run_id), "pipeline": str(pipeline_id), "status": str(status)})


def push_boards(pipelines: Iterable[UUID]) -> None:
    """Tell of runs of many pipelines in one message."""
    if named := [str(pipeline) for pipeline in pipelines]:
        _send(BOARD, {"type": "board.runs", "pipelines": named})


class _Courier:
    """One thread with an event loop of its own: synchronous code hands over and goes on.

    The layer's connection belongs to that loop, so it is made once a process and not once a message.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pending = 0
        self._counting = threading.Lock()
        threading.Thread(target=self._loop.run_forever, name="live-courier", daemon=True).start()

    def send(self, group: str, message: dict[str, Any]) -> None:
        with self._counting:
            if self._pending >= PENDING_LIMIT:
                return
            self._pending += 1
        asyncio.run_coroutine_threadsafe(self._deliver(group, message), self._loop)

    async def _deliver(self, group: str, message: dict[str, Any]) -> None:
        try:
            layer = get_channel_layer()
            if layer is not None:
                await asyncio.wait_for(layer.group_send(group, message), timeout=DELIVERED_WITHIN_S)
        except Exception as error:  # noqa: BLE001 - whatever a broker may raise: pages refill from rows
            log.warning("A live message was not delivered: %s", type(error).__name__)
        finally:
            with self._counting:
                self._pending -= 1


_courier: _Courier | None = None
_lock = threading.Lock()


def _send(group: str, message: dict[str, Any]) -> None:
    global _courier
    if _courier is None:
        with _lock:
            if _courier is None:
                _courier = _Courier()
    _courier.send(group, message)
