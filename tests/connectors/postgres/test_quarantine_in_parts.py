"""In a load in parts, what is put aside is committed with the batch and its checkpoint, and goes with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pytest

from connectors import staged
from connectors.errors import ConnectorError, Held, NewGeneration, TransientError
from connectors.quarantine import Beyond, QuarantineRule
from connectors.request import TransferRequest
from connectors.writing import Fence
from tests.connectors.memory import ID_NAME, PartedSource
from tests.connectors.postgres.test_staged import Killed, StagedRun

ROWS, BATCH = 600, 50
JSON = (ID_NAME[0], replace(ID_NAME[1], target_type="jsonb"))


def mixed(first: int, bad: Callable[[int], str | None] = lambda n: "x\0" if n % 100 == 7 else None) -> list[Any]:
    """Two parts of batches; `bad` gives the name of a bad row."""

    def batch(start: int) -> pa.RecordBatch:
        ids = range(start, start + BATCH)
        return pa.record_batch({"id": pa.array(ids), "name": pa.array([bad(n) or str(n) for n in ids])})

    half = ROWS // 2
    return [[batch(start) for start in range(first + part * half, first + (part + 1) * half, BATCH)] for part in (0, 1)]


ON = QuarantineRule(is_on=True)


@dataclass
class Run(StagedRun):
    rule: QuarantineRule = ON

    def request(self, fence: Fence) -> TransferRequest:
        return replace(super().request(fence), quarantine=self.rule)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "BATCH_BYTES", 2000)


@pytest.fixture
def aside(admin: Any) -> Callable[[], list[tuple[int, str]]]:
    def read() -> list[tuple[int, str]]:
        admin.execute('SELECT substring(raw from \'"id":"(\\d+)"\')::int, state FROM _datamantri.quarantine ORDER BY 1')
        return admin.fetchall()

    return read


def bad_ids(state: str, until: int = ROWS) -> list[tuple[int, str]]:
    return [(n, state) for n in range(7, until, 100)]


@pytest.mark.parametrize("kind", ["replace", "merge", "append"])
def test_rows_are_put_aside_and_open_with_the_publish(world, ids, aside, kind):
    world.move([1_000], kind)
    run = Run(world, PartedSource(mixed(0)), kind)
    run.plan()
    assert [run.load(part).rows for part in (0, 1)] == [297, 297]
    assert aside() == bad_ids("staged")
    receipt = run.publish()
    assert (receipt.rows, receipt.quarantined, receipt.source_rows) == (594, {"name: nul_character": 6}, 600)
    assert aside() == bad_ids("open")
    assert len([n for n in ids() if n < ROWS]) == 594


def test_a_batch_that_is_not_committed_puts_nothing_aside(world, aside):
    run = Run(world, PartedSource(mixed(0)))
    run.plan()
    commits = 0

    def die(point: str) -> None:
        nonlocal commits
        commits += point == "checkpoint.before_commit"
        if commits == 2:
            raise Killed

    with pytest.raises(Killed):
        run.load(0, crash=die)
    before = aside()
    assert 0 < len(before) < 3
    run.load(0, token=2)
    run.load(1)
    assert aside() == bad_ids("staged")
    assert run.publish().rows == 594


def test_a_part_that_starts_over_takes_its_rows_back(world, aside):
    lost = True

    def lose_once(part: int, row: int) -> None:
        nonlocal lost
        if lost and part == 0 and row >= 200:
            lost = False
            raise TransientError("The session is gone.", code="session_lost")

    source = PartedSource(mixed(0), fail=lose_once, outlives=True)
    run = Run(world, source, rule=QuarantineRule(is_on=True, most_rows=3))  # as many as a part has
    run.plan()
    run.load(1)
    run.load(0)
    run.rule = ON
    assert aside() == bad_ids("staged")
    assert run.publish().rows == 594


def test_a_generation_that_is_thrown_away_takes_its_rows_along(world, aside):
    run = Run(world, PartedSource(mixed(0)))
    run.plan()
    run.load(0)
    assert aside() == bad_ids("staged", 300)
    run.generation = 2
    run.plan()
    assert aside() == []


def test_a_run_without_an_end_takes_its_rows_along_with_what_it_staged(world, aside):
    run = Run(world, PartedSource(mixed(0)))
    run.plan()
    run.load(0)
    destination = world.destination()
    fence = world.fence(destination, run.run)
    destination.forget_staged(fence, fence.leftovers)
    assert aside() == []


def test_a_batch_that_only_postgresql_refuses_is_sent_once_more(world, aside):
    run = Run(world, PartedSource(mixed(0, lambda n: "[1" if n % 100 == 7 else None), JSON))
    run.plan()
    run.load(0)
    run.load(1)
    assert aside() == bad_ids("staged")
    assert run.publish().quarantined == {"name: bad_json": 6}


def test_rows_that_somebody_took_out_of_the_quarantine_make_the_plan_void(world, admin):
    run = Run(world, PartedSource(mixed(0)))
    run.plan()
    run.load(0)
    run.load(1)
    admin.execute("DELETE FROM _datamantri.quarantine WHERE raw LIKE '%\"107\"%'")
    with pytest.raises(NewGeneration):
        run.publish()


def test_the_limit_counts_what_all_parts_put_aside(world, ids, aside):
    world.move([1])
    run = Run(world, PartedSource(mixed(0)), rule=QuarantineRule(is_on=True, most_rows=5))
    run.plan()
    run.load(0)
    run.load(1)
    with pytest.raises(ConnectorError) as caught:
        run.publish()
    assert (caught.value.code, ids()) == ("quarantine_limit", [1])
    assert aside() == bad_ids("staged")


def test_columns_of_a_part_with_nothing_but_bad_rows_are_done(world, aside):
    run = Run(world, PartedSource(mixed(0, lambda n: "x\0" if n < 300 else None)))
    run.plan()
    assert run.load(0) == staged.PartDone(0, run.load(0, token=2).bytes, True)
    run.load(1)
    assert run.publish().rows == 300
    assert len(aside()) == 300


def test_too_many_of_all_parts_can_be_held_and_approved(world, ids, aside):
    world.move([1_000])
    rule = QuarantineRule(is_on=True, most_rows=5, beyond=Beyond.HOLD)
    run = Run(world, PartedSource(mixed(0)), rule=rule)
    run.plan()
    run.load(0)
    run.load(1)
    with pytest.raises(Held):
        run.publish()
    assert (ids(), aside()) == ([1_000], bad_ids("staged"))
    assert world.publish_held(run.run, quarantine=rule).rows == 594
    assert aside() == bad_ids("open")
