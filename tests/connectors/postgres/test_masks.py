"""Masked and renamed columns at the destination: nothing anywhere has a value of them, and rows stay what they are."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from psycopg2 import sql

from connectors import column_rules, comparing, transfer
from connectors.base import NeverStop
from connectors.checks import Check, CheckKind
from connectors.column import Column
from connectors.column_rules import ColumnRule
from connectors.errors import ConnectorError, Held, NewGeneration
from connectors.modes import Guard, Refresh, WriteDisposition, WriteMode
from connectors.preflight import look_ahead
from connectors.quarantine import QuarantineRule
from connectors.reading import ReadRequest
from connectors.target_options import Index, PartitionUnit, TargetOptions
from connectors.writing import Fence
from tests.connectors.columns.test_masking import KEY, tag
from tests.connectors.memory import MemorySource, PartedSource
from tests.connectors.postgres.test_staged import StagedRun

COLUMNS = (Column("id", "INT64"), Column("email", "STRING"), Column("day", "DATE"))
RULES = {"Email": ColumnRule(mask="hmac", name="Person"), "id": ColumnRule(name="number")}
NUMBERS = (1, 2, 3)


def rows(*ids: int, suffix: str = "@secret.example") -> pa.RecordBatch:
    emails = [None if i == 3 else f"p{i}{suffix}" for i in ids]
    days = pa.array([20_000 + i for i in ids], pa.int32()).cast(pa.date32())
    return pa.record_batch({"id": pa.array(ids, pa.int64()), "email": pa.array(emails), "day": days})


def stored(admin: Any, columns: str = 'number, "Person"') -> list[Any]:
    admin.execute(f"SELECT {columns} FROM flights ORDER BY 1")
    return admin.fetchall()


def everything(admin: Any) -> str:
    """All that the database has, in all its tables, and what PostgreSQL knows of their columns."""
    admin.execute(
        "SELECT table_schema, table_name FROM information_schema.tables"
        " WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
    )
    texts = []
    for name in [*admin.fetchall(), ("pg_catalog", "pg_stats")]:
        admin.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(*name)))
        texts += [text for (text,) in admin.fetchall()]
    return "\n".join(texts)


def move(world: Any, *ids: int, disposition: str = "replace", rules: Any = RULES, **options: Any) -> transfer.Receipt:
    options = {"mask_key": KEY, "expected": COLUMNS, **options}
    source = options.pop("source", None) or MemorySource([rows(*ids)], COLUMNS)
    return world.move(disposition=disposition, source=source, rules=rules, **options)


@pytest.mark.parametrize("disposition", ["replace", "append", "merge"])
def test_nothing_at_the_destination_or_in_the_log_has_a_value(world: Any, admin: Any, disposition: str) -> None:
    masks = [tag("p1@secret.example"), tag("p2@secret.example"), None]
    for _ in range(2):
        receipt = move(world, *NUMBERS, disposition=disposition)
        assert set(stored(admin)) == set(zip(NUMBERS, masks, strict=True))
        told = everything(admin) + world.recorder.text() + str(receipt.to_json())
        assert "secret.example" not in told
        assert KEY not in told
    said = "renamed: id as number, email as Person; masked: Email (HMAC-SHA256, in hexadecimal digits)."
    assert said in world.recorder.text()


def test_a_merge_by_a_masked_key_knows_its_rows_again(world: Any, admin: Any) -> None:
    rule = {"email": ColumnRule(mask="hmac_base64")}
    changed = MemorySource([rows(2, 1, 4)], COLUMNS)
    move(world, 1, 2, disposition="merge", key=("email",), rules=rule)
    receipt = move(world, disposition="merge", key=("EMAIL",), source=changed, rules=rule)
    assert (receipt.changes.inserted, receipt.changes.unchanged, receipt.changes.updated) == (1, 2, 0)
    assert [number for number, _ in stored(admin, "id, email")] == [1, 2, 4]


def test_the_key_of_a_unique_index_partitions_and_a_dependent_go_by_the_new_names(world: Any, admin: Any) -> None:
    form = TargetOptions(("id", "day"), (Index(("Email",)),), partition_column="day", partition_unit=PartitionUnit.YEAR)
    rules = {**RULES, "day": ColumnRule(name="when")}
    move(world, *NUMBERS, form=form, rules=rules)
    admin.execute("CREATE VIEW late AS SELECT * FROM flights")
    receipt = move(world, 2, 3, 4, form=form, rules=rules, key=("id", "day"))
    assert (receipt.method, receipt.changes.deleted, receipt.changes.unchanged) == ("in_place", 1, 2)
    admin.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'flights' ORDER BY 1")
    made = " ".join(text for (text,) in admin.fetchall())
    assert '(number, "when")' in made
    assert '("Person")' in made


def test_a_cursor_that_is_renamed_still_says_what_is_newer(world: Any, admin: Any) -> None:
    rules = {"day": ColumnRule(name="as_of")}
    move(world, 1, disposition="merge", cursor="day", rules=rules)
    older = rows(1).set_column(2, "day", pa.array([19_000], pa.int32()).cast(pa.date32()))
    receipt = move(world, disposition="merge", cursor="day", rules=rules, source=MemorySource([older], COLUMNS))
    assert receipt.changes.stale == 1
    assert len(stored(admin, "as_of")) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("day", "both be called"),
        ("DAY", "both be called"),
        ("é" * 32, "64 bytes"),
        ("ctid", "for itself"),
        (" ", "empty"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_a_row_is_read(world: Any, name: str, said: str) -> None:
    told = look_ahead(COLUMNS, {"id": {"name": name}})
    assert said in next(plan.error for plan in told.columns if plan.name in ("id", "day") and plan.error)
    rules, errors = column_rules.from_json({"id": {"name": name}})
    source = MemorySource([rows(1)], COLUMNS)
    if not errors:
        with pytest.raises(ConnectorError, match=said):
            move(world, source=source, rules=rules)
    assert source.reads == 0


def test_what_is_held_is_masked_and_published_without_the_key(world: Any, admin: Any) -> None:
    run, guard = uuid.uuid4(), Guard()
    move(world, *NUMBERS)
    with pytest.raises(Held):
        move(world, 1, run=run, guard=guard)
    assert "secret.example" not in everything(admin)
    world.publish_held(run)
    assert stored(admin) == [(1, tag("p1@secret.example"))]


def test_rows_that_are_put_aside_and_rows_of_a_failed_check_are_masked(world: Any, admin: Any) -> None:
    bad = rows(1, 2).append_column("note", pa.array(["a\0", "b"]))
    source = MemorySource([bad], (*COLUMNS, Column("note", "STRING")))
    receipt = move(world, source=source, expected=(), quarantine=QuarantineRule(is_on=True))
    assert receipt.quarantined == {"note: nul_character": 1}
    assert tag("p1@secret.example") in everything(admin)
    assert "secret.example" not in everything(admin)
    check = Check(CheckKind.ACCEPTED, "known", ("email",), values=("nobody",))
    with pytest.raises(Held) as held:
        move(world, 2, checks=(check,))
    told = f"{held.value} {world.recorder.results} {everything(admin)} {world.recorder.text()}"
    assert tag("p2@secret.example") in told
    assert "secret.example" not in told


@dataclass
class Parts(StagedRun):
    """A run in parts with masks; `key` is what the connection has now."""

    key: str = KEY

    def request(self, fence: Fence) -> transfer.TransferRequest:
        mode = WriteMode(WriteDisposition(self.disposition), ("id",) if self.disposition == "merge" else ())
        read = ReadRequest(table="a.b.c")
        return transfer.TransferRequest(fence.owner, read, self.world.target, mode, rules=RULES, mask_key=self.key)


@pytest.fixture
def parts(world: Any) -> Parts:
    return Parts(world, PartedSource([[rows(1)], [rows(2, 3)]], COLUMNS), "merge")


def test_parts_are_masked_by_whoever_loads_them(world: Any, admin: Any, parts: Parts) -> None:
    parts.plan()
    parts.load(0)
    parts.load(1)
    assert "secret.example" not in everything(admin)
    assert KEY not in everything(admin)
    parts.publish()
    assert [number for number, _ in stored(admin)] == [1, 2, 3]
    assert stored(admin)[1][1] == tag("p2@secret.example")


@pytest.mark.parametrize("loaded", [1, 2])
def test_a_key_that_is_changed_under_way_starts_a_new_generation(parts: Parts, loaded: int) -> None:
    parts.plan()
    for part in range(loaded):
        parts.load(part)
    parts.key = KEY[::-1]
    with pytest.raises(NewGeneration, match="key for masks was changed"):
        parts.load(1) if loaded == 1 else parts.publish()


def test_a_comparison_counts_what_is_masked_and_shows_none_of_it(world: Any, admin: Any) -> None:
    destination, source = world.destination(), MemorySource([rows(*NUMBERS)], COLUMNS)
    move(world, source=source, key=("id",))
    admin.execute("""UPDATE flights SET "Person" = NULL, day = day + 1 WHERE number = 1""")

    def compared() -> comparing.Comparison:
        published = destination.published(world.target)
        request = comparing.ComparisonRequest(
            ReadRequest(table="a.b.c"), world.target, WriteMode(WriteDisposition.REPLACE, ("id",)), rules=RULES
        )
        return comparing.compare(source, destination, request, published, log=world.recorder.log, stop=NeverStop())

    found = compared()
    assert not found.agrees
    assert "email" in found.counted
    assert "id" not in found.counted
    assert "secret.example" not in str(found.to_json()["columns"])
    with destination.comparing(world.target, stop=NeverStop()) as side:
        keyed = comparing._keyed(found)
        (row,) = side.rows(keyed, [key for key, _ in side.hashes(keyed, ())][:1])
    shown = dict(zip([column.name for column in keyed.columns], row.texts, strict=True))
    assert shown["email"] in (None, "masked")


def test_a_name_that_is_ruled_no_more_goes_with_the_next_table(world: Any, admin: Any) -> None:
    move(world, *NUMBERS)
    move(world, *NUMBERS, rules={})
    assert [i for i, _ in stored(admin, "id, email")] == [1, 2, 3]
    admin.execute("SELECT * FROM flights LIMIT 0")
    assert [column.name for column in admin.description] == ["id", "email", "day"]


def test_a_column_that_is_renamed_by_hand_is_kept_under_its_new_name(world: Any, admin: Any) -> None:
    move(world, 1, disposition="merge", rules={})
    admin.execute("ALTER TABLE flights RENAME COLUMN day TO as_of")
    rules = {"day": ColumnRule(name="as_of")}
    receipt = move(world, 1, 2, disposition="merge", rules=rules, fingerprint="g", refresh=Refresh.KEEP)
    assert (receipt.changes.inserted, receipt.changes.unchanged) == (1, 1)
    admin.execute("SELECT * FROM flights LIMIT 0")
    assert [column.name for column in admin.description] == ["id", "email", "as_of"]


def test_a_masked_column_that_is_gone_or_retyped_is_followed_as_others_are(world: Any, admin: Any) -> None:
    move(world, 1, disposition="merge")
    numbers = rows(2).set_column(1, "email", pa.array([42], pa.int64()))
    other = (COLUMNS[0], Column("email", "INT64"), COLUMNS[2])
    with pytest.raises(ConnectorError, match="STRING"):
        move(world, disposition="append", source=MemorySource([numbers], other), rules={})
    move(world, disposition="merge", source=MemorySource([numbers], other))
    assert stored(admin)[-1] == (2, tag("42"))
    move(world, disposition="merge", source=MemorySource([rows(3).drop_columns("email")], COLUMNS[::2]))
    assert stored(admin)[-1] == (3, None)


def test_a_masked_column_that_may_have_another_name_now_stops_the_run(world: Any, admin: Any) -> None:
    move(world, 1, disposition="merge")
    moved = rows(2).rename_columns(["id", "mail", "day"])
    source = MemorySource([moved], (COLUMNS[0], Column("mail", "STRING"), COLUMNS[2]))
    with pytest.raises(ConnectorError, match="no longer has the column email") as refused:
        move(world, disposition="merge", source=source)
    assert (refused.value.code, refused.value.field, source.reads) == ("column_rule", "email", 0)
    rules = {"id": RULES["id"], "mail": ColumnRule(mask="hmac")}
    move(world, disposition="merge", source=source, rules=rules, fingerprint="g", refresh=Refresh.KEEP)
    assert "secret.example" not in everything(admin)
    assert stored(admin, "number, mail")[-1] == (2, tag("p2@secret.example"))
