"""Checks that are about the target to come: they must say exactly what it will hold, no more and no less."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.checks import Check, CheckKind, Severity
from connectors.cursor import CursorRead, Span
from connectors.modes import Deletes
from tests.connectors.memory import MemorySource, batch
from tests.connectors.postgres.conftest import World
from tests.connectors.postgres.test_checks import NOW, rows

Row = tuple[Any, ...]


def unique(*columns: str) -> Check:
    return Check(CheckKind.UNIQUE, "unique", columns, Severity.WARN)


def bad_of(world: World, check: Check, source: MemorySource, disposition: str, **request: Any) -> int:
    """Publish with a check that only warns; gives what it counted."""
    world.move((), disposition, source=source, checks=(check,), **request)
    (result,) = world.recorder.results
    assert result.value is not None, result.message
    return int(result.value)


def in_target(admin: Any, column: str) -> int:
    """How many rows of the target share their value of a column with another, by the target itself."""
    admin.execute(
        f"SELECT coalesce(sum(n), 0) FROM (SELECT count(*) AS n FROM flights WHERE {column} IS NOT NULL"
        f" GROUP BY {column} HAVING count(*) > 1) AS shared"
    )
    return int(admin.fetchone()[0])


def test_unique_of_an_append_is_unique_among_what_is_there_as_well(world, admin):
    world.move((), "append", source=rows((1, "a"), (2, "b")))
    assert bad_of(world, unique("name"), rows((3, "c"), (4, None), (5, None)), "append") == 0
    assert bad_of(world, unique("name"), rows((6, "b"), (7, "d"), (8, "d")), "append") == 3
    (result,) = world.recorder.results
    assert sorted(row[0] for row in result.sample.rows) == ["b", "d", "d"]
    assert in_target(admin, "name") == 4, "both of b, both of d"


@pytest.mark.parametrize(
    ("staged", "cursor", "found"),
    [
        ([(1, "z")], "", 0),  # takes the place of its own row
        ([(1, "b")], "", 1),  # as that of row 2, which stays
        ([(1, "b"), (2, "a")], "", 0),  # they change places
        ([(2, "a")], "", 1),
        ([(4, "x"), (4, "y")], "", 0),  # one of a key comes
        ([(4, "x"), (5, "x")], "", 2),
        ([(1, "b", None, NOW.replace(year=2020))], "at", 0),  # older than what is there: it does not come
        ([(1, "z", None, NOW.replace(year=2020)), (2, "a", None, NOW.replace(year=2030))], "at", 1),
        ([(4, "b", None, NOW), (4, "q", None, NOW.replace(year=2030))], "at", 0),  # the newer one of the key comes
    ],
)
def test_unique_of_a_merge_is_about_what_it_will_leave(
    world: World, admin: Any, staged: list[Row], cursor: str, found: int
) -> None:
    world.move((), "merge", source=rows((1, "a", None, NOW), (2, "b", None, NOW), (3, "c", None, NOW)), cursor=cursor)
    assert bad_of(world, unique("name"), rows(*staged), "merge", cursor=cursor) == found
    assert bool(in_target(admin, "name")) is bool(found), "the target agrees"


def test_unique_on_the_key_of_a_merge_always_passes(world):
    assert bad_of(world, unique("id"), rows((1, "a"), (1, "b")), "merge") == 0
    assert bad_of(world, unique("ID"), rows((1, "a"), (1, "b")), "merge") == 0


def test_unique_in_a_backfill_leaves_out_the_range_that_is_loaded_again(world, admin):
    world.move((), "append", source=rows((1, "a"), (2, "b"), (3, "c")))
    span = CursorRead("id", span=Span("id", "2", "4"))
    assert bad_of(world, unique("name"), rows((2, "b"), (3, "a")), "append", read=span) == 1
    assert in_target(admin, "name") == 2


@pytest.mark.parametrize("is_in_place", [False, True], ids=["by rename", "in place"])
def test_unique_of_a_replace_is_about_the_new_rows_alone(world, admin, is_in_place):
    world.move((), source=rows((1, "a"), (2, "b")))
    if is_in_place:
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    assert bad_of(world, unique("name"), rows((5, "a"), (6, "b")), "replace") == 0
    assert bad_of(world, unique("name"), rows((5, "a"), (6, "a")), "replace") == 2


def test_a_target_with_a_collation_of_its_own_is_compared_by_that(world, admin):
    """PostgreSQL refuses to compare texts of two collations unless it is told which one counts."""
    admin.execute('CREATE TABLE flights (id bigint, name text COLLATE "C"); ALTER TABLE flights OWNER TO loader')
    world.move(source=MemorySource([batch([1])]), disposition="append", adopt=True)
    admin.execute("UPDATE flights SET name = 'row 2'")
    assert bad_of(world, unique("name"), MemorySource([batch([2])]), "append") == 1


PARENTS = Check(CheckKind.RELATION, "p", ("amount",), Severity.WARN, table="flights", table_columns=("id",))


@pytest.mark.parametrize(("how", "found"), [("append", 1), ("merge", 1), ("replace", 2)])
def test_a_relation_to_the_table_itself_finds_what_comes_and_what_stays(world, how, found):
    world.move(
        (),
        how,
        source=rows(
            (1, "root"),
        ),
    )
    assert bad_of(world, PARENTS, rows((2, "child", 1), (3, "grandchild", 2), (4, "orphan", 9)), how) == found


def test_a_batch_without_new_rows_passes_while_the_target_has_some(world):
    fresh = Check(CheckKind.FRESHNESS, "fresh", ("at",), Severity.WARN, max_age_s=86400)
    old = NOW.replace(year=2020)
    for disposition in ("append", "merge"):
        world.move((), "replace", source=rows((1, "new", None, NOW)))
        assert bad_of(world, fresh, rows((2, "late", None, old)), disposition) < 86400
        world.move((), "replace", source=rows((1, "old", None, old)))
        assert bad_of(world, fresh, rows((2, "late", None, old)), disposition) > 86400


@pytest.mark.parametrize(
    ("disposition", "mode", "found"),
    [
        ("merge", {"deletes": Deletes.KEEP, "sees_all": True}, 1),
        ("merge", {"deletes": Deletes.SOFT, "sees_all": True}, 1),  # it is marked, and there
        ("merge", {"deletes": Deletes.HARD, "sees_all": True}, 0),
        ("merge", {"deletes": Deletes.HARD, "sees_all": False}, 1),
        ("history", {"sees_all": True}, 0),
        ("history", {"sees_all": False}, 1),
    ],
)
def test_rows_that_go_with_the_publish_are_in_nobodys_way(
    world: World, disposition: str, mode: dict[str, Any], found: int
) -> None:
    key = {"key": ("id",), "mode": mode}
    world.move((), disposition, source=rows((1, "a"), (2, "b")), **key)
    assert bad_of(world, unique("name"), rows((3, "b")), disposition, **key) == found


def test_versions_of_the_past_are_in_nobodys_way(world):
    key = {"key": ("id",), "mode": {"sees_all": False}}
    world.move((), "history", source=rows((1, "a")), **key)
    world.move((), "history", source=rows((1, "b")), **key)
    assert bad_of(world, unique("name"), rows((2, "a")), "history", **key) == 0
    assert bad_of(world, unique("name"), rows((3, "b")), "history", **key) == 1


@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_a_column_that_the_target_is_about_to_get_is_checked_as_well(world, admin, disposition):
    """It is added under the lock of the publish, after the checks: of the rows that are there it is NULL."""
    world.move([1], disposition)
    assert bad_of(world, unique("amount"), rows((2, "b", 1), (3, "c", 2)), disposition) == 0
    assert bad_of(world, unique("at"), rows((4, "d", 3, NOW), (5, "e", 4, NOW)), disposition) == 2
    assert in_target(admin, "amount") == 0
