"""What is started only when it is needed."""

from __future__ import annotations

import threading

from datamantri.embedded.on_demand import OnDemand
from tests.embedded.conftest import wait_until


def test_it_is_started_once_when_it_is_needed() -> None:
    answers, started, looked = iter([False, False, True]), [], threading.Event()
    on_demand = OnDemand(lambda: next(answers), lambda: (started.append(1), looked.set()), every_s=0.01)
    assert looked.wait(20)
    on_demand.stop()
    assert started == [1]


def test_nothing_is_started_once_it_was_stopped() -> None:
    asked, let_go, started = threading.Event(), threading.Event(), []

    def is_needed() -> bool:
        asked.set()
        return let_go.wait(20)

    on_demand = OnDemand(is_needed, lambda: started.append(1))
    assert asked.wait(20)
    stopping = threading.Thread(target=on_demand.stop)
    stopping.start()
    wait_until(on_demand._ended.is_set)
    let_go.set()
    stopping.join(20)
    assert started == []
