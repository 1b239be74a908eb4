"""Whatever was undone, replayed and decided on before: a row is in the table, or open in quarantine, never both."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from connectors.modes import Refresh
from connectors.postgres.quarantined import Wanted
from connectors.quarantine import QuarantineRule
from tests.connectors.postgres.conftest import World
from tests.connectors.postgres.test_replay import again, source  # noqa: F401
from tests.connectors.postgres.test_undo import put_back  # noqa: F401

ON = QuarantineRule(is_on=True)
ALL = Wanted()
Rows = frozenset[int]


class Told:
    """What should be where: rows by the number that no other row ever has."""

    def __init__(self) -> None:
        self.table: Rows = frozenset()
        self.open: Rows = frozenset()
        self.kept: list[tuple[Rows, Rows]] = []
        self.last = 0

    def new(self, count: int) -> list[int]:
        self.last += count
        return list(range(self.last - count + 1, self.last + 1))

    def discard(self, rows: Rows) -> None:
        self.open -= rows
        self.kept = [(table, aside - rows) for table, aside in self.kept]


@pytest.mark.parametrize("leans", [False, True], ids=["by rename", "in place"])
@pytest.mark.parametrize("seed", [1, 2])
def test_no_chain_of_events_loses_or_doubles_a_row(
    world: World,
    admin: Any,
    again: Any,  # noqa: F811
    put_back: Any,  # noqa: F811
    seed: int,
    leans: bool,
) -> None:
    chance, told = random.Random(seed), Told()

    def load(*, is_full: bool) -> None:
        rows = told.new(3)
        bad = frozenset(chance.sample(rows, chance.choice([0, 1, 1, 2])))
        given = source(*((n, f"row{chr(0) if n in bad else ''}", n) for n in rows))
        refresh = Refresh.FULL if is_full else Refresh.NEW
        kind = "replace" if is_full else "append"
        world.move(disposition=kind, source=given, quarantine=ON, undo_depth=9, refresh=refresh)
        good = frozenset(rows) - bad
        if is_full:
            told.kept.insert(0, (told.table, told.open))
            told.table, told.open = good, bad
        else:
            told.table, told.open = told.table | good, told.open | bad

    def undo() -> None:
        place = chance.randrange(len(told.kept))
        put_back(place, depth=9)
        now = told.table, told.open
        told.table, told.open = told.kept.pop(place)
        told.kept.insert(0, now)

    def decide(what: str) -> None:
        chosen = frozenset(chance.sample(sorted(told.open), 1))
        admin.execute("SELECT id::text, raw FROM _datamantri.quarantine")
        (one,) = (id_ for id_, raw in admin.fetchall() if json.loads(raw)["id"] in map(str, chosen))
        if what == "replay":
            again("append", Wanted(ids=(one,)), undo_depth=9)
            told.table, told.open = told.table | chosen, told.open - chosen
        else:
            world.destination().discard_quarantined(world.pipeline, Wanted(ids=(one,)), by="me", note="")
            told.discard(chosen)

    load(is_full=True)
    told.kept.clear()  # there was nothing before
    if leans:
        admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    load(is_full=True)
    for event in chance.choices(["full", "append", "undo", "replay", "discard"], [2, 2, 5, 3, 1], k=12):
        if event in ("full", "append"):
            load(is_full=event == "full")
        elif event == "undo":
            undo()
        elif told.open:
            decide(event)
        admin.execute("SELECT id FROM flights ORDER BY 1")
        assert [n for (n,) in admin.fetchall()] == sorted(told.table), event
        admin.execute("SELECT raw FROM _datamantri.quarantine WHERE state = 'open'")
        assert {int(json.loads(raw)["id"]) for (raw,) in admin.fetchall()} == told.open, event
