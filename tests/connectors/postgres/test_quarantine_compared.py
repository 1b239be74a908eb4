"""A quarantined row is explained by a comparison, and no difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from connectors import comparing
from connectors.base import NeverStop
from connectors.modes import WriteDisposition, WriteMode
from connectors.postgres.quarantined import Wanted
from connectors.quarantine import QuarantineRule
from connectors.reading import ReadRequest
from tests.connectors.memory import MemorySource

ON = QuarantineRule(is_on=True)
BAD = pa.record_batch({"id": pa.array([1, 2, 3, 4]), "name": pa.array(["a", "b\0", "c", "d\0"])})


@pytest.fixture
def compare(world: Any) -> Callable[..., comparing.Comparison]:
    def run(kind: str, *key: str, source: Any = BAD) -> comparing.Comparison:
        destination = world.destination()
        published = destination.published(world.target)
        mode = WriteMode(WriteDisposition(kind), key)
        request = comparing.ComparisonRequest(ReadRequest(table="a.b.c"), world.target, mode)
        return comparing.compare(
            MemorySource([source]), destination, request, published, log=lambda *_: None, stop=NeverStop()
        )

    return run


@pytest.mark.parametrize("kind", ["merge", "replace"])
def test_by_key_the_target_is_equal_but_for_the_quarantine(world, compare, kind):
    world.move(disposition=kind, source=MemorySource([BAD]), key=("id",), quarantine=ON)
    found = compare(kind, "id")
    assert (found.findings()[0].code, found.findings()[0].is_good) == ("equal_but_quarantined", True)
    assert (found.keys.quarantined, found.keys.only_source, found.to_json()["quarantined"]) == (2, 0, 2)


def test_what_else_differs_is_still_told(world, compare, admin):
    world.move(disposition="merge", source=MemorySource([BAD]), quarantine=ON)
    admin.execute("DELETE FROM flights WHERE id = 3")
    found = compare("merge", "id")
    assert found.findings()[0].is_good is False
    assert (found.keys.quarantined, found.keys.only_source) == (2, 1)


def test_without_a_key_the_number_of_rows_is_explained(world, compare, admin):
    world.move(source=MemorySource([BAD]), quarantine=ON)
    assert [(one.code, one.is_good) for one in compare("replace").findings()[:1]] == [("quarantined", None)]
    admin.execute("DELETE FROM flights WHERE id = 3")
    assert compare("replace").findings()[0].is_good is False


def test_discarded_rows_are_explained_too_until_another_run_writes_the_table_anew(world, compare):
    world.move(source=MemorySource([BAD]), key=("id",), quarantine=ON)
    world.destination().discard_quarantined(world.pipeline, Wanted(), by="anna", note="")
    assert compare("replace", "id").put_aside.rows == 2
    world.move(source=MemorySource([BAD]), key=("id",), quarantine=ON)
    assert compare("replace", "id").put_aside.rows == 2


def test_before_there_was_a_quarantine_nothing_is_put_aside(world, compare, admin):
    world.move([1, 2])
    admin.execute("DROP TABLE _datamantri.quarantine")
    assert compare("replace").put_aside.rows == 0
