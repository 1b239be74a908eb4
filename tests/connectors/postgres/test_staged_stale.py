"""Owners that were outlived while they load a part, and that nothing but the destination stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from connectors import staged
from connectors.errors import StaleToken, TransientError
from connectors.postgres import control
from connectors.writing import Fence
from tests.connectors.memory import PartedSource
from tests.connectors.postgres.conftest import PASSWORD
from tests.connectors.postgres.test_staged import ROWS, Killed, StagedRun, parts_of

SHARE = ROWS // 3
STRANGER = "stranger"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit every three batches or so."""
    monkeypatch.setattr(staged, "BATCH_BYTES", 5000)


@pytest.fixture
def run(world: Any) -> StagedRun:
    made = StagedRun(world, PartedSource(parts_of(1)))
    made.plan()
    return made


@pytest.fixture
def standing(run: StagedRun, admin: Any) -> Callable[[], tuple[Any, ...]]:
    """Token, position and end of each part's checkpoint, and how many rows are staged."""

    def read() -> tuple[Any, ...]:
        admin.execute("SELECT part, token, position, done FROM _datamantri.checkpoint ORDER BY part")
        checkpoints = admin.fetchall()
        admin.execute(f"SELECT count(*) FROM _datamantri_new_{run.run.hex}_{run.generation}")
        return *checkpoints, admin.fetchone()[0]

    return read


@pytest.fixture
def stranger(server: Any, options: Any, admin: Any) -> Iterator[str]:
    """A role that may write what DataMantri remembers, and may not end the backends of the other one."""
    admin.execute(f"CREATE ROLE {STRANGER} LOGIN PASSWORD '{PASSWORD}'")
    try:
        yield STRANGER
    finally:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND datname = %s",
            (STRANGER, options.dbname),
        )
        admin.execute(f"DROP OWNED BY {STRANGER}; DROP ROLE {STRANGER}")


def raised_by(stranger: str, run: StagedRun, admin: Any) -> Fence:
    """The fence, raised for the run's next step by a role that ends nobody."""
    admin.execute(f"GRANT USAGE ON SCHEMA _datamantri TO {stranger}")
    admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA _datamantri TO {stranger}")
    run.token += 1
    destination = run.world.destination(user=stranger)
    return destination.raise_fence(run.world.target, run.world.owner(run.run, run.token))


def at(point: str, act: Callable[[], object]) -> Callable[[str], None]:
    """Does `act` when the point is first come to."""
    waiting = [point]

    def crash(reached: str) -> None:
        if [reached] == waiting:
            waiting.clear()
            act()

    return crash


def die(point: str) -> None:
    if point == "checkpoint.after_commit":
        raise Killed


@pytest.mark.parametrize(
    ("point", "comes"),
    [
        ("part.middle", "and has read nothing yet"),
        ("part.middle", "to the end"),
        ("checkpoint.after_commit", "and has read nothing yet"),
        ("checkpoint.after_commit", "gets on and dies"),
    ],
)
def test_the_owner_of_a_part_that_was_overtaken_commits_nothing_more(run, ids, standing, point, comes):
    """It was paused, its connection lives, and it does not know: the checkpoint's token alone stops it."""
    seen: list[Any] = []

    def overtake() -> None:
        if comes == "gets on and dies":
            with pytest.raises(Killed):
                run.load(0, token=2, crash=die)
        else:
            done = run.load(0, token=2, is_over=lambda: comes != "to the end")
            assert done.done is (comes == "to the end")
        seen.append(standing())

    with pytest.raises(StaleToken, match="part 1 of"):
        run.load(0, token=1, crash=at(point, overtake))
    first, *_, staged_rows = seen[0]
    assert standing() == seen[0]
    assert first[:2] == (0, 2)
    assert staged_rows == first[2]
    assert (first[2] == 0) is (point == "part.middle" and comes == "and has read nothing yet")
    for part in range(3):
        assert run.load(part, token=3).done
    run.publish()
    assert ids() == list(range(1, ROWS + 1))


def test_a_part_whose_checkpoint_is_not_where_it_was_left_commits_nothing(run, ids, admin, standing):
    """Behind a pooler a server may fail over, without its last commits, and the connection lives on."""

    def fail_over() -> None:
        admin.execute("UPDATE _datamantri.checkpoint SET position = 0, rows = 0, bytes = 0 WHERE part = 0")
        admin.execute(f"DELETE FROM _datamantri_new_{run.run.hex}_1")

    with pytest.raises(StaleToken):
        run.load(0, crash=at("checkpoint.after_commit", fail_over))
    assert standing() == ((0, 1, 0, False), (1, 0, 0, False), (2, 0, 0, False), 0)
    for part in range(3):
        run.load(part, token=2)
    run.publish()
    assert ids() == list(range(1, ROWS + 1))


def test_the_former_owner_of_a_range_whose_session_is_lost_takes_nothing_back(world, ids, admin):
    """To start over it would delete rows that are by now the newer owner's."""
    run = StagedRun(world, PartedSource(parts_of(1), outlives=True))
    run.plan()

    def lose(part: int, row: int) -> None:
        if row == 500:
            assert committed.wait(60)
            run.source.fail = lambda part, row: None
            had.append(run.load(0, token=2, is_over=lambda: True).rows)
            raise TransientError("The session expired.", code="session_lost")

    had: list[int] = []
    committed = threading.Event()
    run.source.fail = lose
    with pytest.raises(StaleToken):
        run.load(0, token=1, on_commit=lambda rows, size, done: committed.set() if rows else None)
    admin.execute("SELECT token, position FROM _datamantri.checkpoint WHERE part = 0")
    assert admin.fetchone() == (2, had[0])
    admin.execute(f"SELECT count(*) FROM _datamantri_new_{run.run.hex}_1")
    assert admin.fetchone() == (had[0],)
    assert had[0] > 0
    for part in range(3):
        run.load(part, token=3)
    run.publish()
    assert ids() == list(range(1, ROWS + 1))


@pytest.mark.parametrize("point", ["part.middle", "checkpoint.after_commit"])
def test_a_part_whose_fence_was_raised_by_who_cannot_end_it_commits_nothing_more(
    run, ids, admin, standing, stranger, point
):
    """The run was taken over in the middle of a COPY: the look at the fence before the commit alone stops it."""
    seen: list[Any] = []
    fences: list[Fence] = []

    def overtake() -> None:
        fences.append(raised_by(stranger, run, admin))
        seen.append(standing())

    with pytest.raises(StaleToken, match="newer owner has taken over public"):
        run.load(0, crash=at(point, overtake))
    assert standing() == seen[0]
    assert (seen[0][-1] == 0) is (point == "part.middle")
    for part in range(3):
        assert run.load(part, token=2, fence=fences[0]).done
    run.publish()
    assert ids() == list(range(1, ROWS + 1))


def test_nobody_raises_the_fence_past_a_part_that_is_about_to_commit(run, ids, admin, standing, stranger, monkeypatch):
    """Who raises it reads the checkpoints next: it must find the rows of that commit, or wait."""
    monkeypatch.setattr(control, "FENCE_LIMIT_S", 0.0)
    blocked: list[str] = []

    def overtake() -> None:
        with pytest.raises(TransientError) as refused:
            raised_by(stranger, run, admin)
        blocked.append(refused.value.code)

    assert run.load(0, crash=at("checkpoint.before_commit", overtake)).rows == SHARE
    assert blocked == ["fence_blocked"]
    assert standing()[-1] == SHARE
