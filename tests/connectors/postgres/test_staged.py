"""The staged way at the destination: parts in committed batches, resumed by anybody, published once."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest

from connectors import staged, transfer
from connectors.base import NeverStop
from connectors.errors import ConnectorError, Held, NewGeneration, Overtaken, StaleToken, TransientError
from connectors.modes import Guard, WriteDisposition, WriteMode
from connectors.postgres.checkpoints import PartKey
from connectors.reading import ReadRequest
from connectors.writing import Fence, Target
from tests.connectors.memory import PartedSource, batch

ROWS = 3000


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@dataclass
class StagedRun:
    """One run in parts, as its workers would do it: each call is another process."""

    world: Any
    source: PartedSource
    disposition: str = "replace"
    run: uuid.UUID = field(default_factory=uuid.uuid4)
    generation: int = 1
    token: int = 0
    fence: Fence | None = None

    def request(self, fence: Fence) -> transfer.TransferRequest:
        key = ("id",) if self.disposition == "merge" else ()
        mode = WriteMode(WriteDisposition(self.disposition), key)
        return transfer.TransferRequest(
            fence.owner, ReadRequest(table="a.b.c"), self.world.target, mode, fingerprint="f"
        )

    def plan(self, **options: Any) -> staged.Staged:
        destination = self.world.destination()
        self.token += 1
        self.fence = destination.raise_fence(self.world.target, self.world.owner(self.run, self.token))
        request = self.request(self.fence)
        prepared = transfer.prepare(self.source, destination, self.fence, request, parts=4, stop=NeverStop())
        made = staged.stage(
            destination,
            self.fence,
            request,
            prepared,
            generation=self.generation,
            reporter=self.world.recorder,
            stop=NeverStop(),
            **options,
        )
        assert made is not None
        return made

    def load(self, part: int, token: int = 1, *, fence: Fence | None = None, **options: Any) -> staged.PartDone:
        fence = fence or self.fence
        return staged.load_part(
            self.source,
            self.world.destination(),
            fence,
            PartKey(self.generation, part, token),
            self.request(fence),
            reporter=self.world.recorder,
            stop=NeverStop(),
            **options,
        )

    def publish(self, **options: Any) -> transfer.Receipt:
        destination = self.world.destination()
        self.token += 1
        fence = destination.raise_fence(self.world.target, self.world.owner(self.run, self.token))
        return staged.publish_parts(
            self.source,
            destination,
            fence,
            self.request(fence),
            reporter=self.world.recorder,
            stop=NeverStop(),
            **options,
        )


def parts_of(first: int, rows: int = ROWS, parts: int = 3, batch_rows: int = 100) -> list[list[Any]]:
    share = rows // parts
    return [
        [
            batch(range(start, start + batch_rows))
            for start in range(first + n * share, first + (n + 1) * share, batch_rows)
        ]
        for n in range(parts)
    ]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit every three batches or so."""
    monkeypatch.setattr(staged, "BATCH_BYTES", 5000)


@pytest.fixture
def run(world: Any) -> StagedRun:
    return StagedRun(world, PartedSource(parts_of(1)))


