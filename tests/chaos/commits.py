"""Connections that end at a COMMIT: just before it arrives, just after it was carried out, just after its answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from uuid import UUID

import psutil
from django.db import connection

from tests.chaos import cases, lanes
from tests.chaos.lanes import Lane
from tests.chaos.points import DIRECT, STAGED, Armoury, Strike
from tests.chaos.scenes import KINDS, Stage
from tests.connectors.postgres.proxy import COMMIT, Lost, Proxy

# The point behind which the next COMMIT of its process is the one to be cut.
COMMITS = {
    DIRECT: {"publish": "publish.before_commit"},
    STAGED: {
        "stage": "stage.before_commit",
        "checkpoint": "checkpoint.before_commit",
        "publish": "publish.before_commit",
    },
}
LOST: dict[Lost, str] = {"request": "never arrives", "answer": "its answer is lost", "nothing": "after its answer"}
# Of four children: a part that waits for another of its run is no case.
LANES_AT_ONCE = 2


def connection_cut_at_commit(stage: Stage) -> None:
    """Each COMMIT of a run in turn; no other connection of it is cut, nor any of another run."""
    assert stage.stack.warehouse.postgres is not None
    with ExitStack() as proxies:
        made: list[tuple[Lane, Proxy]] = []
        for way in stage.ways:
            for kind in KINDS:
                proxy = proxies.enter_context(Proxy(stage.stack.warehouse.postgres.port))
                ends = lanes.connections(stage.stack, {"port": proxy.port})
                made.append((Lane(stage.stack, kind, way, **ends), proxy))
        with ThreadPoolExecutor(LANES_AT_ONCE) as pool:
            for done in [pool.submit(_cut_all, stage, lane, proxy) for lane, proxy in made]:
                done.result()


def _cut_all(stage: Stage, lane: Lane, proxy: Proxy) -> None:
    try:
        stage.check(f"before the cuts, {lane.name}", lane.turn())
        for name, point in COMMITS[lane.way].items():
            for lost, told in LOST.items():
                cut(stage, proxy, lane, point, lost, f"COMMIT of {name} cut, {told}, {lane.way}")
    finally:
        connection.close()


def cut(stage: Stage, proxy: Proxy, lane: Lane, point: str, lost: Lost, fault: str) -> None:
    """Cut the COMMIT that follows on `point` in the lane's next turn, whose connection goes by this proxy."""
    armoury, whose = stage.stack.armoury, lane.prepare()
    armoury.arm(point, "wait", whose)
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_cut_there, armoury, proxy, point, whose, lost, over)
        try:
            outcome = lane.turn()
        finally:
            over.set()
        struck = waiting.result()
    armoury.disarm(point, whose)
    hit = struck is not None and proxy.hits == 1
    proxy.cut(b"", "request")
    stage.note(fault, outcome, hit=hit, recovery_s=struck and cases.recovery(outcome.run, struck))


def _cut_there(
    armoury: Armoury, proxy: Proxy, point: str, whose: UUID, lost: Lost, over: threading.Event
) -> Strike | None:
    """Have the connections of the process that waits at its point end at its COMMIT, and let it go on."""
    while not over.wait(0.01):
        if strike := armoury.struck(point, whose):
            with suppress(psutil.NoSuchProcess):
                connections = psutil.Process(strike.pid).net_connections("tcp")
                proxy.cut(COMMIT, lost, ports={one.laddr.port for one in connections if one.laddr})
            return armoury.taken(point, whose)
    return None


SCENES: dict[str, Callable[[Stage], None]] = {"cut": connection_cut_at_commit}
