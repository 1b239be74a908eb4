"""What a publish does beside its rows, in the ways that other tests leave out: in parts, approved later, a history."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pytest

from connectors import undo
from connectors.base import NeverStop
from connectors.checks import Check, CheckKind, Severity
from connectors.column import Column
from connectors.column_rules import ColumnRule
from connectors.errors import Held
from connectors.modes import Deletes, Guard
from connectors.quarantine import QuarantineRule
from connectors.receipt import Receipt
from connectors.request import TransferRequest
from connectors.sql_around import SqlAround
from connectors.writing import Fence
from tests.connectors.memory import ID_NAME, MemorySource, PartedSource
from tests.connectors.postgres.conftest import ROLE, World
from tests.connectors.postgres.test_staged import StagedRun

Row = tuple[int | None, str]
ON = QuarantineRule(is_on=True)
# A row that fails it is put aside; one that fails the other keeps the run from being published.
KNOWN = Check(CheckKind.ACCEPTED, "known", ("name",), Severity.QUARANTINE, values=("a", "b", "c", "d"))
ONE_ROW = Check(CheckKind.RANGE, "one", ("id",), maximum="1")


def batch(*rows: Row) -> pa.RecordBatch:
    ids, names = zip(*rows, strict=True)
    return pa.record_batch({"id": pa.array(ids, pa.int64()), "name": pa.array(names, pa.string())})


@dataclass
class Parts(StagedRun):
    mode: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def request(self, fence: Fence) -> TransferRequest:
        asked = super().request(fence)
        key = ("id",) if self.disposition in ("merge", "history") else ()
        return replace(asked, mode=replace(asked.mode, key=key, **self.mode), **self.more)


def load(
    world: World, way: str, batches: Sequence[pa.RecordBatch], columns: Sequence[Column] = ID_NAME, **more: Any
) -> Receipt:
    """Load the batches by `way`, such as "merge" or "merge in parts" or "merge approved later"."""
    disposition, _, how = way.partition(" ")
    mode = more.pop("mode", {})
    if how == "in parts":
        run = Parts(world, PartedSource([[each] for each in batches], columns), disposition, mode=mode, more=more)
        for part in run.plan().parts:
            run.load(int(part.id))
        return run.publish()
    options = {
        "disposition": disposition,
        "key": ("id",) if disposition in ("merge", "history") else (),
        "source": MemorySource(batches, columns),
        "mode": mode,
    }
    if how == "":
        return world.move(**options, **more)
    held = uuid.uuid4()
    with pytest.raises(Held):
        world.move(**options, run=held, **{"checks": (ONE_ROW,), **more})
    return world.publish_held(held, **{name: more[name] for name in more.keys() & {"sql", "quarantine"}})


# Rows that are put aside ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "deletes", "bad"),
    [
        ("history", Deletes.KEEP, (2, "b\0")),
        ("history in parts", Deletes.KEEP, (None, "b")),
        ("history approved later", Deletes.KEEP, (2, "unknown")),
        ("merge in parts", Deletes.HARD, (2, "unknown")),
        ("merge in parts", Deletes.SOFT, (None, "unknown")),
        ("merge approved later", Deletes.SOFT, (2, "b\0")),
    ],
)
def test_the_key_of_a_row_that_is_put_aside_is_not_gone(
    world: World, admin: Any, way: str, deletes: Deletes, bad: Row
) -> None:
    mode = {"sees_all": True, "deletes": deletes}
    load(world, way.split()[0], [batch((1, "a"), (2, "b"), (3, "c"), (4, "d"))], mode=mode, quarantine=ON)
    more = {"checks": (KNOWN,)} if bad[1] == "unknown" else {}
    if way.endswith("approved later"):
        more["guard"] = Guard(shrink_percent=1)
        more.setdefault("checks", ())
    done = load(world, way, [batch((1, "a")), batch(bad), batch((4, "d"))], mode=mode, quarantine=ON, **more)
    assert sum(done.quarantined.values()) == 1
    there = {"history": "_is_current", Deletes.SOFT: "_deleted_at IS NULL"}
    admin.execute(
        "SELECT array_agg(id ORDER BY id) FROM flights"
        f" WHERE {there.get(way.split()[0]) or there.get(deletes) or 'true'}"
    )
    # Without a legible key nobody can say which rows are gone: none is taken for it.
    assert admin.fetchone()[0] == ([1, 2, 3, 4] if bad[0] is None else [1, 2, 4])


# Columns that become wider --------------------------------------------------------------------

PRICE = Column("price", "NUMERIC", precision=10, scale=2)
WIDENED = {
    "numeric(10,2)": (PRICE, {}),
    "numeric(12,2)": (replace(PRICE, precision=12), {}),
    "character varying(5)": (ID_NAME[1], {"name": ColumnRule(type="varchar(5)")}),
    "character varying(9)": (ID_NAME[1], {"name": ColumnRule(type="varchar(9)")}),
    "text": (ID_NAME[1], {"name": ColumnRule(type="text")}),
}


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def before_commit(point: str) -> None:
    if point == "publish.before_commit":
        raise Killed


@pytest.mark.parametrize(
    ("way", "before", "after"),
    [
        ("append", "character varying(5)", "character varying(9)"),
        ("merge", "character varying(5)", "text"),
        ("replace", "numeric(10,2)", "numeric(12,2)"),
        ("history", "numeric(10,2)", "numeric(12,2)"),
        ("merge in parts", "character varying(5)", "character varying(9)"),
        ("merge approved later", "numeric(10,2)", "numeric(12,2)"),
    ],
)
def test_a_wider_type_is_a_matter_of_the_catalog_whatever_the_way(
    world: World, admin: Any, way: str, before: str, after: str
) -> None:
    def rows(*ids: int) -> list[pa.RecordBatch]:
        price = pa.array([7] * len(ids)).cast(pa.decimal128(38, 9))
        texts = pa.array(["abc"] * len(ids))
        return [pa.record_batch({"id": ids, column.name: price if column.name == "price" else texts})]

    def target() -> tuple[Any, ...]:
        admin.execute(
            "SELECT format_type(atttypid, atttypmod), pg_relation_filenode('flights'), (SELECT count(*) FROM flights)"
            " FROM pg_attribute WHERE attrelid = 'flights'::regclass AND attname = %s",
            (column.name,),
        )
        return tuple(admin.fetchone())

    column, rules = WIDENED[before]
    load(world, way.split()[0], rows(1), (ID_NAME[0], column), rules=rules)
    if way == "replace":
        admin.execute("CREATE VIEW late AS SELECT id FROM flights")  # so that it is changed in place
    found = target()
    assert found[0] == before
    column, rules = WIDENED[after]
    if way in ("append", "merge"):
        with pytest.raises(Killed):
            load(world, way, rows(2), (ID_NAME[0], column), rules=rules, crash=before_commit)
        assert target() == found
    load(world, way, rows(2) if way == "append" else rows(1, 2), (ID_NAME[0], column), rules=rules)
    assert target() == (after, found[1], 2)


# Former states, and SQL around ----------------------------------------------------------------


@pytest.mark.parametrize("in_place", [False, True])
def test_a_replace_in_parts_keeps_the_former_rows_and_an_undo_puts_them_back(
    world: World, admin: Any, ids: Any, in_place: bool
) -> None:
    world.move([1, 2, 3], undo_depth=1)
    if in_place:
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    done = load(world, "replace in parts", [batch((9, "a")), batch((8, "b"))], mode={"undo_depth": 1})
    assert (ids(), done.method, done.kept["tables"]) == ([8, 9], "in_place" if in_place else "rename", 1)
    destination = world.destination()
    (state,) = destination.former_states(world.pipeline)
    request = undo.UndoRequest(world.target, state.run, state.last_run, 1)
    undo.undo(destination, world.fence(destination), request, reporter=world.recorder, stop=NeverStop())
    assert ids() == [1, 2, 3]


@pytest.mark.parametrize(
    "way", ["history", "history in parts", "merge in parts", "append in parts", "merge approved later"]
)
def test_sql_runs_once_right_before_and_after_the_rows_come(world: World, admin: Any, way: str) -> None:
    admin.execute(f"CREATE TABLE notes (word text, rows bigint); GRANT ALL ON notes TO {ROLE}")
    load(world, way.split()[0], [batch((1, "a"))])
    before, after = (f"INSERT INTO notes SELECT '{word}', count(*) FROM flights" for word in ("before", "after"))
    again = [] if way.startswith("append") else [batch((1, "a"))]
    load(world, way, [*again, batch((2, "b")), batch((3, "c"))], sql=SqlAround((before,), (after,)))
    admin.execute("SELECT word, rows FROM notes ORDER BY ctid")
    assert admin.fetchall() == [("before", 1), ("after", 3)]