def test_parts_are_loaded_one_by_one_and_published_once(run, ids, admin):
    made = run.plan()
    assert len(made.parts) == 3
    assert ids() is None
    for part in (2, 0, 1):
        assert run.load(part) == staged.PartDone(ROWS // 3, run.load(part, token=2).bytes, True)
    receipt = run.publish()
    assert (receipt.rows, receipt.method, receipt.source["parts"]) == (ROWS, "create", 3)
    assert ids() == list(range(1, ROWS + 1))
    assert run.publish().rows == ROWS
    admin.execute("SELECT count(*) FROM _datamantri.applied")
    assert admin.fetchone() == (1,)
    admin.execute("SELECT (SELECT count(*) FROM _datamantri.plan), (SELECT count(*) FROM _datamantri.checkpoint)")
    assert admin.fetchone() == (0, 0)
    admin.execute("SELECT count(*) FROM pg_class WHERE relname LIKE '\\_datamantri\\_new%'")
    assert admin.fetchone() == (0,)


def test_every_disposition_publishes_what_was_staged(world, ids, disposition):
    run = StagedRun(world, PartedSource(parts_of(2, 2998, 2, 1499)), disposition)
    run.plan()
    assert ids() == [1]
    run.load(0)
    run.load(1)
    assert ids() == [1]
    run.publish()
    assert ids() == [*([] if disposition == "replace" else [1]), *range(2, 3000)]


def test_a_killed_part_goes_on_behind_its_last_commit(run, ids):
    run.plan()
    commits = 0

    def die(point: str) -> None:
        nonlocal commits
        commits += point == "checkpoint.after_commit"
        if commits == 2:
            raise Killed

    with pytest.raises(Killed):
        run.load(0, crash=die)
    run.source.starts.clear()
    run.load(0, token=2)
    ((_, start),) = run.source.starts
    assert 0 < start < ROWS // 3
    run.load(1)
    run.load(2)
    run.publish()
    assert ids() == list(range(1, ROWS + 1))


def test_what_came_before_a_broken_stream_is_kept(run, ids):
    run.plan()
    broken = {0: 500}

    def fail(part: int, row: int) -> None:
        if broken.get(part) == row:
            del broken[part]
            raise TransientError("The stream broke.")

    run.source.fail = fail
    with pytest.raises(TransientError, match="broke"):
        run.load(0)
    run.source.starts.clear()
    run.load(0, token=2)
    assert run.source.starts == [(0, 500)]
    run.load(1)
    run.load(2)
    run.publish()
    assert ids() == list(range(1, ROWS + 1))


def test_a_former_owner_of_a_part_is_ended_in_the_middle_of_its_commit(run, ids):
    run.plan()
    overtaken: list[str] = []

    def overtake(point: str) -> None:
        if point == "checkpoint.before_commit" and not overtaken:
            overtaken.append(point)
            assert run.load(0, token=2).done

    with pytest.raises(ConnectorError):
        run.load(0, token=1, crash=overtake)
    assert overtaken
    run.load(1)
    run.load(2)
    run.publish()
    assert ids() == list(range(1, ROWS + 1))


def test_an_older_token_is_refused_before_it_reads(run):
    run.plan()
    run.load(0, token=5)
    run.source.starts.clear()
    with pytest.raises(StaleToken):
        run.load(0, token=4)
    assert run.source.starts == []


def test_a_part_under_an_older_fence_commits_nothing(run, ids, admin):
    run.plan()
    old = run.fence
    with pytest.raises(staged.Unfinished) as unfinished:
        run.publish()
    assert unfinished.value.parts == [0, 1, 2]
    with pytest.raises(StaleToken):
        run.load(0, fence=old)
    admin.execute(f"SELECT count(*) FROM _datamantri_new_{run.run.hex}_1")
    assert admin.fetchone() == (0,)
    admin.execute("SELECT sum(position), bool_or(done) FROM _datamantri.checkpoint")
    assert admin.fetchone() == (0, False)


def test_parts_that_are_not_done_are_named_and_can_be_loaded_under_the_new_fence(run, ids):
    run.plan()
    run.load(1)
    destination = run.world.destination()
    with pytest.raises(staged.Unfinished) as unfinished:
        run.publish()
    assert unfinished.value.parts == [0, 2]
    run.token += 1
    fence = destination.raise_fence(run.world.target, run.world.owner(run.run, run.token))
    for part in unfinished.value.parts:
        run.load(part, fence=fence)
    run.publish()
    assert ids() == list(range(1, ROWS + 1))


def test_a_new_generation_throws_away_what_the_former_staged(run, ids, admin):
    run.plan()
    run.load(0)
    run.generation = 2
    run.plan()
    for part in range(3):
        run.load(part)
    assert run.publish().source["generation"] == 2
    assert ids() == list(range(1, ROWS + 1))
    admin.execute("SELECT count(*) FROM pg_class WHERE relname LIKE '\\_datamantri\\_new%'")
    assert admin.fetchone() == (0,)


def test_a_part_of_a_former_generation_finds_its_plan_gone(run):
    run.plan()
    run.generation = 2
    run.plan()
    run.generation = 1
    with pytest.raises(NewGeneration):
        run.load(0)


def test_a_lost_session_of_streams_needs_a_new_generation(run):
    run.plan()

    def fail(part: int, row: int) -> None:
        if row == 500:
            raise TransientError("The session expired.", code="session_lost")

    run.source.fail = fail
    with pytest.raises(NewGeneration):
        run.load(0)


def test_a_lost_session_of_ranges_costs_one_part_only(world, ids):
    source = PartedSource(parts_of(1), outlives=True)
    run = StagedRun(world, source)
    run.plan()
    run.load(1)
    lost: list[int] = []

    def fail(part: int, row: int) -> None:
        if row == 500 and not lost:
            lost.append(part)
            raise TransientError("The session expired.", code="session_lost")

    source.fail = fail
    assert run.load(0).done
    assert source.starts[-2:] == [(0, 0), (0, 0)]
    run.load(2)
    run.publish()
    assert ids() == list(range(1, ROWS + 1))


@pytest.mark.parametrize("at", ["before_done", "after_done", "before_start_over", "after_start_over"])
def test_a_range_that_is_empty_or_starts_over_loses_and_doubles_nothing_in_a_crash(world, ids, monkeypatch, at):
    """Part 0 has no rows, the session of part 1 is lost after some commits."""
    source = PartedSource([[], *parts_of(1, parts=2)], outlives=True)
    monkeypatch.setattr(
        source,
        "open_part",
        lambda part, stop: PartedSource.open_part(source, part, stop=stop) if source.parts[int(part.id)] else None,
    )
    run = StagedRun(world, source)
    run.plan()
    lost: list[int] = []
    passed: list[str] = []

    def fail(part: int, row: int) -> None:
        if (part, row) == (1, 500) and not lost:
            lost.append(part)
            raise TransientError("The session expired.", code="session_lost")

    def die(point: str) -> None:
        passed.append(point)
        if point == f"checkpoint.{at}":
            raise Killed

    source.fail = fail
    dying = 0 if at.endswith("done") else 1
    with pytest.raises(Killed):
        run.load(dying, crash=die)
    if dying:
        assert passed.count("checkpoint.after_commit") >= 2
    for part in range(3):
        assert run.load(part, token=2).done
    assert run.publish().rows == ROWS
    assert ids() == list(range(1, ROWS + 1))


def test_a_part_that_is_asked_to_let_go_keeps_what_it_has(run, ids):
    run.plan()
    committed = threading.Event()
    run.source.fail = lambda part, row: row != 500 or committed.wait(60)
    told = {"is_over": committed.is_set, "on_commit": lambda rows, size, done: committed.set() if rows else None}
    done = run.load(0, **told)
    assert not done.done
    assert 0 < done.rows < ROWS // 3
    run.source.starts.clear()
    assert run.load(0, token=2).done
    assert run.source.starts == [(0, done.rows)]
    run.load(1)
    run.load(2)
    run.publish()
    assert ids() == list(range(1, ROWS + 1))


def test_rows_that_vanished_from_staging_are_never_published(run, ids, admin):
    run.world.move([7])
    run.plan()
    for part in range(3):
        run.load(part)
    admin.execute(f"DELETE FROM _datamantri_new_{run.run.hex}_1 WHERE id < 10")
    with pytest.raises(NewGeneration):
        run.publish()
    assert ids() == [7]


def test_a_plan_that_was_overtaken_is_not_published(run, ids):
    run.world.move([1])
    run.plan()
    for part in range(3):
        run.load(part)
    run.world.move([5])
    with pytest.raises((Overtaken, NewGeneration)):
        run.publish()
    assert ids() == [5]


def test_empty_parts_are_done_without_rows(world, ids):
    source = PartedSource([[], *parts_of(1, 200, 1)])
    run = StagedRun(world, source)
    run.plan()
    done = run.load(0)
    assert (done.rows, done.done) == (0, True)
    run.load(1)
    run.publish()
    assert ids() == list(range(1, 201))


def test_a_target_of_another_schema_is_staged_in_that_schema(world, admin):
    admin.execute("CREATE SCHEMA other; GRANT ALL ON SCHEMA other TO loader")
    world.target = Target("other", "flights")
    run = StagedRun(world, PartedSource(parts_of(1, 300)))
    run.plan()
    for part in range(3):
        run.load(part)
    run.publish()
    admin.execute("SELECT count(*) FROM other.flights")
    assert admin.fetchone() == (300,)


def test_a_reader_with_an_older_snapshot_is_waited_for(run, connect, ids, hurried):
    run.world.move([7])
    run.plan()
    reader = connect()
    reader.set_session(isolation_level="REPEATABLE READ")
    with reader.cursor() as cursor:
        cursor.execute("SELECT 1")
    for part in range(3):
        run.load(part)
    run.publish()
    assert "older than the staged rows" in run.world.recorder.text()
    assert "see only a part of it" in run.world.recorder.text()
    assert ids() == list(range(1, ROWS + 1))


REFERENCE = "CREATE TABLE bookings (flight bigint REFERENCES flights); INSERT INTO bookings VALUES (1)"


def test_rows_in_parts_wait_until_nothing_refers_to_those_that_go(world, admin, ids):
    world.move([1], key=("id",))
    admin.execute("ALTER TABLE flights ADD PRIMARY KEY (id)")
    run = StagedRun(world, PartedSource([[batch([2])], [batch([3])]]))
    for part in range(len(run.plan().parts)):
        run.load(part)
    admin.execute(REFERENCE)
    with pytest.raises(Held) as held:
        run.publish()
    assert (held.value.code, held.value.staged[0]) == ("rows_referenced", 2)
    assert "mend that at the destination, then approve the run" in held.value.hint
    with pytest.raises(Held, match="refers to"):
        world.publish_held(run.run, approved="rows_referenced")
    assert ids() == [1]
    admin.execute("TRUNCATE bookings")
    assert world.publish_held(run.run, approved="rows_referenced").rows == 2
    assert ids() == [2, 3]


def test_who_mends_what_refers_to_rows_approves_no_guard_with_it(world, admin, ids):
    world.move([1, 2, 3, 4], key=("id",))
    admin.execute("ALTER TABLE flights ADD PRIMARY KEY (id)")
    admin.execute(REFERENCE)
    run = StagedRun(world, PartedSource([[batch([2])]]))
    run.plan()
    run.load(0)
    with pytest.raises(Held) as held:
        run.publish()
    assert held.value.code == "rows_referenced"
    admin.execute("TRUNCATE bookings")
    with pytest.raises(Held) as held:
        world.publish_held(run.run, approved="rows_referenced", guard=Guard(shrink_percent=50))
    assert (held.value.code, ids()) == ("guard_shrink", [1, 2, 3, 4])


def test_a_load_in_one_go_has_nothing_to_keep_for_who_mends_it(world, admin, ids):
    world.move([1])
    admin.execute("ALTER TABLE flights ADD PRIMARY KEY (id)")
    admin.execute(REFERENCE)
    with pytest.raises(ConnectorError) as failed:
        world.move([2])
    assert (failed.value.code, isinstance(failed.value, Held)) == ("rows_referenced", False)
    assert ids() == [1]
