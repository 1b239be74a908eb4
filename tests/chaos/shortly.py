"""What the short form strikes besides named points and at random: one of each kind that most likely loses rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from django.db import connection

from tests.chaos.cases import Case
from tests.chaos.commits import cut
from tests.chaos.lanes import Lane, connections
from tests.chaos.points import DIRECT, STAGED
from tests.chaos.results import Results
from tests.chaos.scenes import Stage, pause
from tests.chaos.stack import Stack
from tests.connectors.postgres.proxy import Proxy

UNHEARD = "COMMIT of publish cut, its answer is lost"


@contextmanager
def struck_beside(stack: Stack, results: Results) -> Iterator[None]:
    """A checkpoint before which its owner sleeps past its lease, and a publish whose answer is lost, meanwhile."""
    stage = Stage(stack, results)
    assert stack.warehouse.postgres is not None
    with Proxy(stack.warehouse.postgres.port) as proxy, ThreadPoolExecutor() as pool:
        sleeper = Lane(stack, "append", STAGED, **stage.ends)
        # Here, for it makes the destination's role anew, which two cannot do at once.
        unheard = Lane(stack, "append", DIRECT, **connections(stack, {"port": proxy.port}))
        struck = [
            pool.submit(_strike, pause, stage, sleeper, Case("checkpoint.before_commit", "stop")),
            pool.submit(_strike, cut, stage, proxy, unheard, "publish.before_commit", "answer", UNHEARD),
        ]
        yield
        for one in struck:
            one.result()


def _strike(strike: Callable[..., None], *how: Any) -> None:
    try:
        strike(*how)
    finally:
        connection.close()
