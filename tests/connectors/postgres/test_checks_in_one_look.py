"""Most checks come of one look at the staged rows: it says what each alone would, of what is to be published."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from connectors import transfer
from connectors.checks import Check, CheckKind, Severity, Status
from connectors.column import Column
from connectors.errors import Held, NewGeneration
from connectors.postgres.auditing import judging, one_look
from connectors.postgres.auditing.one_look import statement
from connectors.quarantine import QuarantineRule
from connectors.target_options import TargetOptions
from connectors.writing import Fence
from tests.connectors.memory import MemorySource, PartedSource
from tests.connectors.postgres.conftest import World
from tests.connectors.postgres.test_checks import NOW, rows, warn
from tests.connectors.postgres.test_staged import StagedRun, parts_of


@dataclass
class CheckedRun(StagedRun):
    """A run in parts, with checks; all parts are loaded before it is published."""

    checks: tuple[Check, ...] = ()
    quarantine: QuarantineRule = field(default_factory=QuarantineRule)
    form: TargetOptions = field(default_factory=TargetOptions)

    def request(self, fence: Fence) -> transfer.TransferRequest:
        asked = super().request(fence)
        return replace(
            asked, checks=self.checks, quarantine=self.quarantine, mode=replace(asked.mode, options=self.form)
        )

    def load_all(self) -> None:
        for part in range(len(self.plan().parts)):
            self.load(part)


def parted(source: MemorySource) -> PartedSource:
    return PartedSource([source.batches], source.columns)


def in_parts(world: World, checks: tuple[Check, ...], source: MemorySource, how: str = "replace", **more: Any) -> list:
    """What each check of a load in parts came to."""
    world.recorder.results = ()
    run = CheckedRun(world, parted(source), how, checks=checks, **more)
    run.load_all()
    run.publish()
    return [(result.status, result.value) for result in world.recorder.results]


GOOD = (Status.PASSED, 0)
TOGETHER = (
    warn(CheckKind.NOT_NULL, "amount", name="given"),
    warn(CheckKind.UNIQUE, "id", name="id"),
    warn(CheckKind.UNIQUE, "name", name="name"),
    warn(CheckKind.UNIQUE, "name", "amount", name="both"),
    warn(CheckKind.REGEX, "name", name="words", pattern="^[a-z]+$"),
    warn(CheckKind.FRESHNESS, "at", name="fresh", max_age_s=3600),
    warn(CheckKind.ROW_COUNT, name="rows", minimum="5"),
)
ROWS = rows((1, "a", 1, NOW), (2, "a", 1, NOW), (3, "B", None), (4, "B", None), (5, "c", 2))
FOUND = [(Status.FAILED, 2), GOOD, (Status.FAILED, 4), (Status.FAILED, 2), (Status.FAILED, 2)]


@pytest.fixture(params=["as usual", "by several processes"])
def divided(request: pytest.FixtureRequest, world: World, admin: Any) -> Iterator[bool]:
    """Whether PostgreSQL divides every statement that it can among processes."""
    of = f"ALTER ROLE loader IN DATABASE {world.options.dbname}"
    is_divided = request.param == "by several processes"
    if is_divided:
        admin.execute(f"{of} SET parallel_setup_cost = 0; {of} SET min_parallel_table_scan_size = 0")
    yield is_divided
    admin.execute(f"{of} RESET ALL")


@pytest.mark.parametrize("way", ["in one go", "in parts"])
def test_what_checks_find_together_is_what_they_find_alone(world, divided, way):
    if way == "in parts":
        found = in_parts(world, TOGETHER, ROWS)
    else:
        world.move((), source=ROWS, checks=TOGETHER)
        found = [(result.status, result.value) for result in world.recorder.results]
    assert found[:5] == FOUND
    assert found[5][0] is Status.PASSED
    assert found[6] == (Status.PASSED, 5)
    together = world.recorder.results
    for check, told in zip(TOGETHER[:5], together, strict=False):
        world.move((), source=ROWS, checks=(check,))
        (alone,) = world.recorder.results
        assert (alone.status, alone.value, alone.message) == (told.status, told.value, told.message)
        assert sorted(alone.sample.rows if alone.sample else ()) == sorted(told.sample.rows if told.sample else ())


def test_a_large_look_is_divided_and_sorting_is_a_branch_of_its_own(world, divided, connect):
    run = CheckedRun(world, PartedSource(parts_of(1)))
    run.load_all()
    asked = (Check(CheckKind.UNIQUE, "u", ("id",)), Check(CheckKind.NOT_NULL, "n", ("name",)))
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relname LIKE '\\_datamantri\\_new%'")
        staged = replace(world.target, table=cursor.fetchone()[0])
        setting, look = statement(staged, run.source.columns, asked).as_string(connection).split("; ", 1)
        cursor.execute(f"{setting}; EXPLAIN {look}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
        cursor.execute(look)
        assert cursor.fetchone() == (3000, 0, 0)
    assert ("Parallel Append" in plan) is divided


def test_rows_in_parts_are_looked_at_once(world, monkeypatch):
    """Neither counting them nor a check that passes reads them again."""
    taken = []
    monkeypatch.setattr(judging, "take", lambda *args, **options: taken.append(args) or one_look.take(*args, **options))
    good = (warn(CheckKind.RANGE, "amount", name="a", maximum="5"), warn(CheckKind.UNIQUE, "id", name="b"))
    assert in_parts(world, good, ROWS) == [GOOD, GOOD]
    assert taken == []
    world.move((), source=ROWS, checks=good)
    assert len(taken) == 1


def test_what_a_look_found_before_rows_went_into_quarantine_is_not_taken_for_what_is_published(world, ids):
    aside = Check(CheckKind.RANGE, "aside", ("id",), Severity.QUARANTINE, maximum="3")
    source = rows((1, "a"), (2, "b"), (3, "c", 1), (4, "a", 1), (5, "", 1))
    stay = (
        Check(CheckKind.UNIQUE, "name", ("name",)),
        Check(CheckKind.UNIQUE, "amount", ("amount",)),
        Check(CheckKind.REGEX, "words", ("name",), pattern="."),
    )
    assert in_parts(world, (*stay, aside), source, quarantine=QuarantineRule(is_on=True)) == [
        (Status.FAILED, 2),
        *[GOOD] * 3,
    ]
    assert ids() == [1, 2, 3]


def test_a_row_that_went_into_quarantine_leaves_what_is_bad_beside_it(world, ids):
    aside = Check(CheckKind.RANGE, "aside", ("id",), Severity.QUARANTINE, maximum="4")
    run = CheckedRun(
        world,
        parted(rows((1, "a"), (2, "a"), (5, "a"))),
        checks=(aside, Check(CheckKind.UNIQUE, "name", ("name",))),
        quarantine=QuarantineRule(is_on=True),
    )
    run.load_all()
    with pytest.raises(Held, match="2 rows of 2 share their name"):
        run.publish()
    assert ids() is None


@pytest.mark.parametrize("spoils", [{"pattern": "("}, {"kind": CheckKind.NOT_NULL, "columns": ("gone",)}])
def test_a_check_that_spoils_the_look_leaves_rows_counted_and_others_judged(world, ids, spoils):
    spoilt = replace(warn(CheckKind.REGEX, "name", name="spoilt", pattern="."), **spoils)
    found = in_parts(world, (spoilt, *TOGETHER), ROWS)
    assert found[0] == (Status.UNKNOWN, None)
    assert found[1:6] == FOUND
    assert ids() == [1, 2, 3, 4, 5]


def test_rows_that_were_lost_are_missed_whether_or_not_they_are_checked(world, admin):
    run = CheckedRun(world, PartedSource(parts_of(1)), checks=(warn(CheckKind.NOT_NULL, "id"),))
    run.load_all()
    admin.execute("SELECT relname FROM pg_class WHERE relname LIKE '\\_datamantri\\_new%'")
    admin.execute(f"DELETE FROM {admin.fetchone()[0]} WHERE id = 7")
    with pytest.raises(NewGeneration, match="no longer there"):
        run.publish()


def test_hashes_that_are_alike_by_chance_make_no_rows_alike(world, monkeypatch):
    monkeypatch.setattr(one_look, "doubles", lambda check, columns: one_look.sql.SQL("count(*)"))
    both = warn(CheckKind.UNIQUE, "id", "name")
    assert in_parts(world, (both, warn(CheckKind.NOT_NULL, "id", name="n")), ROWS) == [GOOD, GOOD]
    world.move((), source=ROWS, checks=(both,))
    assert world.recorder.results[0].status is Status.PASSED


def test_freshness_is_that_of_the_moment_it_is_judged_and_not_of_the_look(world, monkeypatch):
    fresh = warn(CheckKind.FRESHNESS, "at", max_age_s=86400)
    run = CheckedRun(world, parted(rows((1, "a", None, NOW))), checks=(fresh,))
    run.load_all()

    def an_hour_later(point: str) -> None:
        if point == "check.end":
            monkeypatch.setattr(judging, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 3600))

    run.publish(crash=an_hour_later)
    (result,) = world.recorder.results
    assert result.value == pytest.approx(time.time() + 3600 - NOW.timestamp(), abs=60)


EVERY_KIND = {
    "INT64": pa.array([1, 2, 2]),
    "STRING": pa.array(["a", "b", "b"]),
    "FLOAT64": pa.array([0.0, 1.0, 1.0]),
    "BOOL": pa.array([True, False, False]),
    "BYTES": pa.array([b"a", b"b", b"b"], pa.binary()),
    "DATE": pa.array([1, 2, 2], pa.int32()).cast(pa.date32()),
    "TIME": pa.array([1, 2, 2], pa.int64()).cast(pa.time64("us")),
    "DATETIME": pa.array([1, 2, 2], pa.int64()).cast(pa.timestamp("us")),
    "TIMESTAMP": pa.array([1, 2, 2], pa.int64()).cast(pa.timestamp("us", "UTC")),
    "NUMERIC": pa.array([1, 2, 2]).cast(pa.decimal128(38, 9)),
}


def test_several_columns_of_any_kind_tell_rows_apart(world):
    source = MemorySource(
        [pa.record_batch([pa.array([1, 2, 2]), *EVERY_KIND.values()], ["id", *map(str.lower, EVERY_KIND)])],
        (Column("id", "INT64"), *(Column(kind.lower(), kind) for kind in EVERY_KIND)),
    )
    each = tuple(warn(CheckKind.UNIQUE, "id", kind.lower(), name=kind) for kind in EVERY_KIND)
    assert in_parts(world, each, source) == [(Status.FAILED, 2)] * len(EVERY_KIND)
    assert {result.seconds > 0 for result in world.recorder.results} == {True}


@pytest.mark.parametrize("way", ["in one go", "in parts"])
def test_an_append_is_unique_among_itself_and_beside_what_is_there(world, divided, way):
    world.move((), "append", source=rows((1, "a"), (2, "b")))
    unique = warn(CheckKind.UNIQUE, "name"), warn(CheckKind.UNIQUE, "id", "name", name="both")
    for source, found in (
        (rows((3, "c"), (4, None), (5, None)), (0, 0)),
        (rows((6, "b"), (7, "d"), (8, "d")), (3, 0)),
        (rows((9, "e"), (9, "e"), (1, "a")), (3, 3)),
    ):
        if way == "in parts":
            told = [value for _, value in in_parts(world, unique, source, "append")]
        else:
            world.move((), "append", source=source, checks=unique)
            told = [result.value for result in world.recorder.results]
        assert tuple(told) == found


def test_an_index_that_is_to_be_made_tells_more_than_a_look(world, monkeypatch):
    """It is made before the checks, and refuses what it is not unique in."""
    unique = (warn(CheckKind.UNIQUE, "ID"), warn(CheckKind.RANGE, "amount", name="n", maximum="5"))
    seen = []
    real = one_look.statement
    monkeypatch.setattr(
        one_look, "statement", lambda *args, **options: seen.append(len(args[2])) or real(*args, **options)
    )
    form = TargetOptions(primary_key=("id",))
    assert in_parts(world, unique, ROWS, form=form) == [GOOD, GOOD]
    assert seen == [1]


@pytest.mark.parametrize("how", ["append", "merge"])
def test_values_that_come_are_joined_with_those_that_stay(world, monkeypatch, how):
    """Searching what stays for each value by itself takes hours where a join takes a second."""
    plans = []
    answer = judging._Judges._row

    def row(self: Any, query: Any) -> Any:
        text = query.as_string(self._session.connection)
        if not text.startswith("SET"):
            plans.append("\n".join(line for (line,) in self._session.execute(f"EXPLAIN {text}").fetchall()))
        return answer(self, query)

    world.move((), how, source=rows((1, "a"), (2, "b")))
    monkeypatch.setattr(judging._Judges, "_row", row)
    world.move((), how, source=rows((3, "b"), (4, "c")), checks=(warn(CheckKind.UNIQUE, "name"),))
    assert [result.value for result in world.recorder.results] == [1]
    assert [plan for plan in plans if "SubPlan" in plan or "Join" not in plan] == []
    assert len(plans) == (2 if how == "append" else 1)
