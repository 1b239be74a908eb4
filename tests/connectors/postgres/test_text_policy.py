"""What a run does with characters that PostgreSQL cannot store, and that it says so."""

from __future__ import annotations

import pyarrow as pa
import pytest

from connectors.errors import ConnectorError
from connectors.modes import TextPolicy
from tests.connectors.memory import MemorySource


def source() -> MemorySource:
    names = pa.array(["plain", "n\0ul", "two\0\0"], pa.string())
    return MemorySource([pa.record_batch({"id": pa.array([1, 2, 3], pa.int64()), "name": names})])


@pytest.mark.parametrize(
    ("policy", "stored", "said"),
    [
        (TextPolicy.STRIP, ["plain", "nul", "two"], "were stripped in 2 values"),
        (TextPolicy.REPLACE, ["plain", "n\ufffdul", "two\ufffd\ufffd"], "were replaced by U+FFFD in 2 values"),
    ],
)
def test_what_is_changed_is_counted_and_said(world, admin, policy, stored, said):
    receipt = world.move(source=source(), text_policy=policy)
    admin.execute("SELECT name FROM flights ORDER BY id")
    assert [name for (name,) in admin.fetchall()] == stored
    assert receipt.repaired == {"name": 2}
    assert ("warning", f"Column name: characters that PostgreSQL cannot store {said}.") in world.recorder.lines


def test_unless_told_otherwise_the_run_ends(world, ids):
    with pytest.raises(ConnectorError, match="Column name holds a NUL character in 2 values"):
        world.move(source=source())
    assert ids() is None
