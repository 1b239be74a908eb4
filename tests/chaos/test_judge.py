"""The oracle judges a world that is right as right, and names whatever one thing in it is not."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2
import pytest
from django.db import connection
from django.db.models.functions import Now
from psycopg2.extras import Json, execute_values

from connectors.postgres.control_schema import CREATE
from pipelines.models import Pipeline
from runs.models import Attempt, LogLine, Run, Trigger
from runs.states import RunStatus
from tests.chaos import history, oracle
from tests.chaos.feeds import COLUMNS, Append, Feed, Replace, Rows, Verdict
from tests.chaos.oracle import Place
from tests.definitions import destination, make_pipeline, operator, source

__all__ = ["destination", "make_pipeline", "operator", "source"]

pytestmark = pytest.mark.django_db

PLACE = Place("chaos_judged", "rows")
NOBODY = uuid.UUID(int=0)


@dataclass
class World:
    """A target after a run that a worker took, and then ended."""

    cursor: Any
    feed: Feed
    run: Run
    before: Rows

    def judge(self) -> Verdict:
        self.run.refresh_from_db()
        outcomes = self.feed.outcomes(self.before)
        return oracle.judge(self.cursor, PLACE, self.feed, self.run, self.before, outcomes)[0]

    def judge_all(self) -> Verdict:
        self.run.refresh_from_db()
        outcomes = self.feed.outcomes(self.before)
        return oracle.judge_all(self.cursor, PLACE, self.feed, [self.run], self.before, outcomes)[0]

    def write(self, rows: Rows) -> None:
        """Rows in the target as a load leaves them."""
        table = self.feed._arrow(list(rows.elements())).to_pylist()
        values = [(*row.values(),) for row in table]
        execute_values(self.cursor, f"INSERT INTO {PLACE.key} VALUES %s", values)

    def publish(self, run: uuid.UUID, rows: int, token: int, watermark: int) -> None:
        told = {"rows": rows, "watermark_after": str(watermark)}
        self.cursor.execute(
            "INSERT INTO _datamantri.applied VALUES (%s, %s, %s, %s, %s, %s, now(), %s, NULL, %s)",
            (str(run), PLACE.key, str(NOBODY), str(NOBODY), token, rows, Json(told), str(watermark)),
        )
        self.cursor.execute(
            "INSERT INTO _datamantri.head (target, installation, pipeline, token, watermark, last_run)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (target) DO UPDATE"
            " SET token = excluded.token, watermark = excluded.watermark, last_run = excluded.last_run",
            (PLACE.key, str(NOBODY), str(NOBODY), token, str(watermark), str(run)),
        )

    def end(self, status: RunStatus, receipt: dict[str, Any] | None = None) -> None:
        """What the control database has of a run that one worker took and ended."""
        self.move(RunStatus.RUNNING, token=1, attempt=1)
        Attempt.objects.create(run=self.run, number=1, token=1, worker="w", outcome=status)
        for seq in (1, 2, 3):
            LogLine.objects.create(run=self.run, seq=seq, at=Now(), level="info", message=f"line {seq}", attempt=1)
        self.move(status, receipt=receipt, last_seq=3)

    def move(self, status: RunStatus, **changes: Any) -> None:
        Run.objects.filter(pk=self.run.pk).update(status=status, **changes)


@pytest.fixture(scope="module")
def cursor() -> Iterator[Any]:
    """In a destination of its own, with an empty target; the database goes with its server."""
    name = f"judged_{uuid.uuid4().hex[:12]}"
    with closing(psycopg2.connect(os.environ["DATABASE_URL"])) as control, control.cursor() as cursor:
        control.autocommit = True
        cursor.execute(f"CREATE DATABASE {name}")
    columns = ", ".join(f"{name} {type_}" for name, type_ in COLUMNS)
    url = os.environ["DATABASE_URL"].rsplit("/", 1)[0] + f"/{name}"
    with closing(psycopg2.connect(url)) as made, made.cursor() as cursor:
        cursor.execute(f"{CREATE}; CREATE SCHEMA {PLACE.schema}; CREATE TABLE {PLACE.key} ({columns})")
        made.commit()
        yield cursor


@pytest.fixture
def begun(cursor: Any, make_pipeline: Callable[..., Pipeline]) -> Iterator[World]:
    """A second run that waits, and the target as the first one left it."""
    history.keep()
    pipeline = make_pipeline()
    run = Run.objects.create(pipeline=pipeline, revision_id=pipeline.revision_id, trigger=Trigger.MANUAL)
    feed = Append("feed", None)  # type: ignore[arg-type]
    feed.ROWS = feed.MORE = 9
    feed.begin(Rows())
    world = World(cursor, feed, run, feed.held[0])
    world.write(world.before)
    world.publish(uuid.uuid4(), 9, 1, max(change for _, _, change in world.before))
    feed.begin(world.before)
    yield world
    cursor.connection.rollback()


@pytest.fixture
def world(begun: World) -> World:
    """After it has succeeded."""
    after = list(begun.feed.outcomes(begun.before))[-1]
    watermark = max(change for _, _, change in after)
    begun.write(after - begun.before)
    begun.publish(begun.run.pk, 9, 2, watermark)
    begun.end(RunStatus.SUCCEEDED, {"rows": 9, "watermark_after": str(watermark)})
    return begun


def test_a_run_that_published_is_right(world: World) -> None:
    assert world.judge() == world.judge_all() == Verdict()


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.CANCELLED])
def test_a_run_that_ended_and_changed_nothing_is_right(begun: World, status: RunStatus) -> None:
    begun.end(status)
    assert begun.judge() == Verdict()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM _datamantri.applied WHERE run = %(run)s", "the run is succeeded, and not published"),
        ("UPDATE _datamantri.applied SET run = %(nobody)s WHERE run = %(run)s", "and not published"),
        ("UPDATE _datamantri.applied SET rows = rows - 1", "the receipt says 9 rows, `applied` 8"),
        ("UPDATE _datamantri.applied SET rows = rows - 1", "`applied` says 8 rows, of 9"),
        ("UPDATE _datamantri.applied SET watermark_after = '17'", "the receipt says the watermark 18, `applied` 17"),
        ("UPDATE _datamantri.applied SET target = 'other' WHERE run = %(run)s", "is published to other"),
        ("DELETE FROM _datamantri.head", "[] was the last"),
        ("UPDATE _datamantri.head SET last_run = %(nobody)s", f"['{NOBODY}'] was the last"),
        ("UPDATE _datamantri.head SET last_run = NULL", "[None] was the last"),
        ("UPDATE _datamantri.head SET watermark = '17'", "the watermark 17"),
        ("UPDATE _datamantri.head SET watermark = NULL", "the watermark None"),
        ("UPDATE _datamantri.applied SET token = 3 WHERE run <> %(run)s", "`head` has the run"),
        (f"ALTER TABLE {PLACE.key} ALTER version TYPE integer", "the columns are"),
        (f"ALTER TABLE {PLACE.key} ALTER hash TYPE varchar(32)", "the columns are"),
        (f"ALTER TABLE {PLACE.key} ADD more bigint", "the columns are"),
        (f"ALTER TABLE {PLACE.key} SET UNLOGGED", "is emptied when its server crashes"),
        (f"CREATE UNLOGGED TABLE {PLACE.schema}._datamantri_staging ()", "left behind: _datamantri_staging"),
        (f"CREATE VIEW {PLACE.schema}.old AS SELECT 1", "left behind: old"),
    ],
)
def test_what_is_wrong_at_the_destination_is_named(world: World, change: str, said: str) -> None:
    world.cursor.execute(change, {"run": str(world.run.pk), "nobody": str(NOBODY)})
    assert any(said in told for told in world.judge().told)


@pytest.mark.parametrize(
    ("change", "lost", "doubled", "wrong"),
    [
        ("DELETE FROM {rows} WHERE seq = 4", 1, 0, 0),
        ("INSERT INTO {rows} SELECT * FROM {rows} WHERE seq = 4", 0, 1, 0),
        ("UPDATE {rows} SET change = 99 WHERE seq = 4", 1, 0, 2),
        ("UPDATE {rows} SET hash = md5(hash) WHERE seq < 6", 0, 0, 5),
        ("UPDATE {rows} SET hash = NULL WHERE seq < 3", 0, 0, 2),
        ("UPDATE {rows} SET filler = left(filler, -1) WHERE seq < 6", 0, 0, 5),
        ("UPDATE {rows} SET filler = NULL WHERE seq < 3", 0, 0, 2),
    ],
)
def test_rows_that_are_not_as_they_must_be_are_counted(
    world: World, change: str, lost: int, doubled: int, wrong: int
) -> None:
    world.cursor.execute(change.format(rows=PLACE.key))
    assert world.judge() == world.judge_all() == Verdict(lost, doubled, wrong)


def test_a_table_that_is_gone_is_named_also_where_no_row_was_to_be_in_it(world: World) -> None:
    world.feed = Replace("feed", None)  # type: ignore[arg-type]
    world.feed.held = [Rows()]
    world.cursor.execute(f"DROP TABLE {PLACE.key}; UPDATE _datamantri.applied SET rows = 0")
    Run.objects.update(receipt={**world.run.receipt, "rows": 0} if world.run.receipt else {"rows": 0})
    assert "the columns are []" in world.judge().told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": RunStatus.FAILED}, "the run is failed, and published"),
        ({"receipt": None}, "the receipt says None rows"),
        ({"receipt": {"rows": 8, "watermark_after": "18"}}, "the receipt says 8 rows, `applied` 9"),
        ({"receipt": {"rows": 9, "watermark_after": "17"}}, "the receipt says the watermark 17, `applied` 18"),
    ],
)
def test_what_the_control_database_says_otherwise_is_named(world: World, change: dict[str, Any], said: str) -> None:
    Run.objects.update(**change)
    assert any(said in told for told in world.judge().told)


def test_rows_of_a_run_that_published_nothing_are_counted(begun: World) -> None:
    begun.end(RunStatus.FAILED)
    begun.write(begun.feed.held[-1])
    assert begun.judge() == Verdict(wrong=9)


@pytest.mark.parametrize("change", ["watermark = '17'", f"last_run = '{NOBODY}'"])
def test_a_run_that_published_nothing_and_moved_the_head_is_named(begun: World, change: str) -> None:
    begun.end(RunStatus.FAILED)
    begun.cursor.execute(f"UPDATE _datamantri.head SET {change}")
    [told] = begun.judge().told
    assert "`head` has" in told


@pytest.mark.parametrize(
    ("status", "line", "is_right"),
    [
        (RunStatus.CANCELLED, "A later run takes it away.", True),
        (RunStatus.CANCELLED, "All is taken away.", False),
        (RunStatus.SUCCEEDED, "A later run takes it away.", False),
    ],
)
def test_staged_rows_may_only_stay_where_a_run_that_ended_without_them_says_so(
    world: World, status: RunStatus, line: str, is_right: bool
) -> None:
    changes = {"trigger": Trigger.MANUAL, "status": status, "finished_at": Now()}
    other = Run.objects.create(pipeline=world.run.pipeline, revision=world.run.revision, **changes)
    LogLine.objects.create(run=other, seq=1, at=Now(), level="warning", message=line)
    world.cursor.execute(f"CREATE TABLE {PLACE.schema}._datamantri_new_{other.pk.hex}_1 ()")
    assert world.judge().is_right == is_right


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM _datamantri.applied WHERE run = %(run)s", "succeeded, set() are published"),
        ("DELETE FROM _datamantri.head", "`head` has the run None"),
        ("UPDATE _datamantri.head SET watermark = '17'", "the watermark 17"),
        (f"DROP TABLE {PLACE.key}", "the columns are []"),
        (f"CREATE TABLE {PLACE.schema}.old ()", "left behind: old"),
    ],
)
def test_what_is_wrong_after_several_runs_is_named(world: World, change: str, said: str) -> None:
    world.cursor.execute(change, {"run": str(world.run.pk)})
    assert any(said in told for told in world.judge_all().told)


@pytest.mark.parametrize(
    ("moves", "said"),
    [
        ([{"status": RunStatus.HELD}], "succeeded became held"),
        ([{"status": RunStatus.RUNNING}, {"status": RunStatus.SUCCEEDED}], "a run ends once"),
        ([{"status": RunStatus.FAILED}], "a run ends once"),
        ([{"token": 2}], "after succeeded with token 1 came succeeded with token 2"),
        ([{"token": 0}], "after succeeded with token 1 came succeeded with token 0"),
    ],
)
def test_states_that_may_not_follow_one_another_are_named(world: World, moves: Any, said: str) -> None:
    for change in moves:
        Run.objects.update(**change)
    assert any(said in told for told in history.faults(world.run))


def test_a_token_that_falls_while_a_run_goes_on_is_named(begun: World) -> None:
    begun.move(RunStatus.RUNNING, token=3, attempt=1)
    begun.move(RunStatus.RETRYING)
    begun.end(RunStatus.FAILED)
    assert "after retrying with token 3 came running with token 1" in begun.judge().told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM chaos_history", "a run begins as queued or blocked"),
        ("UPDATE runs_attempt SET outcome = ''", "attempt 1 has no end"),
        ("UPDATE runs_attempt SET outcome = 'failed'", "its attempts ['failed']"),
        ("DELETE FROM runs_attempt", "attempts: []"),
        ("UPDATE runs_attempt SET number = 2", "attempts: [(2, 'succeeded')]"),
        ("DELETE FROM runs_logline WHERE seq = 2", "the log has the lines [1, 3], of 3"),
        ("DELETE FROM runs_logline WHERE seq = 3", "the log has the lines [1, 2], of 3"),
        ("UPDATE runs_logline SET seq = 4 WHERE seq = 3", "the log has the lines [1, 2, 4], of 3"),
        ("UPDATE runs_logline SET at = now(), message = 'again' WHERE seq > 1", "the log says 2 times: again"),
    ],
)
def test_what_is_wrong_in_the_history_of_a_run_is_named(world: World, change: str, said: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(change)
    assert any(said in told for told in world.judge().told)
    assert any(said in told for told in world.judge_all().told)


def test_lines_that_say_the_same_at_other_times_are_right(world: World) -> None:
    LogLine.objects.filter(seq=2).update(message="line 1", at="2020-01-01T00:00:00Z")
    assert world.judge() == Verdict()
