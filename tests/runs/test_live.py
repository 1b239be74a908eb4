"""What is pushed, from synchronous code, without waiting."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from typing import Any

import pytest

from runs import live
from tests.waiting import until


class Layer:
    """Stands for a channel layer that is slow or away."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.is_away = False

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        if self.is_away:
            raise ConnectionError
        self.sent.append((group, message))


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Layer:
    layer = Layer()
    # What former tests had pushed would arrive here.
    until(lambda: live._courier is None or live._courier._pending == 0)
    monkeypatch.setattr(live, "get_channel_layer", lambda: layer)
    monkeypatch.setattr(live, "_courier", None)
    return layer


def test_messages_say_what_pages_need(layer: Layer) -> None:
    run, pipeline = uuid.uuid4(), uuid.uuid4()
    live.push_run(run)
    live.push_lines(run, [{"seq": 1}])
    live.push_board(run, pipeline, "queued")
    until(lambda: len(layer.sent) == 3)
    assert layer.sent == [
        (live.run_group(run), {"type": "run.changed", "run": str(run)}),
        (live.run_group(run), {"type": "run.lines", "run": str(run), "lines": [{"seq": 1}]}),
        (live.BOARD, {"type": "board.run", "run": str(run), "pipeline": str(pipeline), "status": "queued"}),
    ]


def test_a_slow_broker_holds_up_nobody_and_fills_no_memory(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PENDING_LIMIT", 50)
    monkeypatch.setattr(live, "DELIVERED_WITHIN_S", 60.0)
    layer.gate.clear()
    began = time.monotonic()
    for _ in range(500):
        live.push_run(uuid.uuid4())
    assert time.monotonic() - began < 30, "half of what one message may take"
    assert not layer.sent
    layer.gate.set()
    until(lambda: len(layer.sent) == 50)
    live.push_run(uuid.uuid4())
    until(lambda: len(layer.sent) == 51)


def test_a_broker_that_is_away_is_no_error_of_the_run(layer: Layer, caplog: pytest.LogCaptureFixture) -> None:
    layer.is_away = True
    live.push_run(uuid.uuid4())
    until(lambda: "ConnectionError" in caplog.text)
    layer.is_away = False
    live.push_run(uuid.uuid4())
    until(lambda: len(layer.sent) == 1)


def test_messages_that_many_threads_send_are_all_counted_down(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that drifts would silence the pages some day."""
    monkeypatch.setattr(live, "PENDING_LIMIT", 10_000)

    def send() -> None:
        for _ in range(300):
            live.push_run(uuid.uuid4())

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(layer.sent) == 1800)
    until(lambda: live._courier is not None and live._courier._pending == 0)
