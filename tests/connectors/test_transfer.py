"""The parts of the engine that need no server."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from connectors import staged
from connectors.column import Column
from connectors.drift import differences, widens
from connectors.modes import WriteDisposition
from connectors.reading import ReadPlan
from connectors.receipt import Receipt
from connectors.target_columns import Known, Memory
from connectors.writing import Changes, Target


def test_a_receipt_comes_back_from_json_as_it_was():
    receipt = Receipt(
        rows=3,
        bytes=77,
        method="rename",
        target=Target("public", "flights"),
        disposition=WriteDisposition.REPLACE,
        token=7,
        snapshot_time=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        published_at=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
        changes=Changes(inserted=1, updated=2, stale=1),
        repaired={"name": 2},
        lock_wait_ms=1.5,
        lock_held_ms=2.5,
        source={"session": "projects/p/sessions/s"},
        seconds={"plan": 0.1, "load": 2.0},
    )
    assert Receipt.from_json(json.loads(json.dumps(receipt.to_json()))) == receipt


@pytest.mark.parametrize(
    ("rows", "size", "is_large"),
    [
        (1, 2 << 30, True),
        (10**12, (2 << 30) - 1, False),  # its size counts, where it is known
        (20_000_000, None, True),
        (19_999_999, None, False),
        (None, None, False),
    ],
)
def test_how_large_a_read_is_worth_dividing(rows, size, is_large):
    plan = ReadPlan((), (), datetime(2026, 1, 2, tzinfo=UTC), estimated_rows=rows, estimated_bytes=size)
    assert staged.is_large(plan) is is_large


COLUMN = Column("price", "NUMERIC", precision=10, scale=2, required=True, max_length=5, description="what it costs")


@pytest.mark.parametrize(
    "harmless",
    [{"required": False}, {"description": ""}, {"name": "PRICE"}, {"max_length": 9}],
)
def test_what_does_not_change_how_a_column_is_stored_is_no_change(harmless):
    assert not list(differences((COLUMN,), (replace(COLUMN, **harmless),)))


@pytest.mark.parametrize("retyped", [{"type": "STRING"}, {"repeated": True}, {"precision": 12}, {"scale": 3}])
def test_a_retyped_column_is_named(retyped):
    (change,) = differences((COLUMN,), (replace(COLUMN, **retyped),))
    assert str(change).startswith("~ price NUMERIC(10, 2) → ")


def test_fields_of_a_struct_are_told_one_by_one():
    struct = Column("place", "STRUCT", columns=(Column("x", "INT64"), Column("y", "INT64")))
    later = replace(struct, columns=(Column("Y", "STRING"), Column("z", "DATE")))
    assert list(map(str, differences((struct,), (later,)))) == [
        "- place.x INT64",
        "~ place.y INT64 → STRING",
        "+ place.z DATE",
    ]


def test_what_the_head_remembers_comes_back_from_json_as_it_was():
    struct = Column("place", "STRUCT", repeated=True, columns=(Column("x", "NUMERIC", precision=4),))
    memory = Memory("of this", (Known(COLUMN, "price", "numeric(10,2)"), Known(struct, "p", "jsonb", True)), ("new",))
    assert Memory.from_json(json.loads(json.dumps(memory.to_json()))) == memory


@pytest.mark.parametrize(
    ("before", "after", "may"),
    [
        ({"type": "INT64"}, {"type": "NUMERIC"}, True),
        ({"type": "INT64"}, {"type": "FLOAT64"}, True),
        ({"type": "NUMERIC"}, {"type": "BIGNUMERIC"}, True),
        ({"type": "NUMERIC", "precision": 10, "scale": 2}, {"type": "NUMERIC", "precision": 12, "scale": 4}, True),
        ({"type": "NUMERIC", "precision": 10, "scale": 2}, {"type": "NUMERIC", "precision": 11, "scale": 4}, False),
        ({"type": "NUMERIC", "precision": 10, "scale": 2}, {"type": "NUMERIC"}, True),
        ({"type": "NUMERIC"}, {"type": "NUMERIC", "precision": 30}, False),
        ({"type": "BIGNUMERIC"}, {"type": "NUMERIC"}, False),
        ({"type": "INT64"}, {"type": "NUMERIC", "precision": 5}, False),
        ({"type": "INT64"}, {"type": "STRING"}, False),
    ],
)
def test_a_column_widens_as_bigquery_lets_it(before, after, may):
    assert widens(Column("a", **before), Column("a", **after)) is may
