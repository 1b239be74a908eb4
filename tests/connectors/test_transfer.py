"""The parts of the engine that need no server."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from connectors.base import Changes, Column, Target, WriteDisposition
from connectors.definition import refuse_changed
from connectors.errors import ConnectorError
from connectors.receipt import Receipt


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


COLUMN = Column("price", "NUMERIC", precision=10, scale=2, required=True, max_length=5, description="what it costs")


@pytest.mark.parametrize(
    "harmless",
    [{"required": False}, {"description": ""}, {"name": "PRICE"}, {"max_length": 9}],
)
def test_what_does_not_change_how_a_column_is_stored_is_no_change(harmless):
    refuse_changed((COLUMN,), (Column("new", "STRING"), replace(COLUMN, **harmless)))


@pytest.mark.parametrize("retyped", [{"type": "STRING"}, {"repeated": True}, {"precision": 12}, {"scale": 3}])
def test_a_retyped_column_is_named(retyped):
    with pytest.raises(ConnectorError) as refused:
        refuse_changed((COLUMN,), (replace(COLUMN, **retyped),))
    assert (refused.value.code, refused.value.field) == ("column_retyped", "price")


def test_a_field_of_a_struct_counts():
    struct = Column("place", "STRUCT", columns=(Column("x", "INT64"), Column("y", "INT64")))
    with pytest.raises(ConnectorError, match="place"):
        refuse_changed((struct,), (replace(struct, columns=(Column("x", "INT64"), Column("y", "STRING"))),))


def test_a_dropped_column_is_named():
    with pytest.raises(ConnectorError) as refused:
        refuse_changed((COLUMN,), (Column("cost", "NUMERIC"),))
    assert (refused.value.code, refused.value.field) == ("column_missing", "price")
