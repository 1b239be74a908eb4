"""A run by rules for columns: what is skipped is not there, what is retyped is, and again with the next run."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from connectors.column import Column
from connectors.column_rules import ColumnRule
from connectors.errors import ConnectorError
from connectors.modes import WriteDisposition, WriteMode
from tests.connectors.memory import MemorySource

COLUMNS = (Column("id", "INT64"), Column("name", "STRING"), Column("tags", "STRING", repeated=True))
RULES = {"ID": ColumnRule(type="integer"), "name": ColumnRule(skip=True), "tags": ColumnRule(type="varchar(3)[]")}


def source(*ids: int) -> MemorySource:
    rows = pa.record_batch(
        {
            "id": pa.array(ids, pa.int64()),
            "name": pa.array([f"row {i}" for i in ids]),
            "tags": pa.array([["a", None, "b"] for _ in ids]),
        }
    )
    return MemorySource([rows], COLUMNS)


def stored(admin: Any) -> list[Any]:
    admin.execute("SELECT to_jsonb(flights)::text FROM flights ORDER BY id")
    return [text for (text,) in admin.fetchall()]


@pytest.mark.parametrize(
    "mode",
    [WriteMode(WriteDisposition.REPLACE), WriteMode(WriteDisposition.MERGE, ("id",))],
    ids=lambda mode: mode.disposition.value,
)
def test_a_table_holds_what_the_rules_say_and_so_does_the_next_run(world: Any, admin: Any, mode: WriteMode) -> None:
    for _ in range(2):
        world.move(disposition=mode.disposition, source=source(1, 2), key=mode.key, rules=RULES, expected=COLUMNS)
        assert stored(admin) == ['{"id": 1, "tags": ["a", null, "b"]}', '{"id": 2, "tags": ["a", null, "b"]}']
    admin.execute(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'flights'::regclass AND attnum > 0"
    )
    assert [type_ for (type_,) in admin.fetchall()] == ["integer", "character varying(3)[]"]
    said = "Columns not read: name; stored by a rule: id as integer, tags as character varying(3)[]."
    assert ("info", said) in world.recorder.lines


def test_a_value_that_does_not_fit_leaves_the_target_as_it_was(world: Any, admin: Any) -> None:
    world.move(source=source(1), rules=RULES)
    with pytest.raises(ConnectorError) as caught:
        world.move(source=source(2**31), rules=RULES)
    assert (caught.value.code, caught.value.field) == ("value_out_of_range", "id")
    assert stored(admin) == ['{"id": 1, "tags": ["a", null, "b"]}']


def test_appending_after_a_rule_changed_is_refused_before_a_row_is_read(world: Any) -> None:
    world.move(source=source(1), rules=RULES)
    again = source(2)
    with pytest.raises(ConnectorError) as caught:
        world.move(disposition="append", source=again, rules={**RULES, "ID": ColumnRule(type="text")})
    assert caught.value.code == "schema_incompatible"
    assert "column id is integer, and is to be text" in caught.value.message
    assert again.reads == 0


def test_a_rule_for_a_column_that_is_gone_ends_the_run(world: Any) -> None:
    with pytest.raises(ConnectorError) as caught:
        world.move(source=source(1), rules={"gone": ColumnRule(type="text")})
    assert (caught.value.code, caught.value.field) == ("column_rule", "gone")


def test_a_document_that_is_none_is_refused_with_its_column(world: Any) -> None:
    with pytest.raises(ConnectorError) as caught:
        world.move(source=source(1), rules={"name": ColumnRule(type="jsonb")})
    assert (caught.value.code, caught.value.field) == ("bad_value", "name")


def test_a_document_is_no_merge_key(world: Any) -> None:
    with pytest.raises(ConnectorError) as caught:
        world.move(disposition="merge", source=source(1), key=("name",), rules={"name": ColumnRule(type="jsonb")})
    assert (caught.value.code, caught.value.field) == ("key_type", "merge_key")
    assert "its rule stores it as jsonb" in caught.value.message
