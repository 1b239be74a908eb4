"""Commits of a load in parts whose connection breaks: of the plan, of a part's rows, of the publish."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

from connectors import staged
from connectors.errors import NewGeneration, OutcomeUnknown, TransientError
from connectors.postgres.destination import PostgresDestination
from tests.connectors.memory import PartedSource
from tests.connectors.postgres.proxy import COMMIT, Lost, Proxy
from tests.connectors.postgres.test_staged import StagedRun, parts_of

FIRST, ROWS = 2, 2700
# The row that is there before, and stays there unless it is replaced.
KEPT = {"append": [1], "merge": [1], "replace": []}
LOST: tuple[Lost, ...] = ("request", "answer", "nothing")


@dataclass
class Through:
    """The world as a worker sees it whose connections pass the proxy; `world` is there for everybody else."""

    world: Any
    port: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world, name)

    def destination(self) -> PostgresDestination:
        return self.world.destination(port=self.port)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit every three batches or so."""
    monkeypatch.setattr(staged, "BATCH_BYTES", 5000)


@pytest.fixture
def proxy(server: Any) -> Iterator[Proxy]:
    with Proxy(server.port) as made:
        yield made


@pytest.fixture
def run(world: Any, proxy: Proxy) -> StagedRun:
    return StagedRun(Through(world, proxy.port), PartedSource(parts_of(FIRST, ROWS)))


@pytest.fixture
def left(admin: Any) -> Callable[[], tuple[int, ...]]:
    """How many plans, checkpoints and staging tables there are."""

    def read() -> tuple[int, ...]:
        admin.execute(
            """
            SELECT (SELECT count(*) FROM _datamantri.plan), (SELECT count(*) FROM _datamantri.checkpoint),
                   (SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE '\\_datamantri\\_new%')
            """
        )
        return admin.fetchone()

    return read


def cutting(proxy: Proxy, at: str, lost: Lost) -> Callable[[str], None]:
    """The commit that comes after the first `at` is cut."""
    waiting = [at]

    def crash(point: str) -> None:
        if [point] == waiting:
            waiting.clear()
            proxy.cut(COMMIT, lost)

    return crash


def in_a_new_process(run: StagedRun) -> None:
    """The next owner is another one, whose connections nobody cuts."""
    run.world = run.world.world


def whole(disposition: str) -> list[int]:
    return [*KEPT[disposition], *range(FIRST, FIRST + ROWS)]


@pytest.mark.parametrize("disposition", ["append"], indirect=True)
@pytest.mark.parametrize("lost", LOST)
def test_a_plan_whose_commit_is_lost_is_made_anew_and_leaves_nothing(run, ids, left, proxy, disposition, lost):
    """The next attempt throws away what may be there: nobody else knows of that plan's parts."""
    run.disposition = disposition
    with nullcontext() if lost == "nothing" else pytest.raises(OutcomeUnknown):
        run.plan(crash=cutting(proxy, "stage.before_commit", lost))
    assert proxy.hits == 1
    assert left() == ((0, 0, 0) if lost == "request" else (1, 3, 1))
    assert ids() == [1]
    in_a_new_process(run)
    if lost == "request":
        with pytest.raises(NewGeneration):
            run.load(0)
    run.generation = 2
    run.plan()
    assert left() == (1, 3, 1)
    for part in range(3):
        run.load(part)
    assert run.publish().rows == ROWS
    assert ids() == whole(disposition)
    assert left() == (0, 0, 0)


@pytest.mark.parametrize("lost", LOST)
def test_a_part_whose_commit_is_lost_goes_on_from_what_the_destination_has(run, ids, admin, proxy, lost):
    run.plan()
    crash = cutting(proxy, "checkpoint.before_commit", lost)
    with pytest.raises(TransientError) as broken:
        run.load(0, crash=crash)
    # The answer was heard, and the next batch finds nobody there.
    assert broken.value.code == ("connection_lost" if lost == "nothing" else "outcome_unknown")
    assert proxy.hits == 1
    admin.execute("SELECT position, rows, token FROM _datamantri.checkpoint WHERE part = 0")
    position, rows, _ = admin.fetchone()
    assert (position > 0) is (lost != "request")
    admin.execute(f"SELECT count(*) FROM _datamantri_new_{run.run.hex}_1")
    assert admin.fetchone() == (rows,)
    in_a_new_process(run)
    run.source.starts.clear()
    assert run.load(0, token=2).done
    assert run.source.starts == [(0, position)]
    run.load(1)
    run.load(2)
    assert run.publish().rows == ROWS
    assert ids() == whole("replace")


@pytest.mark.parametrize("lost", LOST)
def test_the_last_commit_of_a_part_that_is_lost_is_made_once(run, ids, proxy, lost):
    run.source = PartedSource(parts_of(FIRST, 300, batch_rows=100))
    run.plan()
    with nullcontext() if lost == "nothing" else pytest.raises(OutcomeUnknown):
        run.load(0, crash=cutting(proxy, "checkpoint.before_commit", lost))
    in_a_new_process(run)
    run.source.starts.clear()
    assert run.load(0, token=2).rows == 100
    assert run.source.starts == ([(0, 0)] if lost == "request" else [])
    run.load(1)
    run.load(2)
    run.publish()
    assert ids() == list(range(FIRST, FIRST + 300))


@pytest.mark.parametrize(
    ("disposition", "lost"),
    [
        *(("append", lost) for lost in LOST),
        *(("replace", lost) for lost in LOST),
        ("replace in place", "answer"),
        ("merge", "answer"),
    ],
    indirect=["disposition"],
)
def test_a_publish_of_parts_whose_commit_is_lost_happens_once(run, ids, admin, left, proxy, disposition, lost):
    run.disposition = disposition
    run.plan()
    for part in range(3):
        run.load(part)
    with nullcontext() if lost == "nothing" else pytest.raises(OutcomeUnknown):
        run.publish(crash=cutting(proxy, "publish.before_commit", lost))
    assert proxy.hits == 1
    assert ids() == ([1] if lost == "request" else whole(disposition))
    in_a_new_process(run)
    run.source.starts.clear()
    run.token += 1
    fence = run.world.destination().raise_fence(run.world.target, run.world.owner(run.run, run.token))
    assert (fence.applied is None) is (lost == "request")
    assert left() == ((1, 3, 1) if lost == "request" else (0, 0, 0))
    assert run.publish().rows == ROWS
    assert run.source.starts == []
    assert ids() == whole(disposition)
    assert left() == (0, 0, 0)
    admin.execute("SELECT count(*) FROM _datamantri.applied WHERE run = %s", (str(run.run),))
    assert admin.fetchone() == (1,)
