"""Either broker will do, and may go away, forget everything or fall silent: every due run happens once, and soon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Protocol

import pytest
import redis
from django.utils import timezone
from kombu import Connection as Link

from datamantri import processes
from datamantri.embedded import ports
from pipelines import services as definitions
from pipelines.models import Missed, Overlap, Pipeline
from pipelines.specs import ScheduleSpec
from runs import doorbell
from runs.models import Run
from runs.states import TERMINAL, RunStatus
from tests.acceptance.conftest import numbers
from tests.acceptance.product import Product, wait_for
from tests.rabbitmq import IS_INSTALLED, RabbitMQ
from tests.relay import Relay
from tests.runs.test_beat import Broker as Valkey

EVERY_S, ROWS = 3, 10
LATE_AT_MOST_S = 10.0


class Broker(Protocol):
    """A server, and what the product calls it by: through a relay that can fall silent."""

    url: str
    relay: Relay

    def start(self) -> None: ...

    def kill(self) -> None:
        """What comes back after it has forgotten everything."""
        ...

    def wipe(self) -> None:
        """Take all messages away."""
        ...


class _Valkey:
    def __init__(self, port: int) -> None:
        self._server = Valkey(port)
        self._server.start()
        self.relay = Relay(self._server.port)
        self.url = f"redis://127.0.0.1:{self.relay.port}/0"

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        self._server.stop()

    def wipe(self) -> None:
        with redis.Redis(port=self._server.port) as client:
            client.flushall()

    def close(self) -> None:
        self._server.stop()
        self.relay.close()


class _RabbitMQ:
    def __init__(self, _: int) -> None:
        self._server = RabbitMQ()
        self._server.start()
        self.relay = Relay(self._server.port)
        self.url = self._server.url.replace(f":{self._server.port}/", f":{self.relay.port}/")

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        self._server.kill()
        self._server.wipe()

    def wipe(self) -> None:
        with Link(self._server.url) as link:
            link.default_channel.queue_purge(doorbell.QUEUE)

    def close(self) -> None:
        self._server.close()
        self.relay.close()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(_Valkey, id="valkey", marks=pytest.mark.xdist_group("valkey")),
        pytest.param(
            _RabbitMQ,
            id="rabbitmq",
            marks=[
                pytest.mark.xdist_group("rabbitmq"),
                pytest.mark.skipif(not IS_INSTALLED, reason="rabbitmq-server is not installed"),
            ],
        ),
    ],
)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chosen = ports.Ports(tmp_path_factory.mktemp("ports") / "ports.json")
    made = request.param(chosen.choose("broker"))
    yield made
    made.close()
    chosen.give_back()


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Iterator[Product]:
    """A product of its own on this broker, without pages."""
    chosen = ports.Ports(tmp_path_factory.mktemp("ports") / "ports.json")
    product = Product(tmp_path_factory.mktemp("product"), chosen.choose("web"), BROKER_URL=broker.url)
    try:
        for spec in (processes.worker(2), processes.lookups(), processes.beat()):
            product.start(spec)
        yield product
    finally:
        product.stop_all()
        chosen.give_back()


@pytest.fixture
def ticking(make_pipeline: Callable[..., Pipeline], source_table: Callable[..., str]) -> list[Pipeline]:
    """Two pipelines that append ROWS rows every EVERY_S seconds, whatever else runs."""
    table = source_table(numbers(ROWS))
    return [
        make_pipeline(
            table,
            write_disposition="append",
            overlap=Overlap.QUEUE,
            missed=Missed.ALL,
            schedules=[ScheduleSpec("interval", every_s=EVERY_S)],
        )
        for _ in range(2)
    ]


def wait_until_done(pipelines: list[Pipeline]) -> datetime:
    """Until each has finished a run that was due from now on, and nothing before it is left; returns this moment."""
    now = timezone.now()

    def are_done() -> bool:
        runs = Run.objects.filter(pipeline__in=pipelines)
        later = runs.filter(scheduled_for__gte=now, status=RunStatus.SUCCEEDED).values("pipeline").distinct()
        left = runs.filter(scheduled_for__lt=now).exclude(status__in=TERMINAL)
        return later.count() == len(pipelines) and not left.exists()

    wait_for(are_done, limit_s=60, saying=f"all that was due before {now} has run")
    return now


@contextmanager
def wiped_again_and_again(broker: Broker) -> Iterator[None]:
    ended = threading.Event()

    def wipe() -> None:
        while not ended.wait(0.02):
            broker.wipe()

    wiping = threading.Thread(target=wipe)
    wiping.start()
    try:
        yield
    finally:
        ended.set()
        wiping.join()


def queued(pipelines: list[Pipeline]) -> int:
    return Run.objects.filter(pipeline__in=pipelines, status=RunStatus.QUEUED).count()


def test_look_ups_are_answered_through_it(product: Product) -> None:
    ask = "from pipelines import lookups; print(lookups.test_connection('bigquery', {'project': 'acceptance'}))"

    def answer() -> str:
        try:
            return product.manage("shell", "-c", ask)
        except AssertionError:  # the first one imports Google's clients, which may take longer than a page waits
            return ""

    assert "Reach BigQuery" in wait_for(answer, limit_s=90)
    assert "ok   broker" in product.manage("doctor")


def test_every_due_run_happens_once_and_soon_whatever_becomes_of_the_broker(
    broker: Broker, product: Product, ticking: list[Pipeline], operator: Any, warehouse_cursor: Any
) -> None:
    wait_until_done(ticking)
    outages: list[tuple[datetime, datetime]] = []  # from, and back since

    gone = timezone.now()
    broker.kill()
    wait_for(lambda: queued(ticking) >= 4, limit_s=60, saying="what nobody can call a worker for is queued")
    broker.start()
    outages.append((gone, wait_until_done(ticking)))

    silent = timezone.now()
    broker.relay.stall()
    time.sleep(2 * EVERY_S)
    wait_for(lambda: queued(ticking) >= 2, saying="what is called for in vain is queued")
    broker.relay.resume()
    outages.append((silent, wait_until_done(ticking)))

    with wiped_again_and_again(broker):
        wiped = timezone.now()
        time.sleep(2 * EVERY_S)
    outages.append((wiped, wait_until_done(ticking)))

    definitions.pause(ticking, by=operator)
    wait_for(lambda: not Run.objects.filter(pipeline__in=ticking).exclude(status__in=TERMINAL).exists())
    for pipeline in ticking:
        runs = list(Run.objects.filter(pipeline=pipeline).order_by("scheduled_for"))
        assert {run.status for run in runs} == {RunStatus.SUCCEEDED}
        assert {b.scheduled_for - a.scheduled_for for a, b in pairwise(runs)} == {timedelta(seconds=EVERY_S)}
        warehouse_cursor.execute(f"SELECT count(*), count(DISTINCT id) FROM public.{pipeline.target_table}")
        assert warehouse_cursor.fetchone() == (ROWS * len(runs), ROWS)
        for run in runs:
            back = max(
                (back for since, back in outages if since <= run.scheduled_for <= back), default=run.scheduled_for
            )
            assert (run.started_at - back).total_seconds() < LATE_AT_MOST_S
