"""A worker that lost its broker finds it again within seconds, however long it was away."""

from __future__ import annotations

import re

import pytest
from celery.worker.consumer import consumer
from kombu import Connection
from kombu.utils import functional

from datamantri.celery import app
from datamantri.celery_consumer import LONGEST_WAIT_S, Consumer


@pytest.mark.parametrize("address", ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"])
def test_the_waits_between_looks_stay_short_and_go_on(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Enough(BaseException):
        pass

    looks: list[None] = []

    def look() -> None:
        """Is asked whether to end before each second of waiting."""
        looks.append(None)
        if len(looks) > 400:
            raise Enough

    monkeypatch.setattr(functional, "sleep", lambda _: None)
    monkeypatch.setattr(consumer, "maybe_shutdown", look)
    lost = Consumer.__new__(Consumer)
    lost.app, lost.first_connection_attempt, lost.broker_connection_retry_attempt = app, False, 0
    with pytest.raises(Enough):
        lost.ensure_connected(Connection(address, transport_options={"max_retries": 0}))
    waits = [float(found) for found in re.findall(r"Trying again in ([\d.]+) seconds", caplog.text)]
    assert len(waits) > 100
    assert max(waits) == LONGEST_WAIT_S
